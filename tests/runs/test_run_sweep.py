"""Sweeps of whole runs, and the results folders that they fill: planned, told apart, carried out once, recorded."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unclip.cli import main
from unclip.config import rules
from unclip.config.compose import many
from unclip.config.problems import Problems
from unclip.files import write_json
from unclip.runs import cells, pipeline, process, whole
from unclip.runs.results import RECORD, Results, digest
from unclip.runs.store import Run

# In the place of a whole run: its record and one number; a failure for decoder.seed=1 unless it is tried again.
JOB = """
import json, sys, time
from pathlib import Path
from unclip.runs.results import Results
folder, signature, record, words = sys.argv[1:]
results = Results(Path(folder), signature)
with results.lock():
    results.mark("running", signature=signature, error=None)
    with open("started", "a") as file:
        file.write(words + "\\n")
    time.sleep(0.1)
    if "decoder.seed=1" in words and "retry=true" not in words:
        results.mark("failed", error="decoder: first\\nit broke")
        sys.exit(1)
    Path(folder, "metrics.json").write_text('{"fd": {"value": 2.5}, "nll": {"value": 5.0}}')
    Path(folder, "pipeline.json").write_text(record)
    results.mark("finished", seconds=1.0, elapsed=60.0, metrics={"fd": 2.5, "nll": 5.0})
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which whole runs are quick; the overrides of those started are lines of its file `started`."""
    monkeypatch.chdir(tmp_path)
    known = functools.cache(
        lambda overrides, planned=whole.planned: planned(list(overrides))
    )  # composed once
    monkeypatch.setattr(whole, "planned", lambda overrides: known(tuple(overrides)))

    def start(*arguments: str, more: dict[str, str] | None = None, **options: Any) -> Any:
        assert arguments[:2] == ("unclip", "run")
        asked = whole.planned([o for o in arguments[2:] if o != "retry=true"])
        words = [str(asked.results.folder), asked.results.signature, json.dumps(asked.record)]
        command = [sys.executable, "-c", JOB, *words, " ".join(arguments[2:])]
        return subprocess.Popen(command, **options)

    monkeypatch.setattr(process, "start_child", start)
    return tmp_path


def started(folder: Path) -> list[str]:
    path = folder / "started"
    return path.read_text().splitlines() if path.exists() else []


def test_it_is_planned_carried_out_and_recorded_and_a_failure_ends_no_other(
    jobs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = ["run", "-m", "experiment=smoke", "decoder.seed=0,1", "evaluate.guidance=1,2", "sweep=mine"]
    assert main([*request, "dry_run=true"]) == 0
    assert "4 runs: 4 new, 4 stages to train first" in capfd.readouterr().out  # CLIP, prior, two decoders
    assert not started(jobs)
    assert main([*request, "hydra.launcher.n_jobs=2"]) == 1
    out, err = capfd.readouterr()
    assert "[1] finished in 60 s: decoder.seed=0 evaluate.guidance=1" in out
    assert "2 of the sweep's runs failed" in err
    assert "it broke" in err
    assert "first" not in err
    record = json.loads((jobs / "outputs/sweeps/mine.json").read_text())
    assert record["verb"] == "run"
    assert record["axes"] == {"decoder.seed": ["0", "1"], "evaluate.guidance": ["1", "2"]}
    assert [c["state"] for c in record["cells"]] == ["finished", "finished", "failed", "failed"]
    for cell in record["cells"]:
        assert whole.planned(cell["overrides"]).results.folder == Path(cell["folder"])
    assert len({c["folder"] for c in record["cells"]}) == 4, "they differ in a request, not only in a stage"

    assert main(request) == 1
    assert len(started(jobs)) == 4, "finished is skipped, failed is left"
    assert main([*request, "retry=true"]) == 0
    assert sorted("decoder.seed=1" in line for line in started(jobs)[4:]) == [True, True]
    assert "4 runs: 4 done" in capfd.readouterr().out


def test_a_launcher_that_goes_cell_by_cell_leaves_the_record_too(jobs: Path) -> None:
    request = ["run", "-m", "experiment=smoke", "decoder.schedule=glob([cosine_s*,sigmoid])", "sweep=mine"]
    assert main([*request, "hydra/launcher=basic"]) == 0
    record = json.loads((jobs / "outputs/sweeps/mine.json").read_text())
    schedules = ["cosine_shifted", "sigmoid"]
    assert record["axes"] == {"decoder.schedule": schedules}
    assert [c["state"] for c in record["cells"]] == ["finished"] * 2
    for cell, schedule in zip(record["cells"], schedules, strict=True):
        assert f"decoder.schedule={schedule}" in cell["overrides"]


def test_every_value_is_checked_before_anything_starts(
    jobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["decoder.schedule=linear,cosin", "evaluate.guidance=1,-1", "nothing=3"]
    assert main(["run", "-m", "experiment=smoke", *wrong]) == 2
    err = capsys.readouterr().err
    assert "decoder: schedule = cosin: no such option; nearest: cosine" in err
    assert "evaluate: guidance = -1: must satisfy guidance >= 0" in err
    assert "nothing = 3: no stage has this key" in err
    assert main(["run", "-m", "experiment=smoke", "results=here", "seed=0,1"]) == 2
    assert "results = here: a sweep's runs have a folder each" in capsys.readouterr().err
    assert main(["run", "-m", "experiment=smoke", "decoder.optim.lr=interval(0,1)"]) == 2
    assert "has no list of values" in capsys.readouterr().err
    assert not started(jobs)


def test_what_is_wrong_with_several_stages_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "gpus", lambda: 0)
    with pytest.raises(Problems) as wrong:
        whole.planned(["experiment=smoke", "trainer=gpu", "prior.optim.lr=-1"])
    first, second = map(str, wrong.value.problems)
    assert first.startswith("clip, prior, decoder: trainer.accelerator = gpu: this machine has no CUDA GPU")
    assert second.startswith("prior: optim.lr = -1")


def test_results_are_told_apart_by_whatever_changes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as kept:
        for verb in cells.REQUESTS["run"]:
            kept.enter_context(many(verb))
        plain = whole.planned(["experiment=smoke"])
        for same in (
            "evaluate.batch_size=7",
            "sample.accelerator=cpu",
            "sweep=x",
            "retry=true",
            "evaluate.k=5",
        ):
            assert whole.planned(["experiment=smoke", same]).results == plain.results, same
        for other in ("evaluate.guidance=1", "sample.per_prompt=2", "seed=1", "prior.sampler.steps=3"):
            assert whole.planned(["experiment=smoke", other]).results.folder != plain.results.folder, other
    without = {**plain.record, "evaluate": {k: v for k, v in plain.record["evaluate"].items() if k != "k"}}
    assert digest(without) == plain.results.signature, "a key at its default moves nothing: it may come later"


def test_the_states_of_a_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = whole.planned(["experiment=smoke", "results=here"])
    results, other = (
        asked.results,
        whole.planned(["experiment=smoke", "results=here", "evaluate.n=16"]).results,
    )
    assert results.state == "new"
    with results.lock():
        results.mark("running", signature=results.signature)
        assert results.state == other.state == "live"
    assert results.state == "interrupted"
    assert other.state == "new", "what another request has left there is not its own"
    results.mark("failed", error="it broke")
    assert results.state == "failed"
    write_json(results.folder / RECORD, asked.record)
    assert results.state == "finished"
    assert other.state == "new"
    (results.folder / "status.json").write_text("{")
    (cell,) = cells.plan([["experiment=smoke", "results=here"]], [], verb="run")
    assert cell.state == "failed"
    assert "status.json is not readable" in str(cell.error)


def test_results_of_another_request_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = whole.planned(["experiment=smoke", "results=here"])
    made.results.mark("finished", signature=made.results.signature, command="unclip run experiment=smoke")
    write_json(made.results.product, made.record)
    before = {path.name: path.read_bytes() for path in made.results.folder.iterdir()}
    for more in ([], ["dry_run=true"]):
        assert main(["run", "experiment=smoke", "results=here", "seed=4", *more]) == 2
        assert capsys.readouterr().err.splitlines()[1:] == [
            "  results = here: holds the results of another request (unclip run experiment=smoke): "
            "another folder, or remove here/pipeline.json to have them overwritten"
        ]
    assert {path.name: path.read_bytes() for path in made.results.folder.iterdir()} == before
    assert not started(tmp_path)
    assert main(["run", "experiment=smoke", "results=here", "dry_run=true"]) == 0, "its own"
    made.results.product.write_text("{")
    assert main(["run", "experiment=smoke", "results=here", "seed=4", "dry_run=true"]) == 0, "nothing whole"


def test_who_types_it_twice_is_told_and_a_child_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "WAIT_SECONDS", 0.05)
    asked = whole.planned(["experiment=smoke"])
    script = "import sys, time; from pathlib import Path; from unclip.runs.store import Run\n"
    script += "run = Run(Path(sys.argv[1]))\nwith run.lock():\n run.mark('running')\n print(flush=True)\n"
    script += " while not Path('go').exists(): time.sleep(0.05)\n run.mark('failed', error='it broke')"
    script = script.replace(
        "run.mark('running')", f"run.mark('running', signature='{asked.results.signature}')"
    )
    command = [sys.executable, "-c", script, str(asked.results.folder)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    assert main(["run", "experiment=smoke"]) == 2
    assert f"is being made by process {other.pid}: wait for it, or stop it" in capsys.readouterr().err
    monkeypatch.setenv(process.WAIT, "1")
    sleep = time.sleep

    def once(seconds: float) -> None:
        if seconds == process.WAIT_SECONDS:  # refused the lock
            (tmp_path / "go").touch()
        sleep(seconds)

    monkeypatch.setattr(pipeline.time, "sleep", once)
    assert main(["run", "experiment=smoke"]) == 1, "what has just failed is not tried again at once"
    assert "it broke" in capsys.readouterr().err
    other.wait()


def test_a_failing_stage_is_named_in_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (step, *_), results = (asked := whole.planned(["experiment=smoke"])).steps, asked.results

    def fails(*arguments: str, **options: Any) -> int:
        Run(step.run.folder).mark("failed", error="first\nout of memory")
        return 1

    monkeypatch.setattr(process, "run_child", fails)
    assert main(["run", "experiment=smoke"]) == 1
    assert results.state == "failed"
    assert results.status["error"] == "clip: out of memory"
    monkeypatch.setattr(process, "run_child", lambda *a, **o: -9)
    step.run.mark("running")
    assert main(["run", "experiment=smoke"]) == 1
    assert results.state == "interrupted", "killed: it goes on when it is typed again"


@pytest.mark.slow
def test_two_parents_deliver_each_cell_once(unclip: Callable[..., Any], tmp_path: Path) -> None:
    request = [
        "run",
        "-m",
        "experiment=smoke",
        "evaluate.guidance=1,2",
        "hydra.launcher.n_jobs=2",
        "sweep=mine",
    ]
    command = [sys.executable, "-m", "unclip", *request]
    options: dict[str, Any] = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    parents = [subprocess.Popen(command, text=True, **options) for _ in range(2)]
    for parent in parents:
        output, _ = parent.communicate(timeout=230)
        assert parent.returncode == 0, output
        assert "2 done" in output
    said = "".join(p.read_text() for p in tmp_path.glob("outputs/smoke/run-*/log.txt"))
    assert said.count("M parameters, from the start") == 3, (
        "CLIP, prior and decoder: each once for both cells"
    )
    record = json.loads((tmp_path / "outputs/sweeps/mine.json").read_text())
    for cell in record["cells"]:
        results = Results(Path(tmp_path / cell["folder"]), cell["signature"])
        assert results.state == "finished"
        assert {"fd", "prompt_consistency"} <= results.status["metrics"].keys()
        words = (results.folder / "log.txt").read_text()
        assert words.count("sampling: 64/64") <= 2, "the samples and the evaluation's, once each"
