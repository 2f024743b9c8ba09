"""The contrastive losses against loops over pairs, and how they treat images that share a caption."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from unclip.nets.contrastive import infonce, multi_positive, siglip

CAPTION = torch.tensor([2, 0, 2, 5, 0, 2])
SCALE = torch.tensor(7.0)


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    text_of = F.normalize(torch.randn(6, 4, generator=generator), dim=-1)
    return F.normalize(torch.randn(6, 4, generator=generator), dim=-1), text_of[CAPTION]


def log_softmax(logits: list[float], i: int) -> float:
    return logits[i] - math.log(sum(map(math.exp, logits)))


def test_infonce_against_a_loop(embeddings):
    image, text = embeddings
    n, s = len(image), [[7.0 * float(i @ t) for t in text] for i in image]
    rows = -sum(log_softmax(s[i], i) for i in range(n)) / n
    columns = -sum(log_softmax([s[j][i] for j in range(n)], i) for i in range(n)) / n
    assert infonce(image, text, CAPTION, SCALE).item() == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_multi_positive_against_a_loop(embeddings):
    image, text = embeddings
    distinct = sorted(set(CAPTION.tolist()))
    first = {c: CAPTION.tolist().index(c) for c in distinct}
    s = [[7.0 * float(image[i] @ text[first[c]]) for c in distinct] for i in range(6)]
    rows = -sum(log_softmax(s[i], distinct.index(int(CAPTION[i]))) for i in range(6)) / 6
    columns = 0.0
    for k, c in enumerate(distinct):
        mine = [i for i in range(6) if CAPTION[i] == c]
        column = [s[i][k] for i in range(6)]
        columns += -sum(log_softmax(column, i) + math.log(len(mine)) for i in mine) / len(mine)
    expected = (rows + columns / len(distinct)) / 2
    assert multi_positive(image, text, CAPTION, SCALE).item() == pytest.approx(expected, rel=1e-5)


def test_multi_positive_takes_a_captions_text_from_its_last_row(embeddings):
    """Rows of one caption differ by dropout, between ranks say: the choice must be the same on every device."""
    image, text = embeddings[0], F.normalize(torch.randn(6, 4), dim=-1)
    last = torch.tensor([5, 4, 5, 3, 4, 5])  # of the captions 2, 0, 2, 5, 0, 2
    torch.testing.assert_close(
        multi_positive(image, text, CAPTION, SCALE), multi_positive(image, text[last], CAPTION, SCALE)
    )


def test_siglip_against_a_loop(embeddings):
    image, text = embeddings
    total = 0.0
    for i in range(6):
        for j in range(6):
            sign = 1 if CAPTION[i] == CAPTION[j] else -1
            total += math.log1p(math.exp(-sign * (7.0 * float(image[i] @ text[j]) - 3.0)))
    assert siglip(image, text, CAPTION, SCALE, bias=-3.0).item() == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize("loss", [multi_positive, siglip])
def test_sharing_a_caption_is_not_punished(loss):
    """Perfectly sorted embeddings, each caption on four images: nothing is left to learn; InfoNCE keeps
    pushing."""
    caption = torch.arange(12) % 3
    text = torch.eye(3)[caption]
    image = text.clone().requires_grad_()
    scale = torch.tensor(100.0)
    assert loss(image, text, caption, scale, **({"bias": -50.0} if loss is siglip else {})).item() < 1e-6
    assert infonce(image, text, caption, scale).item() == pytest.approx(math.log(4), rel=1e-3)


def test_multi_positive_is_infonce_when_no_caption_repeats(embeddings):
    image, text = embeddings[0], F.normalize(torch.randn(6, 4), dim=-1)
    caption = torch.tensor([4, 1, 9, 0, 3, 7])
    torch.testing.assert_close(
        multi_positive(image, text, caption, SCALE), infonce(image, text, caption, SCALE)
    )


def test_multi_positive_does_not_depend_on_how_often_a_caption_repeats_elsewhere(embeddings):
    """Duplicating every row leaves both directions as they were: captions count once, positives share their
    weight."""
    image, text = embeddings
    twice = [torch.cat([x, x]) for x in (image, text, CAPTION)]
    once = multi_positive(image, text, CAPTION, SCALE)
    torch.testing.assert_close(multi_positive(*twice, SCALE), once)
