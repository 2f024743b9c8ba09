"""How long commands take before they do anything, from the shell: help, a wrong request, the first training step."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from unclip.bench.machine import described
from unclip.bench.measure import Contest, Way, looped

CPU = torch.device("cpu")
SMALL = ("experiment=smoke/decoder", "clip=random", "trainer.max_steps=1", "trainer.limit_val_batches=0")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Each command in a process of its own, beside what Python and the libraries take by themselves."""
    contest = Contest(CPU, rounds=request["rounds"], seconds=0.0, counts=False, peaks=False)
    with tempfile.TemporaryDirectory() as folder:
        for name, note, command in commands(folder):
            contest.enter(partial(process, name, note, command))
        measured = contest.measured()
    title = "From the command to its end"
    return {"machine": described(CPU), "tables": [{"title": title, "unit": "s", "alone": True, **measured}]}


def commands(folder: str) -> list[tuple[str, str, Callable[[], list[str]]]]:
    """Name, target and command line; each training is one that was never run before."""
    unclip, trained = [sys.executable, "-m", "unclip"], iter(range(10**9))

    def first_step() -> list[str]:
        return [*unclip, "train", *SMALL, f"seed={next(trained)}", f"paths.outputs={folder}"]

    return [
        ("unclip --help", "target 1", lambda: [*unclip, "--help"]),
        (
            "unclip train, a wrong key",
            "target 2",
            lambda: [*unclip, "train", "stage=decoder", "schedul=linear"],
        ),
        ("unclip train, one step", "to its weights; target 10", first_step),
        ("python", "nothing", lambda: [sys.executable, "-c", ""]),
        ("python, import torch", "", lambda: [sys.executable, "-c", "import torch"]),
        ("python, import torch and lightning", "", lambda: [sys.executable, "-c", "import torch, lightning"]),
    ]


def process(name: str, note: str, command: Callable[[], list[str]]) -> Way:
    """A way whose step is a process, from start to end."""

    def run() -> None:
        subprocess.run(command(), capture_output=True, check=False)

    return looped(name, run, CPU, note=note)
