"""Does a picture show what was asked for: agreement of a classifier's verdicts with prompts, and with
themselves after a round trip. Works on verdicts (logits), so any classifier will do; it must not be the
network that conditions the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Consistency:
    """How often pictures show what they were asked to, from 0 to 1."""

    overall: float  # part of all pictures whose verdict is the class asked for
    per_caption: dict[str, float]  # only captions that were asked for, in their order
    counts: dict[str, int]  # pictures a caption


def prompt_consistency(
    logits: Tensor, labels: Tensor, caption_ids: Tensor, captions: Sequence[str]
) -> Consistency:
    """logits (N,classes) of the pictures, labels (N,) the class each prompt asks for, caption_ids (N,) into
    `captions`."""
    _check(logits, labels, caption_ids)
    right = logits.argmax(1) == labels
    asked = caption_ids.unique().tolist()
    return Consistency(
        overall=_mean(right),
        per_caption={captions[i]: _mean(right[caption_ids == i]) for i in asked},
        counts={captions[i]: int((caption_ids == i).sum()) for i in asked},
    )


def class_kept(before: Tensor, after: Tensor) -> float:
    """Part of the pictures whose verdict is the same before and after image -> embedding -> image; logits
    (N,classes) of both."""
    _check(before, after)
    return _mean(before.argmax(1) == after.argmax(1))


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (N,classes), labels (N,) the class each prompt asks for -> (classes, classes) counts: a row a class asked
    for, a column a verdict."""
    _check(logits, labels)
    classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())}: must be from 0 to {classes - 1}"
        )
    return torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)


def inception_style_score(logits: Tensor) -> float:
    """exp of the mean divergence of p(class | picture) from their mean (Salimans et al. 2016, sec. 4), over all
    pictures at once, by the classifier that made the logits (N,classes): from 1 to the number of classes.

    Secondary: it never sees a real image, one sharp picture a class is enough for it, and it is no Inception score
    unless the classifier is that one.
    """
    _check(logits)
    log_p = logits.double().log_softmax(1)
    log_mean = log_p.logsumexp(0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_mean)).sum(1).mean().exp().item()


def _check(logits: Tensor, *others: Tensor) -> None:
    if len(logits) == 0:
        raise ValueError("no pictures to judge")
    lengths = [len(tensor) for tensor in (logits, *others)]
    if len(set(lengths)) != 1:
        raise ValueError(f"{lengths} rows: there must be one of each a picture")


def _mean(right: Tensor) -> float:
    return right.to(torch.float64).mean().item()
