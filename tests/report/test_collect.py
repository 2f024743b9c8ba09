"""From files to cells: what is grouped, what is named, what state it is in, and that nothing is written or removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.report.left_by_runs import cell, record, results, sweep_of_runs, train_run

from unclip.config.problems import Problems
from unclip.report import measures
from unclip.report.collect import collect
from unclip.report.settings import cost, differing, stages_that_differ


def test_a_sweep_of_training_runs_becomes_cells_over_seeds_named_by_what_varies(tmp_path: Path) -> None:
    outputs, cells = tmp_path / "outputs", []
    for schedule in ("linear", "cosine"):
        for seed in (10, 9):
            config = {"schedule": {"_target_": schedule}, "optim": {"lr": 0.001}, "seed": seed}
            metrics = {"val/fd_n500": 20.0 + seed, "val/loss": 0.1}
            run = train_run(outputs / "default" / f"{schedule}{seed}", config, metrics=metrics)
            cells.append(cell(run, schedule=schedule, optim__lr="1e-3", seed=seed))
    found = collect([record(outputs, cells)])
    assert [c.name for c in found.cells] == ["linear", "cosine"]
    assert found.axes == {"schedule": ["linear", "cosine"]}
    assert found["linear"].seeds("val/fd_n500") == {"9": 29.0, "10": 30.0}
    assert found.seeds("val/fd_n500")["cosine"] == {9: 29.0, 10: 30.0}
    assert differing(found) == {"schedule._target_": {"linear": ["linear"], "cosine": ["cosine"]}}
    assert measures.shown(found.present) == ["val/fd_n500", "val/loss"]


def test_numbers_are_named_with_their_key_and_ambiguous_names_in_full(tmp_path: Path) -> None:
    def names(*values: dict[str, str]) -> list[str]:
        path = record(tmp_path, [{**cell(None, "new"), "values": one} for one in values])
        return [c.name for c in collect([path]).cells]

    assert names({"optim.lr": "0.1", "model": "clip/small"}, {"optim.lr": "0.2", "model": "clip/base"}) == [
        "lr=0.1 small",
        "lr=0.2 base",
    ]
    assert names({"a.on": "true"}, {"a.on": "false"}) == ["on=true", "on=false"]
    assert names({"m": "clip/small"}, {"m": "prior/small"}) == ["m=clip/small", "m=prior/small"]


def test_states_are_those_of_the_folders_and_errors_their_last_line(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    failed = train_run(
        outputs / "e" / "failed", state="failed", error="a long story\nValueError: loss is nan"
    )
    cut = train_run(outputs / "e" / "cut", state="running", metrics={"val/loss": 1.0})
    (cut / ".lock").touch()
    damaged = train_run(outputs / "e" / "damaged")
    (damaged / "status.json").write_text('{"state": "fini')
    cells = [
        cell(failed, "live", schedule="a"),  # the record is older than the folder
        cell(cut, "live", schedule="b"),
        cell(None, "failed", "schedule = nope: no such option", schedule="c"),
        cell(outputs / "e" / "later", "new", schedule="d"),
        cell(damaged, "finished", schedule="e"),
        cell(outputs / "e" / "gone", "finished", schedule="f"),
    ]
    found = collect([record(outputs, cells)])
    assert {c.name: c.states for c in found.cells} == {
        "a": "1 failed",
        "b": "1 interrupted",
        "c": "1 failed",
        "d": "1 not run yet",
        "e": "1 unreadable",
        "f": "1 not run yet",
    }
    assert found["a"].errors == [("", "ValueError: loss is nan")]
    assert found["c"].errors == [("", "schedule = nope: no such option")]
    assert "gone is not there" in found["f"].errors[0][1]
    assert not found.present, "what is not finished has no values"
    (note,) = found.notes
    assert "status.json is not readable as JSON" in note
    assert (damaged / "status.json").read_text() == '{"state": "fini'


def test_results_folders_are_compared_by_all_their_stages(tmp_path: Path) -> None:
    path = sweep_of_runs(tmp_path / "outputs", {"linear": [3.0, 3.2], "cosine": [2.0, 2.1]})
    found = collect([path])
    assert found["cosine"].seeds("fd") == {"0": 2.0, "1": 2.1}
    assert found["cosine"].estimate("fd").mean == pytest.approx(2.05)
    assert list(differing(found)) == ["decoder.schedule.name"]
    assert stages_that_differ(found, differing(found)) == ["decoder"]
    assert cost(found["linear"]) == {
        "seconds": "120",
        "steps": "clip 100, decoder 100",
        "parameters": "3.00M",
        "device": "cpu",
    }


def test_the_device_is_the_one_it_ran_on_and_how_many(tmp_path: Path) -> None:
    config = {"trainer": {"accelerator": "auto", "devices": 4}}
    trial = collect([train_run(tmp_path / "r", config, device="NVIDIA H100")]).trials[0]
    assert trial.device == "4 x NVIDIA H100"


def test_a_moved_copy_of_the_outputs_is_read_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_of_runs(Path("outputs"), {"a": [1.0], "b": [2.0]})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs").rename(tmp_path / "elsewhere" / "outputs")
    found = collect([Path("elsewhere/outputs/sweeps/sweep.json")])
    assert found["a"].seeds("fd") == {"0": 1.0}
    assert found["a"].trials[0].seconds == 120


def test_loose_runs_that_differ_only_in_the_seed_are_one_cell(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "demo"
    for schedule in ("linear", "cosine"):
        for seed in (0, 1):
            clip = train_run(folder / f"c{schedule}{seed}x", {"seed": seed, "stage": {"name": "clip"}})
            config = {"schedule": {"_target_": schedule}, "seed": seed, "clip": clip.name}
            command = f"unclip train stage=decoder schedule={schedule} seed={seed} clip={clip.name}"
            train_run(folder / f"d{schedule}{seed}", config, metrics={"val/loss": seed}, command=command)
    found = collect(sorted(folder.glob("d*")))
    assert {c.name: c.seeds("val/loss") for c in found.cells} == {
        "linear": {"0": 0.0, "1": 1.0},
        "cosine": {"0": 0.0, "1": 1.0},
    }


def test_settings_of_upstream_stages_name_cells_too_but_not_the_runs_that_they_stand_on(
    tmp_path: Path,
) -> None:
    for objective in ("x0", "v"):
        run = train_run(tmp_path / f"prior-{objective}", {"objective": {"name": objective}, "seed": 0})
        folder = results(tmp_path / "outputs" / objective, {"fd": 1.0}, {"prior": run})
        command = (
            f"unclip run 'prior.objective={objective}' clip={objective} prior.seed=0 results=r{objective}"
        )
        (folder / "status.json").write_text(json.dumps({"command": command}))
    assert [c.name for c in collect([tmp_path / "outputs"]).cells] == ["v", "x0"]


def test_a_folder_of_results_is_its_results_and_not_their_stages(tmp_path: Path) -> None:
    sweep_of_runs(tmp_path / "outputs", {"a": [1.0], "b": [2.0]})
    found = collect([tmp_path / "outputs"])
    assert sorted(t.metrics["fd"] for t in found.trials) == [1.0, 2.0]


def test_several_sources_keep_their_cells_apart(tmp_path: Path) -> None:
    one = sweep_of_runs(tmp_path / "one", {"a": [1.0], "b": [2.0]})
    run = results(tmp_path / "alone", {"fd": 5.0}, {"decoder": train_run(tmp_path / "r")})
    two = record(tmp_path / "two", [cell(run, cell="a", seed=0)], name="second")
    found = collect([one, two])
    assert [c.name for c in found.cells] == ["a (sweep)", "b", "a (second)"]
    assert "judged in a report of its record alone" in found.notes[0]


def test_what_was_not_measured_or_trained_alike_is_said(tmp_path: Path) -> None:
    runs = [train_run(tmp_path / "r0"), train_run(tmp_path / "r1", step=200)]
    cells = [
        cell(results(tmp_path / f"run{n}", {"fd": {"value": 3.0, "n": n}}, {"decoder": run}), cell=str(n))
        for n, run in zip((500, 1000), runs, strict=True)
    ]
    alike, steps = collect([record(tmp_path, cells)]).notes
    assert "fd was not measured alike" in alike
    assert "N = 500" in alike
    assert "N = 1000" in alike
    assert "not trained for equal steps" in steps


def test_paths_that_hold_nothing_are_named_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text('{"cells": 3}')
    (tmp_path / "cut.json").write_text('{"cells": [')
    names = ("empty", "other.json", "cut.json", "none")
    with pytest.raises(Problems) as raised:
        collect([tmp_path / name for name in names])
    lines = [str(p).removeprefix(f"{tmp_path}/") for p in raised.value.problems]
    assert lines[0] == "empty: holds no run and no results of one"
    assert lines[1] == "other.json is no record of a sweep: it has no list of cells"
    assert lines[2].startswith("cut.json is not readable as JSON")
    assert lines[3].startswith("none: there is no such file or folder; give a sweep's record")


def test_damaged_metrics_are_named_and_left_where_they_are(tmp_path: Path) -> None:
    path = sweep_of_runs(tmp_path / "outputs", {"a": [1.0, 1.1], "b": [2.0, 2.2]})
    broken = tmp_path / "outputs" / "demo" / "run-01" / "metrics.json"
    broken.write_text("{")
    found = collect([path])
    assert found["a"].states == "1 finished, 1 unreadable"
    assert f"{broken} is not readable as JSON" in found.notes[0]
    assert broken.read_text() == "{"
    pipeline = tmp_path / "outputs" / "demo" / "run-10" / "pipeline.json"
    pipeline.write_text(json.dumps({"stages": ["clip"]}))
    assert "pipeline.json has stages = ['clip'], which must be dict" in collect([path])["b"].errors[0][1]


def test_what_is_better_is_known_in_one_place() -> None:
    assert measures.measure("fd").better == measures.measure("val/fd_n500").better == "lower"
    assert (
        measures.measure("prdc.recall").better == measures.measure("val/caption_accuracy").better == "higher"
    )
    assert measures.measure("prior.diversity").better == measures.measure("val/unheard_of").better == ""
    assert measures.measure("val/fd_n500").label == "Frechet distance, N = 500"
    assert (
        measures.measure("val/consistency_n200").better == measures.measure("attributes").better == "higher"
    )
    assert measures.shown(["val/loss", "attributes", "fd"]) == ["fd", "attributes", "val/loss"]
    assert measures.best("fd", {"a": 2.0, "b": 1.0, "c": float("nan")}) == "b"
    assert measures.best("prdc.recall", {"a": 2.0, "b": 1.0}) == "a"
    assert measures.best("fd", {"a": 2.0, "b": 2.0}) is None


def test_dotted_paths_reach_every_number_and_a_mapping_means_its_value() -> None:
    flat = measures.flat({"fd": {"value": 3, "n": 500, "extractor": "x"}, "prdc": {"floor": {"recall": 0.9}}})
    assert flat == {"fd": 3.0, "fd.n": 500.0, "prdc.floor.recall": 0.9}
    assert measures.resolved("fd.value", flat) == "fd"
    assert measures.resolved("fd_n500", ["val/fd_n500"]) == "val/fd_n500"
    assert measures.near("fid", ["fd", "nll"]) == "; nearest: fd; possible: fd, nll"
