"""Agreement with prompts, overall and by caption, and classes kept through a round trip."""

import pytest
import torch
from torch.nn.functional import one_hot

from unclip.evaluate.consistency import class_kept, confusion, inception_style_score, prompt_consistency


def verdicts(*classes):
    return one_hot(torch.tensor(classes), 4).double() - 0.5


def test_by_caption_and_overall():
    # captions 0 and 2 both ask for class 1; caption 1 is not asked for
    result = prompt_consistency(
        verdicts(1, 1, 2, 1, 3),
        torch.tensor([1, 1, 1, 1, 3]),
        torch.tensor([0, 0, 0, 2, 3]),
        ["a", "b", "c", "d"],
    )
    assert result.overall == pytest.approx(4 / 5)
    assert result.per_caption == pytest.approx({"a": 2 / 3, "c": 1.0, "d": 1.0})
    assert list(result.per_caption) == ["a", "c", "d"]
    assert result.counts == {"a": 3, "c": 1, "d": 1}


def test_overall_is_the_mean_over_pictures_weighted_by_the_counts():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100, 4, generator=generator)
    captions = torch.randint(0, 4, (100,), generator=generator)
    result = prompt_consistency(logits, captions, captions, list("abcd"))
    weighted = sum(result.per_caption[c] * result.counts[c] for c in "abcd") / 100
    assert result.overall == pytest.approx(weighted)
    assert 0.1 < result.overall < 0.4  # chance, for verdicts that know nothing


def test_round_trip():
    before = verdicts(0, 1, 2, 3)
    assert class_kept(before, before * 7) == 1
    assert class_kept(before, verdicts(0, 1, 3, 2)) == 0.5


def test_rows_must_match():
    with pytest.raises(ValueError, match=r"\[2, 3\] rows"):
        class_kept(verdicts(0, 1), verdicts(0, 1, 2))
    with pytest.raises(ValueError, match="no pictures"):
        class_kept(verdicts(0)[:0], verdicts(0)[:0])


def test_confusion_counts_what_was_asked_against_what_is_seen():
    counts = confusion(verdicts(1, 1, 2, 0, 3), torch.tensor([1, 1, 1, 0, 3]))
    expected = torch.tensor([[1, 0, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    assert torch.equal(counts, expected)
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(100, 4, generator=generator), torch.arange(100) % 4
    overall = prompt_consistency(logits, labels, labels, list("abcd")).overall
    assert confusion(logits, labels).trace() / 100 == pytest.approx(overall)
    with pytest.raises(ValueError, match="labels from 0 to 4: must be from 0 to 3"):
        confusion(verdicts(1, 2), torch.tensor([0, 4]))


def test_the_inception_style_score_is_torch_fidelitys_and_has_its_ends():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * torch.randn(500, 7, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits, splits=1)["inception_score_mean"]
    assert inception_style_score(logits) == pytest.approx(theirs, rel=1e-12)
    sharp = 1000 * torch.eye(7).repeat(5, 1)
    assert inception_style_score(sharp) == pytest.approx(7)  # every class, each surely
    assert inception_style_score(sharp[:1].repeat(9, 1)) == pytest.approx(1)  # one class only
    assert inception_style_score(torch.zeros(9, 7)) == pytest.approx(1)  # no idea
