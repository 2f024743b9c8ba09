"""Ablations: what is wrong is said before anything starts; cells share their seeds; the list knows what is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.runs.test_run_sweep import jobs as jobs
from tests.runs.test_run_sweep import started

from unclip.cli import main
from unclip.config.problems import Problems
from unclip.config.tree import OWN_FOLDER
from unclip.runs import ablate
from unclip.runs.ablation import cells_of, read

GOOD = """
# An ablation of two axes, for tests.
title: Schedule x objective
paper: "Anybody 2021, table 1"
overrides: [decoder.guidance=1]
axes:
  decoder.schedule: [linear, cosine]
  decoder.model.channels: [8, 16]
baseline: linear 8
seed_key: decoder.seed
metrics: [fd, nll]
budgets:
  smoke: {cells: [linear 8, cosine 16]}
  tiny: {experiment: smoke, seeds: [0], overrides: [decoder.trainer.max_steps=3]}
claims:
  - {metric: nll, claim: "cosine 16 < linear 8", note: "table 1"}
published:
  - {metric: FID, on: "CIFAR-10", grade: S, values: {cosine 16: 3.19}}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration tree of one's own with the ablation `good`."""
    folder = tmp_path / "mine" / "ablation"
    folder.mkdir(parents=True)
    (folder / "good.yaml").write_text(GOOD)
    monkeypatch.setenv(OWN_FOLDER, str(folder.parent))
    monkeypatch.chdir(tmp_path)
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["ablate", *arguments]) == 2
    return capsys.readouterr().err


def test_axes_multiply_to_named_cells_and_all_share_the_seeds(own: Path) -> None:
    assert list(cells_of(read("good"))) == ["linear 8", "linear 16", "cosine 8", "cosine 16"]
    sweep, _ = ablate.asked("good", ["budget=smoke"], ["decoder.optim.lr=1e-3"])
    assert sweep.names is not None
    assert [n["cell"] for n in sweep.names] == ["linear 8"] * 2 + ["cosine 16"] * 2
    assert [n["seed"] for n in sweep.names] == ["0", "1"] * 2
    for said, overrides in zip(sweep.names, sweep.known, strict=True):
        assert overrides[:3] == ["experiment=smoke", "decoder.guidance=1", "decoder.optim.lr=1e-3"]
        assert f"decoder.seed={said['seed']}" in overrides
        assert f"decoder.schedule={said['decoder.schedule']}" in overrides
        asked = next(o for o in overrides if o.startswith("evaluate.metrics="))
        assert {"fd", "nll", "prompt_consistency"} <= set(asked.partition("=")[2].strip("[]").split(","))
        assert "fd_infinity" not in asked, "slow, and nobody wants it"
    tiny, _ = ablate.asked("good", ["budget=tiny"], [])
    assert len(tiny.known) == 4
    assert all("decoder.trainer.max_steps=3" in overrides for overrides in tiny.known)
    assert tiny.name == "good-tiny"
    assert sweep.name.startswith("good-smoke-"), "with overrides of one's own it is another sweep"


