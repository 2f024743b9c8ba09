"""What a report says of claims, end to end from record files: planted differences are found, null ones are not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tests.report.left_by_runs import cell, record, sweep_of_runs, train_run

from unclip.config.problems import Problems
from unclip.report.collect import collect
from unclip.report.verdicts import baseline, differences, published, verdicts

CLAIMS = [{"metric": "val/fd_n500", "claim": f"{name} < base"} for name in ("planted", "null", "same")]
EFFECTS = {"base": 0.0, "planted": -2.5, "null": 0.0, "same": 0.0}


def simulated(outputs: Path, generator: random.Random, effects: dict[str, float], seeds: int = 5) -> Path:
    """A record on disk; the runs' folders are made once, their status anew each time. A part of a value is the seed's
    (sd 1), one the run's own (sd 0.5)."""
    cells = []
    common = [generator.gauss(20, 1) for _ in range(seeds)]
    for name, effect in effects.items():
        for seed in range(seeds):
            folder = outputs / "e" / f"{name}{seed}"
            if not folder.exists():
                train_run(folder, {"seed": seed})
            value = common[seed] + effect + generator.gauss(0, 0.5)
            status = {"state": "finished", "metrics": {"val/fd_n500": value}}
            (folder / "status.json").write_text(json.dumps(status))
            cells.append(cell(folder, cell=name, seed=seed))
    return record(outputs, cells, {"claims": CLAIMS, "baseline": "base"})


def test_a_planted_difference_is_found_and_null_ones_are_inconclusive(tmp_path: Path) -> None:
    generator, sweeps = random.Random(3), 60
    quiet = found = 0
    for _ in range(sweeps):
        null = collect([simulated(tmp_path, generator, dict.fromkeys(EFFECTS, 0.0))])
        quiet += all(one.verdict == "inconclusive" for one in verdicts(null))
        planted, *_ = verdicts(collect([simulated(tmp_path, generator, EFFECTS)]))
        found += planted.verdict == "reproduced"
        assert planted.verdict != "contradicted"
        assert planted.comparisons[0].difference.n == 5
    assert quiet / sweeps >= 0.95
    assert found / sweeps >= 0.90


def test_claims_of_several_metrics_are_corrected_as_one_family(tmp_path: Path) -> None:
    """fd alone is significant at 5% of one comparison, not at 5% of ten."""
    values = {"a": [1.0, 1.1, 1.2], "b": [1.5, 1.45, 2.1]}
    claim = {"metric": "fd", "claim": "a < b"}
    alone = sweep_of_runs(tmp_path / "alone", values, claims=[claim])
    (one,) = verdicts(collect([alone]))
    floors = [{"metric": "fd.floor", "claim": "a < b"}] * 9
    (first, *_) = verdicts(collect([sweep_of_runs(tmp_path / "ten", values, claims=[claim, *floors])]))
    assert first.comparisons[0].p > one.comparisons[0].p
    width = [c.comparisons[0].difference.high - c.comparisons[0].difference.low for c in (one, first)]
    assert width[1] > width[0]


def test_what_decides_nothing_says_why(tmp_path: Path) -> None:
    claims = [
        {"metric": "fd", "claim": "a < b"},
        {"metric": "fd", "claim": "a < absent"},
        {"metric": "fid", "claim": "a < b"},
        {"metric": "fd", "claim": "c < d < e"},
    ]
    values = {"a": [1.0], "b": [9.0], "c": [1.0, 1.2], "d": [1.1, 1.0], "e": [9.0, 9.1]}
    found = verdicts(collect([sweep_of_runs(tmp_path / "o", values, claims=claims)]))
    assert {one.verdict for one in found} == {"inconclusive"}
    assert found[0].why == "one seed"
    assert found[1].why == "absent is not among these cells"
    assert found[2].why.startswith("no cell has fid; nearest: fd")
    assert found[3].why.startswith("c < d: the interval spans zero")


def test_a_failed_seed_is_named_where_too_few_are_left(tmp_path: Path) -> None:
    path = sweep_of_runs(
        tmp_path / "o", {"a": [1.0, 1.1], "b": [2.0, 2.1]}, claims=[{"metric": "fd", "claim": "a < b"}]
    )
    status = {"state": "failed", "error": "ValueError: nan"}
    (tmp_path / "o" / "demo" / "run-11" / "status.json").write_text(json.dumps(status))
    (tmp_path / "o" / "demo" / "run-11" / "pipeline.json").rename(
        tmp_path / "o" / "demo" / "run-11" / "request.json"
    )
    (one,) = verdicts(collect([path]))
    assert (one.verdict, one.why) == ("inconclusive", "one seed; b: 1 finished, 1 failed")


def test_differences_are_paired_by_seed_from_the_baseline(tmp_path: Path) -> None:
    found = collect([sweep_of_runs(tmp_path / "o", {"a": [1.0, 5.0, 9.0], "b": [1.5, 5.5, 9.6]})])
    assert baseline(found) == "a"
    by = differences(found, "fd", "a")
    assert by["b"].difference.mean == pytest.approx(1.6 / 3)
    assert by["b"].difference.low > 0.3, "the seeds' own spread of 4 has cancelled"
    assert baseline(found, "b") == "b"
    with pytest.raises(Problems, match="baseline = bb: is no cell; nearest: b; possible: a, b"):
        baseline(found, "bb")


def test_published_numbers_keep_their_grade_and_stand_in_our_order(tmp_path: Path) -> None:
    table = {"metric": "FID", "on": "CIFAR-10", "grade": "S", "values": {"z": 1, "b": 3.19, "a": 2.9}}
    found = collect([sweep_of_runs(tmp_path / "o", {"a": [1.0], "b": [2.0]}, published=[table])])
    (one,) = published(found)
    assert list(one["values"]) == ["a", "b", "z"]
    assert one["means"].startswith("secondary")
