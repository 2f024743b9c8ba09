"""What a sweep costs beside its trainings: planning its cells, and the process of each."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from typing import Any

import torch

from unclip.bench.machine import described
from unclip.bench.measure import Contest, Way, looped
from unclip.bench.startup import SMALL

CPU = torch.device("cpu")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Plans of several sizes, then a sweep of the smallest trainings, new and finished."""
    with tempfile.TemporaryDirectory() as folder:
        plans = Contest(CPU, rounds=request["rounds"], seconds=0.0, counts=False, peaks=False)
        for cells in request["cells"]:
            plans.enter(partial(planned, cells, folder))
        planning = plans.measured()
        sweeps = Contest(CPU, rounds=request["rounds"], seconds=0.0, counts=False, peaks=False)
        for make in (fresh, finished):
            sweeps.enter(partial(make, request["trained"], folder))
        running = sweeps.measured()
    count = request["trained"]
    tables = [
        {"title": "`dry_run=true` of a sweep, whole command", "unit": "s", "alone": True, **planning},
        {"title": f"A sweep of {count} cells, a cell", "unit": "s", "alone": True, **running},
    ]
    return {"machine": described(CPU), "tables": tables}


def planned(cells: int, folder: str) -> Way:
    """The plan of so many cells: two axes, or seeds alone where their number is odd."""
    schedules = ("linear", "cosine")[: 2 - cells % 2]
    seeds = f"seed={','.join(map(str, range(cells // len(schedules))))}"
    overrides = [
        "-m",
        "stage=decoder",
        f"schedule={','.join(schedules)}",
        seeds,
        f"paths.outputs={folder}",
        "dry_run=true",
    ]
    return command(f"{cells:,} cells", overrides)


def fresh(cells: int, folder: str) -> Way:
    """Cells that were never trained, one step each."""
    begun = iter(range(10**9))

    def step() -> None:
        first = cells * next(begun)
        _run(_sweep(first, cells, folder))

    return looped("trained", step, CPU, items=cells, note="one step, from start to weights")


def finished(cells: int, folder: str) -> Way:
    """The same cells again."""
    _run(_sweep(10**6, cells, folder))
    return command("skipped", _sweep(10**6, cells, folder), cells, "finished before")


def command(name: str, overrides: list[str], items: int = 1, note: str = "") -> Way:
    """A way whose step is `unclip train` with these."""
    return looped(name, partial(_run, overrides), CPU, items=items, note=note)


def _sweep(first: int, cells: int, folder: str) -> list[str]:
    seeds = ",".join(map(str, range(first, first + cells)))
    return ["-m", *SMALL, f"seed={seeds}", f"paths.outputs={folder}"]


def _run(overrides: list[str]) -> None:
    """Raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "unclip", "train", *overrides], capture_output=True, check=True)
