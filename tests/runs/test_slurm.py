"""Sweeps as jobs of a cluster: what a run asks for; and, marked slurm, a real one with DDP, requeue and failure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import SMALL
from tests.runs import slurm_here

from unclip.config.problems import Problems
from unclip.runs.cluster_job import Layout, layout
from unclip.runs.launchers import Joblib
from unclip.runs.sweep import plan

SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=test", "hydra.launcher.timeout_min=10"]
Command = Callable[..., subprocess.CompletedProcess[str]]


def trainer(devices: Any = 1, num_nodes: int = 1, accelerator: str = "auto") -> dict[str, Any]:
    return {"devices": devices, "num_nodes": num_nodes, "accelerator": accelerator}


@pytest.mark.parametrize(
    ("asked", "settings", "wanted"),
    [
        (trainer(), {}, Layout(nodes=1, tasks=1, gpus=None)),
        (trainer(4, 2, "gpu"), {}, Layout(nodes=2, tasks=4, gpus=4)),
        (trainer(4, 1, "gpu"), {"gres": "gpu:a100:4"}, Layout(nodes=1, tasks=4, gpus=None)),
        (trainer("auto", 1, "gpu"), {"gpus_per_node": 8}, Layout(nodes=1, tasks=8, gpus=8)),
        (trainer([0, 1], 1, "cpu"), {"tasks_per_node": 2}, Layout(nodes=1, tasks=2, gpus=None)),
    ],
)
def test_a_job_has_a_process_a_device(
    asked: dict[str, Any], settings: dict[str, Any], wanted: Layout
) -> None:
    assert layout(asked, settings, given=set(settings)) == wanted


@pytest.mark.parametrize(
    ("asked", "settings", "said"),
    [
        (trainer(2), {"tasks_per_node": 1}, "hydra.launcher.tasks_per_node = 1: trainer.devices = 2"),
        (trainer(1, 2), {"nodes": 4}, "hydra.launcher.nodes = 4: trainer.num_nodes = 2"),
        (trainer(1), {"gpus_per_node": 8}, "hydra.launcher.gpus_per_node = 8: trainer.devices = 1"),
        (trainer("auto"), {}, "trainer.devices = auto: must be known before the job starts"),
    ],
)
def test_what_contradicts_is_one_line(asked: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Problems) as refused:
        layout(asked, settings, given=set(settings))
    assert len(refused.value.problems) == 1
    assert said in str(refused.value)


def test_a_login_node_needs_no_gpu_and_joblib_takes_no_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unclip.config.rules.gpus", lambda: 0)
    request = [*SMALL["prior"], "trainer=gpu"]
    (here,) = plan([request], [])
    assert "this machine has no CUDA GPU" in str(here.error)
    (there,) = plan([request], [], also=["hydra/launcher=submitit_slurm"])
    assert there.error is None
    (two,) = plan([[*SMALL["prior"], "trainer=ddp_cpu"]], [], also=["hydra/launcher=joblib"])
    with pytest.raises(
        Problems, match=r"trainer\.devices = 2: joblib's workers cannot start further processes"
    ):
        Joblib({"n_jobs": 2}, [two])


# --- a real one ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    if why := slurm_here.missing():
        pytest.fail(why)
    with slurm_here.slurm() as environment:
        yield {**os.environ, **environment, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def train(cluster: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "unclip", "train", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=tmp_path, env=cluster, stdout=pipe, stderr=pipe, text=True)

    return start


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, out + err
    return out, err


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights.safetensors")


@pytest.mark.slurm
def test_a_sweep_of_four_jobs_of_which_one_is_requeued_midway(
    train: Callable[..., subprocess.Popen[str]], cluster: dict[str, str], tmp_path: Path
) -> None:
    request = [*SMALL["prior"], "trainer.max_steps=400", "callbacks.checkpoint.every_n_steps=20"]
    axes = ["-m", "schedule=linear,cosine", "seed=0,1"]
    sweep = train(*request, *axes, *SLURM)
    deadline = time.monotonic() + 120
    while not (begun := list(tmp_path.glob("outputs/default/*/checkpoint.ckpt"))):
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    hit = begun[0].parent
    job = (hit / "slurm-job").read_text()
    subprocess.run(["scontrol", "requeue", job], env=cluster, check=True)
    out, _ = finish(sweep)
    assert "4 done" in out
    log = next(tmp_path.glob(f"outputs/sweeps/hydra/.submitit/*/{job}_0_log.out")).read_text()
    assert "interrupted, saved" in log
    assert "going on from its checkpoint" in log
    (path,) = tmp_path.glob("outputs/sweeps/*.json")
    cells = json.loads(path.read_text())["cells"]
    assert [c["state"] for c in cells] == ["finished"] * 4
    assert len({c["signature"] for c in cells}) == 4

    again, _ = finish(train(*request, *axes, *SLURM))
    assert "4 runs: 4 done" in again
    assert "job " not in again, "what is finished is not submitted again"

    cell = next(c for c in cells if c["signature"] == hit.name)
    alone = [o for o in cell["overrides"] if not o.startswith(("paths.", "sweep="))]
    finish(train(*alone, "paths.outputs=alone"))
    (undisturbed,) = (tmp_path / "alone" / "default").iterdir()
    assert undisturbed.name == hit.name
    a, b = weights(undisturbed), weights(hit)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slurm
def test_two_tasks_of_a_job_are_the_two_ranks_of_a_run(
    train: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    request = [*SMALL["decoder"], "model.dropout=0", "trainer.max_steps=4"]
    two = ["-m", "trainer=ddp_cpu", "paths.outputs=two", *SLURM]
    out, _ = finish(train(*request, *two))
    assert "1 done" in out
    finish(train(*request, "trainer=cpu", "paths.outputs=one"))
    (a,), (b,) = ([p.parent for p in (tmp_path / n).glob("default/*/config.yaml")] for n in ("one", "two"))
    assert a.name == b.name
    assert len(list(tmp_path.glob("two/sweeps/hydra/.submitit/*/*_log.out"))) == 2, "a log a task"
    for name, weight in weights(a).items():
        torch.testing.assert_close(weights(b)[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.slurm
def test_what_fails_there_is_said_here(train: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    _, err = finish(train("-m", *SMALL["prior"], *SLURM, "hydra.launcher.partition=none"), status=2)
    assert "invalid partition specified: none" in err
    _, err = finish(train("-m", *SMALL["prior"], *SLURM, "trainer.accelerator=mps"), status=1)
    assert "1 of the sweep's runs failed" in err
    assert "MPS" in err
    assert "Traceback" not in err
    shutil.rmtree(tmp_path / "outputs")
