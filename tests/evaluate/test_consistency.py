"""Agreement with prompts, overall and by caption, and classes kept through a round trip."""

import pytest
import torch
from torch.nn.functional import one_hot

from unclip.evaluate.consistency import class_kept, prompt_consistency


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
