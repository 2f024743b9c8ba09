"""Sweeps: what is planned, skipped, tried again and recorded; killed anywhere and by several parents, each run once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import SMALL

from unclip.cli import main
from unclip.runs import cells, process, workers
from unclip.runs.store import Run
from unclip.runs.upstream import request, resolve

CELLS = ["stage=prior", "data=synthetic", "clip=random", "logger=none"]
# In the place of a training: seconds and a loss, a failure for seed 1 unless it is tried again, a crash for seed 2.
JOB = """
import sys, time
from pathlib import Path
from unclip.runs.store import Run
run, seed, retry = Run(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3] == "True"
with run.lock():
    run.mark("running", error=None)
    (Path("started") / f"{time.monotonic_ns()}-{seed}").write_text(sys.argv[4])
    time.sleep(0.2)
    if seed == 2:
        sys.exit("boom")
    if seed == 1 and not retry:
        run.mark("failed", error="first line\\nit broke")
        sys.exit(1)
    run.weights.touch()
    run.mark("finished", seconds=60.0, metrics={"val/loss": 0.5 + seed, "val/fd_n8": 3.0})
"""


def of(overrides: list[str]) -> tuple[Run, dict[str, Any]]:
    composed = request(overrides)
    config = resolve(composed)[0]
    return Run.of(config, composed.experiment), config


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which jobs are quick; what was started is in its folder `started`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "started").mkdir()

    def start(*arguments: str, more: dict[str, str] | None = None, **options: Any) -> Any:
        run, config = of(list(arguments[2:]))
        run.prepare({**config, "experiment": "default"}, " ".join(arguments))
        words = [str(run.folder), str(config["seed"]), str(config["retry"]), str(more)]
        return subprocess.Popen([sys.executable, "-c", JOB, *words], **options)

    monkeypatch.setattr(process, "start_child", start)
    return tmp_path


def started(folder: Path) -> list[str]:
    """The seeds of the jobs, in the order of their start."""
    return [p.name.split("-")[1] for p in sorted((folder / "started").iterdir())]


def test_a_sweep_is_planned_carried_out_and_recorded_and_a_failure_ends_no_other(
    jobs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = ["train", "-m", *CELLS, "seed=0,1,2,3", "hydra.launcher.n_jobs=2"]
    assert main([*request, "dry_run=true"]) == 0
    assert "4 runs: 4 new" in capfd.readouterr().out
    assert started(jobs) == []
    assert not list(jobs.glob("outputs/sweeps/*.json"))

    assert main(request) == 1
    out, err = capfd.readouterr()
    assert sorted(started(jobs)) == ["0", "1", "2", "3"]
    assert "[1] finished in 60 s: seed=0" in out
    assert "2 done, 2 failed" in out
    assert "2 of the sweep's runs failed" in err
    assert "it broke" in err
    assert "first line" not in err
    assert "its process ended with status 1: boom" in err
    assert "seed=0,1,2,3 hydra.launcher.n_jobs=2 retry=true" in err
    (path,) = jobs.glob("outputs/sweeps/*.json")
    record = json.loads(path.read_text())
    assert record["axes"] == {"seed": ["0", "1", "2", "3"]}
    assert [c["state"] for c in record["cells"]] == ["finished", "failed", "failed", "finished"]
    for cell in record["cells"]:
        assert cell["signature"] == of(cell["overrides"])[0].signature
        assert Run(Path(cell["folder"])).config["sweep"] == record["name"]

    assert main([*request, "dry_run=true"]) == 0
    out = capfd.readouterr().out
    assert (
        "4 runs: 2 done, 1 interrupted, 1 failed; about 30 s to go" in out
    )  # one of a minute, two at a time
    assert "it broke" in out
    assert main(request) == 1
    assert started(jobs)[4:] == ["2"], "finished is skipped, failed is left, unfinished is resumed"
    assert main([*request, "retry=true"]) == 1
    assert sorted(started(jobs)[5:]) == ["1", "2"]
    assert [p.name for p in jobs.glob("outputs/sweeps/*.json")] == [path.name]
    states = [c["state"] for c in json.loads(path.read_text())["cells"]]
    assert states == ["finished", "finished", "failed", "finished"]


def test_a_run_that_another_process_trains_is_waited_for_and_a_damaged_status_is_named(
    jobs: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.1)
    live, _ = of([*CELLS, "seed=0"])
    script = "import sys, time; from pathlib import Path; from unclip.runs.store import Run\n"
    script += (
        "run, begun = Run(Path(sys.argv[1])), Path(sys.argv[2])\nwith run.lock():\n run.mark('running')\n"
    )
    script += " print(flush=True)\n end = time.monotonic() + 100\n"
    # until the sweep is at work
    script += " while time.monotonic() < end and not list(begun.glob('*-3')): time.sleep(0.1)\n"
    script += " run.weights.touch(); run.mark('finished')"
    words = [sys.executable, "-c", script, str(live.folder), str(jobs / "started")]
    other = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    damaged, _ = of([*CELLS, "seed=4"])
    damaged.folder.mkdir(parents=True)
    (damaged.folder / "status.json").write_text("{")
    assert main(["train", "-m", *CELLS, "seed=0,3,4", "sweep=mine"]) == 1
    out, err = capfd.readouterr()
    assert "1 new, 1 live, 1 failed" in out
    assert "status.json is not readable" in err
    assert started(jobs) == ["3"]
    record = json.loads((jobs / "outputs/sweeps/mine.json").read_text())
    assert [c["state"] for c in record["cells"]] == ["finished", "finished", "failed"]
    assert (damaged.folder / "status.json").read_text() == "{"
    other.wait()


def test_jobs_are_spread_over_the_gpus(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert main(["train", "-m", *CELLS, "seed=3,5,6,7", "hydra.launcher.jobs_per_gpu=2"]) == 0
    given = sorted(p.read_text() for p in (jobs / "started").iterdir())
    assert given == [f"{{'CUDA_VISIBLE_DEVICES': '{gpu}'}}" for gpu in "4477"]


def test_gpus_that_are_named_are_not_numbered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    asked = workers.Workers(2)

    def given(devices: Any) -> list[str] | None:
        return asked._devices(
            cells.Cell(1, [], {}, None, {"trainer": {"devices": devices, "accelerator": "gpu"}})
        )

    assert given([1]) == []
    assert given(1) == given("auto") == ["4"]
    assert given(2) == ["4", "7"]


def test_a_single_run_says_what_it_would_do(jobs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *CELLS, "dry_run=true"]) == 0
    run, _ = of(CELLS)
    assert (
        capfd.readouterr().out
        == f"new; how long it takes is known once another of its kind is finished\nrun: {run.folder}\n"
    )
    assert not run.folder.exists()
    assert main(["train", "-m", *CELLS, "seed=3,5"]) == 0
    capfd.readouterr()
    assert main(["train", *CELLS, "dry_run=true"]) == 0
    assert "new; about 60 s to go" in capfd.readouterr().out
    assert main(["train", *CELLS, "seed=3", "dry_run=true"]) == 0
    assert "done" in capfd.readouterr().out


def test_progress_is_read_from_the_last_rows(tmp_path: Path) -> None:
    from unclip.runs.board import progress

    run = Run(tmp_path)
    assert progress(run) == {}
    run.mark("running", step=40, loss=0.3)
    assert progress(run) == {"step": 40, "loss": 0.3}
    rows = [f"{step},{1 / step},\n" for step in range(1, 5000)]
    text = "step,train/loss,val/fd_n8\n" + "".join(rows) + "5000,,7.5\n50"
    (tmp_path / "metrics.csv").write_text(text)
    assert progress(run) == {"step": 5000, "loss": pytest.approx(1 / 4999), "fid": 7.5}


def test_a_thousand_finished_cells_share_their_composition(jobs: Path) -> None:
    """A hundred here: seconds, where each composed by itself would take most of a minute."""
    asked = [[*CELLS, f"seed={i}", f"schedule={s}"] for i in range(50) for s in ("linear", "cosine")]
    before = time.process_time()
    planned = list(cells.plan(asked, ["seed", "schedule"]))
    assert time.process_time() - before < 12
    for cell, overrides in zip(planned[:4], asked[:4], strict=True):
        run, config = of(overrides)
        assert cell.run == run
        assert cell.config == {**config, "experiment": "default"}
    assert len({c.run for c in planned}) == 100


@pytest.mark.slow
def test_killed_at_random_and_by_two_parents_every_cell_is_trained_once_to_the_undisturbed_weights(
    tmp_path: Path,
) -> None:
    small = [*SMALL["prior"], "trainer.max_steps=60", "callbacks.checkpoint.every_n_steps=5"]

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "unclip", "train", *small, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    request = ["-m", "seed=0,1", "hydra.launcher.n_jobs=2"]
    chance = random.Random(0)
    for number in (signal.SIGKILL, signal.SIGINT):
        parent = start(*request)
        time.sleep(chance.uniform(2, 7))
        os.kill(parent.pid, number)
        parent.communicate(timeout=60)
        assert parent.returncode in (-number, 130, 0)
    logs = {p: p.stat().st_size for p in tmp_path.glob("outputs/default/*/log.txt")}
    parents = [start(*request) for _ in range(2)]
    for parent in parents:
        output, _ = parent.communicate(timeout=120)
        assert parent.returncode == 0, output
        assert "2 done" in output
    runs = sorted(p.parent for p in tmp_path.glob("outputs/default/*/weights.safetensors"))
    assert len(runs) == 2
    for run in runs:
        said = (run / "log.txt").read_bytes()[logs.get(run / "log.txt", 0) :].decode()
        assert said.count("M parameters, ") <= 1, said
    alone = start("seed=1", "paths.outputs=alone")
    assert alone.wait(timeout=120) == 0
    (undisturbed,) = tmp_path.glob("alone/default/*/weights.safetensors")
    a, b = (
        load_file(undisturbed),
        load_file(tmp_path / "outputs/default" / undisturbed.parent.name / undisturbed.name),
    )
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_five_times_over_at_random_moments_nothing_changes(seed: int, tmp_path: Path) -> None:
    """kill -9 of the sweep's parent or of one of its jobs, while they start or in the midst of their steps: each cell
    is finished exactly once, with the weights of a sweep that nobody disturbed. Four times over: twenty kills."""
    small = [*SMALL["prior"], "trainer.max_steps=800", "callbacks.checkpoint.every_n_steps=10"]
    request = ["-m", "seed=0,1", "hydra.launcher.n_jobs=2"]

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "unclip", "train", *small, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def saved() -> set[tuple[Path, int]]:
        return {(p, p.stat().st_mtime_ns) for p in tmp_path.glob("outputs/default/*/checkpoint.ckpt")}

    chance, parent, in_steps = random.Random(seed), start(*request), 0
    for kill in range(5):
        known, patience = saved(), chance.uniform(1, 6) if kill == 0 else 60
        end = time.monotonic() + patience  # once at any moment, then after steps that were saved
        while parent.poll() is None and time.monotonic() < end and not saved() - known:
            time.sleep(0.05)
        in_steps += bool(saved() - known)
        time.sleep(chance.uniform(0, 0.5))
        runs = [Run(p.parent) for p in tmp_path.glob("outputs/default/*/status.json")]
        jobs = [run.status["pid"] for run in runs if run.state == "live"]
        if jobs and kill % 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(jobs), signal.SIGKILL)
        else:
            parent.kill()
        if not (jobs and kill % 2) or parent.poll() is not None:
            parent.communicate()
            parent = start(*request)
    assert in_steps >= 3
    output, _ = parent.communicate(timeout=200)
    if parent.returncode:  # a job of this very parent was killed: it is named, and goes on when typed again
        assert "killed by signal 9" in output
        again = start(*request)
        output, _ = again.communicate(timeout=200)
        assert again.returncode == 0, output
    alone = start(*request, "paths.outputs=alone")
    output, _ = alone.communicate(timeout=200)
    assert alone.returncode == 0, output
    undisturbed = sorted(tmp_path.glob("alone/default/*/weights.safetensors"))
    assert len(undisturbed) == len(list(tmp_path.glob("outputs/default/*/weights.safetensors"))) == 2
    for path in undisturbed:
        run = tmp_path / "outputs/default" / path.parent.name
        a, b = load_file(path), load_file(run / path.name)
        assert all(torch.equal(a[name], b[name]) for name in a)
        said = (run / "log.txt").read_text()
        assert "going on from its checkpoint" in said
        assert said.count("run: ") - said.count("interrupted, saved") == 1, "finished once"
