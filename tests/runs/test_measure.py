"""A finished run that is asked for other final metrics measures its weights: the same numbers as if asked at once."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import SMALL

from unclip.cli import DONE, WRONG_REQUEST
from unclip.runs import measure, process, store
from unclip.runs.measure import lacks
from unclip.runs.store import Run

RANDOM = {"_target_": "unclip.evaluate.extractors.RandomExtractor"}


def asked(n_final: int = 8, kid: bool = False, consistency: bool = True, seed: int = 0) -> dict[str, Any]:
    fid = {"n_final": n_final, "kid": kid, "consistency": consistency}
    return {"callbacks": {"fid": fid}, "extractor": {**RANDOM, "seed": seed}}


@pytest.mark.parametrize(
    ("config", "wanting"),
    [
        (asked(), False),
        (asked(consistency=False), False),
        (asked(kid=True), True),
        (asked(seed=1), True),
        (asked(16), True),
        (asked(4, consistency=False), False),  # measured at an earlier time
        (asked(0, seed=1), False),
        ({"callbacks": {"fid": None}}, False),
        ({"callbacks": None, "extractor": RANDOM}, False),
    ],
)
def test_what_a_run_lacks(tmp_path: Path, config: dict[str, Any], wanting: bool) -> None:
    every = {
        "stage": {"name": "decoder"},
        "data": {},
        "model": {},
        "paths": {"outputs": "out", "data": "data"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(every | asked()))
    run = Run(tmp_path)
    run.mark("finished", metrics={"val/fd_n8": 1.0, "val/fd_n4": 1.0})
    assert lacks(run, config) is wanting


@pytest.mark.parametrize("child", [True, False])
def test_a_child_waits_for_whoever_measures_the_same_and_a_command_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], child: bool
) -> None:
    every = {"stage": {"name": "decoder"}, "data": {}, "model": {}, "paths": {"outputs": "out"}}
    run = Run(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(every | asked()))
    run.mark("finished", metrics={"val/fd_n8": 1.0})
    measure.ask(run, every | asked(16))
    monkeypatch.setattr(measure, "stop_at_once_when_asked", lambda: None)
    monkeypatch.setattr(store, "LOOK_SECONDS", 0.05)
    monkeypatch.setenv(process.WAIT, "1") if child else monkeypatch.delenv(process.WAIT, raising=False)
    held = run.lock()
    held.__enter__()

    def other_is_done(_: float) -> None:
        (tmp_path / measure.REQUEST).rename(tmp_path / "config.yaml")
        run.mark("finished", metrics={"val/fd_n16": 2.0, "val/consistency_n16": 0.5})
        held.__exit__(None, None, None)

    monkeypatch.setattr(
        process.time, "sleep", lambda s: other_is_done(s) if s == process.WAIT_SECONDS else None
    )
    assert measure.main(str(tmp_path)) == (DONE if child else WRONG_REQUEST)
    said = capsys.readouterr()
    assert "measured by another process meanwhile" in said.out if child else "by another process" in said.err
    if not child:
        held.__exit__(None, None, None)


def test_metrics_are_added_to_a_finished_run_without_training(
    unclip: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    few = [o for o in SMALL["decoder"] if not o.startswith("logger")]
    few += ["logger=csv", "trainer.max_steps=3"]
    more = [*few, "callbacks.fid.n_final=12", "callbacks.fid.kid=true"]
    assert unclip("train", *more).returncode == 0
    (path,) = tmp_path.glob("outputs/default/*/status.json")
    run = Run(path.parent)
    at_once, weights = run.status["metrics"], run.weights.stat().st_mtime_ns
    wanted = {k: v for k, v in at_once.items() if k.endswith("_n12")}
    assert {"val/fd_n12", "val/kid_n12"} <= wanted.keys()

    # as if it had been asked for less
    run.mark("finished", metrics={k: v for k, v in at_once.items() if k not in wanted})
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    config["callbacks"]["fid"] |= {"n_final": 8, "kid": False}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    again = unclip("train", *more)
    assert again.returncode == 0, again.stderr
    assert "trains nothing" in again.stdout
    assert again.stdout.strip().splitlines()[-1].startswith("run: ")
    assert run.status["metrics"] == pytest.approx(at_once, rel=1e-6)
    assert run.status["state"] == "finished"
    assert run.weights.stat().st_mtime_ns == weights
    with (run.folder / "metrics.csv").open() as lines:
        last = list(csv.DictReader(lines))[-1]
    assert float(last["val/kid_n12"]) == pytest.approx(wanted["val/kid_n12"], rel=1e-6)
    assert json.loads(last["step"]) == 3
    assert "nothing to do" in unclip("train", *more).stdout