def test_what_is_wrong_with_a_file_is_said_at_once(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = GOOD.replace("baseline: linear 8", "baseline: liner 8").replace(
        "metrics: [fd, nll]", "metrics: [fdd]"
    )
    wrong = wrong.replace("cosine 16: 3.19", "cosine 17: 3.19").replace(
        "cosine 16 < linear 8", "cosine 16 = linear 8"
    )
    (own / "wrong.yaml").write_text(wrong.replace("cells: [linear 8, cosine 16]", "cells: [x], seed: 3"))
    err = refused(["wrong"], capsys)
    assert "wrong.yaml: baseline = liner 8: is no cell; nearest: linear 8" in err
    assert "wrong.yaml: published[0] = cosine 17: is no cell; nearest: cosine 16" in err
    assert "wrong.yaml: claims[0]" in err
    assert "wrong.yaml: metrics = fdd: is no metric; nearest: fd" in err
    assert "wrong.yaml: budgets.smoke.cells = x: is no cell" in err
    assert "wrong.yaml: budgets.smoke = seed: no such key" in err
    (own / "wrong.yaml").write_text(GOOD.replace("claims:", "claim:"))
    assert "claim: no such key; nearest: claims" in refused(["wrong"], capsys)
    (own / "wrong.yaml").write_text("title: [\n")
    assert "wrong.yaml" in refused(["wrong"], capsys)
    with pytest.raises(Problems, match="is no ablation; nearest: good"):
        read("goods")


def test_what_is_wrong_with_a_request_or_a_cell_is_said_before_anything_starts(
    own: Path, jobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "budget = smok: no such budget; nearest: smoke; possible: smoke, small, full, tiny" in refused(
        ["good", "budget=smok"], capsys
    )
    assert "seeds = [1, 1]: must be a list of different" in refused(["good", "seeds=1,1"], capsys)
    err = refused(["good", "budget=smoke", "decoder.schedule=linear", "nothing=1"], capsys)
    assert "decoder.schedule: is what the cells differ in" in err
    assert "nothing = 1: no stage has this key" in err
    axis = GOOD.replace("[8, 16]", "[8, 15]").replace("cosine 16", "cosine 15")
    (own / "wrong.yaml").write_text(axis.replace("decoder.guidance=1", "decoder.modle.heads=1"))
    err = refused(["wrong", "budget=tiny"], capsys)
    assert "cell linear 15 and 1 more: decoder: model.groups = 8: must divide model.channels = 15" in err
    assert "\n  decoder: modle.heads = 1: no such key" in err, (
        "of all cells: said once, without a cell's name"
    )
    judge = GOOD.replace("metrics: [fd, nll]", "metrics: [fd, round_trip]")
    (own / "wrong.yaml").write_text(judge)
    err = refused(["wrong", "budget=smoke", "evaluate.extractor=random"], capsys)
    assert "metrics = round_trip: needs the verdicts of a classifier" in err
    assert not started(jobs)


def test_it_is_carried_out_recorded_and_listed(
    own: Path, jobs: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Path] = []
    monkeypatch.setattr(ablate, "_reported", lambda record: reported.append(record) or 0)
    request = ["ablate", "good", "budget=smoke"]
    assert main([*request, "dry_run=true"]) == 0
    assert "[3]  new  cosine 16, seed 0" in capfd.readouterr().out
    assert not started(jobs)
    assert main([*request, "n_jobs=2"]) == 1
    assert "unclip ablate good budget=smoke n_jobs=2 retry=true" in capfd.readouterr().err
    path = Path("outputs/sweeps/good-smoke.json")
    assert reported == [path]
    record = json.loads(path.read_text())
    assert record["axes"]["cell"] == ["linear 8", "cosine 16"]
    assert record["cells"][3]["values"] == {
        "cell": "cosine 16", "seed": "1", "decoder.schedule": "cosine", "decoder.model.channels": "16"
    }  # fmt: skip
    said = record["ablation"]
    assert (said["name"], said["budget"], said["baseline"]) == ("good", "smoke", "linear 8")
    assert said["claims"][0]["claim"] == "cosine 16 < linear 8"
    assert said["published"][0]["values"] == {"cosine 16": 3.19}

    assert main(["ablate", "--list"]) == 0
    row = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("good"))
    assert "2 x 2: 2 done, 2 failed" in row
    assert "4 x 3: 12 missing" in row
    assert main([*request, "retry=true"]) == 0
    assert len(started(jobs)) == 6
    (own / "good.yaml").write_text(GOOD.replace("decoder.guidance=1", "decoder.guidance=2"))
    assert main(["ablate", "--list"]) == 0
    row = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("good"))
    assert "2 x 2: 4 missing" in row, "what was run was another ablation"


@pytest.mark.slow
def test_a_smoke_ablation_from_the_command_to_its_report(own: Path, tmp_path: Path) -> None:
    assert main(["ablate", "good", "budget=tiny", "n_jobs=2"]) == 0
    record = json.loads((tmp_path / "outputs/sweeps/good-tiny.json").read_text())
    assert [c["state"] for c in record["cells"]] == ["finished"] * 4
    for cell in record["cells"]:
        measured = json.loads((Path(cell["folder"]) / "metrics.json").read_text())
        assert measured["nll"]["value"] > 0
    assert len({p.parent.name for p in tmp_path.glob("outputs/smoke/*/weights.safetensors")}) == 6
    assert (tmp_path / "outputs/reports/good-tiny/report.html").is_file()
