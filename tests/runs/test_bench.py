"""`unclip bench`: both sides measured on the same features, wrong requests."""

import json

import pytest


def test_evaluation_measures_both_sides(unclip, tmp_path):
    done = unclip("bench", "evaluation", "n=300", "features=24", "batch=70", "rounds=2", "out=bench")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert (result["n"], result["features"], result["request"]["batch"]) == (300, 24, 70)
    assert result["values"]["unclip"] == pytest.approx(result["values"]["torchmetrics"], rel=1e-6)
    assert result["values"]["unclip"] > 0
    assert result["relative_difference"] < 1e-6
    whole, last = result["tables"]
    for table in (whole, last):
        ours, theirs = table["rows"]
        assert (ours["name"], theirs["name"]) == ("unclip", "torchmetrics")
        assert ours["times"] == 1
        ratios = [b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
        assert theirs["times"] == pytest.approx(sum(ratios) / 2)
    assert whole["rows"][0]["flop"] == pytest.approx(2 * 24 * 24, rel=0.5)  # an outer product a sample
    assert "2 x 300 features of 24" in done.stdout
    assert "The values differ by" in done.stdout
    assert "| torchmetrics |" in (tmp_path / "bench" / "bench.md").read_text()


def test_both_sides_get_the_same_features_and_the_two_sets_differ():
    import torch

    from unclip.bench.evaluation import batches

    first, again, second = (torch.cat(list(batches(which, 40, 8, 16, 3))) for which in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.shape == second.shape == (40, 8)
    assert first.min() == second.min() == 0
    assert (first - second).abs().mean() > 0.1


def test_wrong_requests_say_what_is_possible(unclip):
    wrong = unclip("bench", "evaluatoin")
    assert wrong.returncode == 2
    assert "evaluatoin is no benchmark; nearest: evaluation; possible: training, prior" in wrong.stderr
    for arguments in ((), ("n=5",)):
        missing = unclip("bench", *arguments)
        assert missing.returncode == 2
        assert "unclip bench: give one NAME; possible: training, prior" in missing.stderr
    both = unclip("bench", "evaluation", "n=1", "feature=3")
    assert both.returncode == 2
    assert "n = 1: must satisfy n >= 2" in both.stderr
    assert "feature = 3: no such key; nearest: features" in both.stderr


@pytest.mark.slow
def test_at_full_size_it_stays_below_half_a_gigabyte_and_ahead_of_torchmetrics(unclip, tmp_path):
    done = unclip("bench", "evaluation", "full=true", "rounds=1", "out=bench", timeout=900)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert (result["n"], result["features"]) == (50_000, 2048)
    ours, theirs = result["tables"][0]["rows"]
    assert ours["held_bytes"] + ours["step_bytes"] < 5e8
    assert theirs["times"] > 2  # more on an idle machine
    assert result["relative_difference"] < 1e-6


@pytest.mark.slow
def test_training_leaves_its_numbers_and_a_table(unclip, tmp_path):
    tiny = [
        "data=synthetic",
        "data.size=64",
        "data.batch_size=4",
        "model.channels=8",
        "model.caption_layers=1",
    ]
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


def test_every_training_of_a_request_is_checked_before_anything_is_measured():
    from unclip.config.problems import Problems
    from unclip.runs.bench import requested

    assert requested("data", ["data=synthetic"])["training"] == ["data=synthetic"]
    sampling = requested("sampling", ["sampler.steps=7"])
    assert "sampler.steps=7" in sampling["training"]
    assert "sampler.steps=15" not in sampling["training"]  # what is typed has the last word
    for name, wrong in (("data", "shares=[demo/decodr]"), ("sampling", 'prior=["experiment=demo/priro"]')):
        with pytest.raises(Problems, match="nearest"):
            requested(name, [wrong])
