"""A training may end at any moment, by whatever signal and on whichever rank: typed again it goes on, and ends with the
weights of one that nobody disturbed, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import SMALL
from tests.runs.killed_jobs import DATA, EVERY_STAGE

from unclip.runs.store import Run

ROOT = Path(__file__).parent.parent.parent


def disturbed(folder: Path, stage: str, times: int, by: str = "KILL", steps: int = 30) -> dict[str, Any]:
    """What became of trainings of a stage, disturbed so many times at random moments; that they ended with the same
    weights and metrics is checked there."""
    every = ["callbacks.checkpoint.every_n_steps=3", f"trainer.max_steps={steps}"]
    asked = {"overrides": [*EVERY_STAGE[stage], *DATA, *every], "times": times, "seed": 0, "by": by}
    command = [sys.executable, "-m", "tests.runs.killed_jobs", json.dumps(asked)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["disturbed"] == times
    return found


def test_a_training_killed_or_stopped_anywhere_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    found = disturbed(tmp_path, "classifier", 4, by="KILL TERM USR1")
    assert sum(found["ended"].values()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_killed_fifty_times(tmp_path: Path, stage: str) -> None:
    """One to three minutes a stage."""
    found = disturbed(tmp_path, stage, 50)
    assert found["ended"].get("-9 interrupted", 0) > 40
    assert found["with_checkpoint"] > 25


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["clip", "decoder"])
def test_asked_to_stop_it_saves_and_leaves_as_interrupted(tmp_path: Path, stage: str) -> None:
    found = disturbed(tmp_path, stage, 16, by="TERM USR1 USR2 INT")
    statuses = {tuple(ended.split()) for ended in found["ended"]}
    assert statuses <= {("130", "interrupted"), ("0", "finished"), ("130", "finished")}
    assert found["longest"] < 10


def trained_by_two(folder: Path, *more: str) -> subprocess.Popen[str]:
    request = [*SMALL["decoder"], "trainer=ddp_cpu", "callbacks.checkpoint.every_n_steps=5", *more]
    command = [sys.executable, "-m", "unclip", "train", *request]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def soon(condition: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_of_lightnings_own_leaves_an_interrupted_run(tmp_path: Path, rank: int) -> None:
    steps = "trainer.max_steps=400"
    first = trained_by_two(tmp_path, steps)
    checkpoint = soon(lambda: list(tmp_path.glob("outputs/default/*/checkpoint.ckpt")))[0]
    (other,) = [pid for pid in children(first.pid) if "unclip" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(other if rank else first.pid, signal.SIGKILL)
    output, _ = first.communicate(timeout=60)
    soon(lambda: not Path(f"/proc/{other}").exists(), 30)
    run = Run(checkpoint.parent)
    assert run.state == "interrupted"
    if rank:
        assert "rank 1 was killed by signal 9; the same command goes on from the last checkpoint" in output
        assert first.returncode == 130
        assert "Traceback" not in output
    again = trained_by_two(tmp_path, steps)
    output, _ = again.communicate(timeout=200)
    assert again.returncode == 0, output
    assert "going on from its checkpoint" in output
    alone = trained_by_two(tmp_path, steps, "paths.outputs=alone")
    assert alone.wait(timeout=200) == 0
    (undisturbed,) = tmp_path.glob("alone/default/*/weights.safetensors")
    a, b = load_file(undisturbed), load_file(run.weights)
    assert all(torch.equal(a[name], b[name]) for name in a)
