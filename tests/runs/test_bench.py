"""`unclip bench`: both sides measured on the same features, wrong requests."""

import json

import pytest


def test_evaluation_measures_both_sides(unclip, tmp_path):
    done = unclip("bench", "evaluation", "n=300", "features=24", "batch=70", "out=bench")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert (result["n"], result["features"], result["batch"]) == (300, 24, 70)
    ours, theirs = result["unclip"], result["torchmetrics"]
    assert ours["value"] == pytest.approx(theirs["value"], rel=1e-6)
    assert ours["value"] > 0
    assert result["relative_difference"] < 1e-6
    for side in (ours, theirs):
        assert side["seconds"] == pytest.approx(side["update_seconds"] + side["distance_seconds"])
        assert 0 <= side["own_bytes"] < side["peak_bytes"]
    assert result["times_faster"] == pytest.approx(theirs["seconds"] / ours["seconds"])
    assert "300 x 2 features of 24" in done.stdout
    assert "times as fast" in done.stdout


def test_both_sides_get_the_same_features_and_the_two_sets_differ():
    import torch

    from unclip.bench.evaluation import _batches

    first, again, second = (torch.cat(list(_batches(40, 8, 16, 3, which))) for which in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.shape == second.shape == (40, 8)
    assert first.min() == second.min() == 0
    assert (first - second).abs().mean() > 0.1


def test_wrong_requests_say_what_is_possible(unclip):
    wrong = unclip("bench", "evaluatoin")
    assert wrong.returncode == 2
    assert "evaluatoin is no benchmark; nearest: evaluation; possible: evaluation" in wrong.stderr
    for arguments in ((), ("n=5",)):
        missing = unclip("bench", *arguments)
        assert missing.returncode == 2
        assert "unclip bench evaluation [full=true]" in missing.stderr
    both = unclip("bench", "evaluation", "n=1", "feature=3")
    assert both.returncode == 2
    assert "n = 1: must satisfy n >= 2" in both.stderr
    assert "feature = 3: no such key; nearest: features" in both.stderr


@pytest.mark.slow
def test_at_full_size_it_stays_below_a_gigabyte_and_ahead_of_torchmetrics(unclip, tmp_path):
    done = unclip("bench", "evaluation", "full=true", "out=bench", timeout=900)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert (result["n"], result["features"]) == (50_000, 2048)
    assert result["unclip"]["own_bytes"] < 5e8  # beside the libraries'
    assert result["unclip"]["peak_bytes"] < 1e9
    assert result["times_faster"] > 2  # more on an idle machine
    assert result["relative_difference"] < 1e-6


@pytest.mark.slow
def test_training_leaves_its_numbers_and_a_table(unclip, tmp_path):
    tiny = ["data=synthetic", "data.size=64", "data.batch_size=4", "model.channels=8", "model.caption_layers=1"]
    done = unclip("bench", "training", *tiny, "rounds=2", "seconds=0.01", "peers=[tutorial]", "out=bench")
    assert done.returncode == 0, done.stderr
    assert "batches of 4" in done.stdout
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [row["name"] for row in result["tables"][0]["rows"]] == ["unclip", "tutorial"]
    assert "| unclip |" in (tmp_path / "bench" / "bench.md").read_text()


def test_a_wrong_key_of_what_is_trained_is_named(unclip):
    wrong = unclip("bench", "training", "model.chanels=8")
    assert wrong.returncode == 2
    assert "model.chanels = 8: no such key; nearest: model.channels" in wrong.stderr
