"""Training as processes: two ranks equal one, only the first writes, failures are said, W&B needs no account."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import SMALL

from unclip.runs.store import Run

Command = Callable[..., subprocess.CompletedProcess[str]]


def run_folders(folder: Path) -> list[Path]:
    return sorted(p.parent for p in (folder / "outputs").glob("*/*/config.yaml"))


def gradient_norms(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as lines:
        return [float(row["train/grad_norm"]) for row in csv.DictReader(lines) if row.get("train/grad_norm")]


@pytest.mark.parametrize("stage", ["decoder", pytest.param("clip", marks=pytest.mark.slow)])
def test_two_processes_train_as_one_does(unclip: Command, tmp_path: Path, stage: str) -> None:
    request = [
        *SMALL[stage],
        "model.dropout=0",
        "trainer.max_steps=4",
        "trainer.log_every_n_steps=1",
        "logger=csv",
    ]
    one = unclip("train", *request, "trainer=cpu", "paths.outputs=one")
    assert one.returncode == 0, one.stderr
    two = unclip("train", *request, "trainer=ddp_cpu", "paths.outputs=two")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("run: ") == 1, "only rank 0 speaks"
    (a,), (b,) = ([p.parent for p in (tmp_path / n).glob("*/*/config.yaml")] for n in ("one", "two"))
    assert a.name == b.name, "the number of processes is no part of a run's signature"
    assert gradient_norms(a) == pytest.approx(gradient_norms(b), rel=1e-4)
    weights_a, weights_b = (load_file(run / "weights.safetensors") for run in (a, b))
    for name, weight in weights_a.items():
        torch.testing.assert_close(weights_b[name], weight, rtol=1e-3, atol=1e-4)
    metrics_a, metrics_b = (json.loads((run / "status.json").read_text())["metrics"] for run in (a, b))
    assert metrics_a == pytest.approx(metrics_b, rel=1e-2)


def test_a_sweep_makes_a_run_of_each_cell_and_finds_them_again(unclip: Command, tmp_path: Path) -> None:
    request = ["-m", *SMALL["prior"], "trainer.max_steps=2", "schedule=linear,cosine", "objective=x0"]
    first = unclip("train", *request)
    assert first.returncode == 0, first.stderr
    runs = run_folders(tmp_path)
    assert len(runs) == 2
    assert all((run / "weights.safetensors").is_file() for run in runs)
    again = unclip("train", *request)
    assert again.returncode == 0
    assert "2 runs: 2 done" in again.stdout
    assert "M parameters" not in again.stdout


def test_upstream_is_trained_first_and_only_data_and_paths_travel_to_it(
    unclip: Command, tmp_path: Path
) -> None:
    clip = [o for o in SMALL["clip"] if not o.startswith(("stage=", "logger", "data.batch_size"))]
    experiment = tmp_path / "mine" / "experiment" / "tiny"
    experiment.mkdir(parents=True)
    lines = ["# @package _global_", "defaults:", "  - override /stage: clip", "  - override /logger: none"]
    values = {o.split("=")[0]: o.split("=")[1] for o in clip if o.startswith("model.")}
    lines += ["model:", *(f"  {k.removeprefix('model.')}: {v}" for k, v in values.items())]
    lines += ["trainer:", "  max_steps: 2", "data:", "  batch_size: 16"]
    (experiment / "clip.yaml").write_text("\n".join(lines))
    (experiment / "prior.yaml").write_text("# @package _global_\ndefaults:\n  - override /stage: prior\n")
    own = [o for o in SMALL["prior"] if not o.startswith(("stage=", "clip="))]
    command = ["train", "--config-dir=mine", "experiment=tiny/prior", *own, "trainer.max_steps=2"]
    first = unclip(*command)
    assert first.returncode == 0, first.stderr
    assert "this prior needs its clip first" in first.stdout
    assert len(run_folders(tmp_path)) == 2
    second = unclip(*command, "seed=5", "optim.lr=0.001")
    assert second.returncode == 0, second.stderr
    assert "needs its clip" not in second.stdout, "another prior stands on the same CLIP"
    assert len(run_folders(tmp_path)) == 3
    runs = [Run(folder) for folder in run_folders(tmp_path)]
    assert sorted(run.config["stage"]["name"] for run in runs) == ["clip", "prior", "prior"]
    for run in runs:
        if run.config["stage"]["name"] == "prior":
            assert not [name for name in load_file(run.weights) if "patch" in name or "clip" in name]


def test_wandb_works_offline_with_the_signature_as_its_id(unclip: Command, tmp_path: Path) -> None:
    result = unclip(
        "train", *SMALL["decoder"], "logger=wandb", "trainer.max_steps=2", "trainer.log_every_n_steps=1"
    )
    assert result.returncode == 0, result.stderr
    (run,) = run_folders(tmp_path)
    (record,) = run.glob("wandb/offline-run-*/run-*.wandb")
    assert record.name == f"run-{run.name}.wandb"
    content = record.read_bytes()
    for word in (b"val/fd_n8", b"train/loss", b"lr-AdamW", b"default/decoder", b"samples"):
        assert word in content, word
    assert list(run.glob("wandb/offline-run-*/files/media/images/samples_*.png"))


def test_a_failure_is_one_line_and_a_status_and_may_be_tried_again(unclip: Command, tmp_path: Path) -> None:
    request = [*SMALL["decoder"], "trainer.max_steps=1", "callbacks.fid.n_final=8"]
    result = unclip("train", *request, "extractor.image_channels=3")
    assert result.returncode == 1
    assert "images of 1 channel: this random network judges images of 3 channels" in result.stderr
    assert "Traceback" not in result.stderr
    assert "unclip train: " in result.stderr
    (run,) = run_folders(tmp_path)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "failed"
    assert status["error"] in result.stderr
    assert "Traceback" in (run / "error.txt").read_text()
    again = unclip("train", *request, "retry=true")  # the same run, another extractor
    assert again.returncode == 0, again.stderr
    assert run_folders(tmp_path) == [run]
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
