"""A killed run, typed again, ends with the weights of an undisturbed one, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import SMALL

STEPS = 24
BUDGET = [f"trainer.max_steps={STEPS}", "callbacks.checkpoint.every_n_steps=5"]


def train(folder: Path, stage: str, *extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "unclip", "train", *SMALL[stage], *BUDGET, *extra]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def run_folder(folder: Path) -> Path:
    (found,) = (folder / "outputs" / "default").glob("*/config.yaml")
    return found.parent


def stop_after_checkpoint(folder: Path, process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send the signal once a checkpoint is there, before the run ends."""
    deadline = time.monotonic() + 120
    while not list(folder.glob("outputs/default/*/checkpoint.ckpt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("decoder", signal.SIGKILL),
        ("prior", signal.SIGINT),
        pytest.param("clip", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    for folder in (undisturbed, stopped):
        folder.mkdir()
    finish(train(undisturbed, stage))
    process = train(stopped, stage)
    stop_after_checkpoint(stopped, process, number)
    assert process.returncode != 0
    assert not (run_folder(stopped) / "weights.safetensors").exists()
    output = finish(train(stopped, stage))
    assert "going on from its checkpoint" in output
    a, b = (load_file(run_folder(f) / "weights.safetensors") for f in (undisturbed, stopped))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_run_is_not_trained_again_and_a_damaged_checkpoint_is_not_trained_from(
    tmp_path: Path,
) -> None:
    first = finish(train(tmp_path, "prior"))
    run = run_folder(tmp_path)
    written = (run / "weights.safetensors").stat().st_mtime_ns
    again = finish(train(tmp_path, "prior"))
    assert "nothing to do" in again
    assert (
        first.strip().splitlines()[-1]
        == again.strip().splitlines()[-1]
        == f"run: {run.relative_to(tmp_path)}"
    )
    assert (run / "weights.safetensors").stat().st_mtime_ns == written
    undisturbed = load_file(run / "weights.safetensors")

    (run / "weights.safetensors").unlink()
    (run / "checkpoint.ckpt").write_bytes(b"half a checkpoint")
    assert "damaged" in finish(train(tmp_path, "prior"))
    assert all(
        torch.equal(t, undisturbed[name]) for name, t in load_file(run / "weights.safetensors").items()
    )


def test_a_live_run_is_refused_and_a_failed_one_says_how_to_retry(tmp_path: Path) -> None:
    process = train(tmp_path, "prior", "trainer.max_steps=100000")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/default/*/checkpoint.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = train(tmp_path, "prior", "trainer.max_steps=100000")
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 2
    assert str(process.pid) in output
    process.kill()
    process.communicate()

    status = run_folder(tmp_path) / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "failed", "error": "it broke"}))
    third = train(tmp_path, "prior", "trainer.max_steps=100000")
    output, _ = third.communicate(timeout=60)
    assert third.returncode == 1
    assert "it broke" in output
    assert "retry=true" in output
