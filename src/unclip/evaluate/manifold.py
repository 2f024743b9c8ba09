"""Neighbours in feature space: precision, recall, density and coverage, and the nearest training images.
Distances between points, exact and in blocks of bounded memory; no distributions are fitted here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded

ENTRIES = 2**24  # of a distance matrix at a time: 128 MiB
TIE = 1e-12  # squared distances as close as this, relative to the largest squared length, are rounding apart


class Prdc(NamedTuple):
    """How two sets of features cover one another; all but density from 0 to 1."""

    precision: float  # part of the fakes within the real images' neighbourhoods
    recall: float  # part of the real images within the fakes' neighbourhoods
    density: float  # neighbourhoods of real images that a fake lies in, in units of k: may exceed 1
    coverage: float  # part of the real images with a fake in their neighbourhood


@bounded
def prdc(real: Tensor, fake: Tensor, k: Annotated[int, "k >= 1"] = 5) -> Prdc:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1-2), density and coverage (Naeem et al. 2020,
    eq. 3-4) of features real (N,F) and fake (M,F).

    The neighbourhood of a point is the closed ball as far as the k-th nearest other point of its own set: all four
    depend on k, N and M, so state them. Sets of equal size and distribution have a coverage of about 1 - 2^-k.
    Raises ValueError where a set has no k other points.
    """
    mean = _centre(real, fake)
    if k >= min(len(real), len(fake)):
        raise ValueError(f"k = {k}: must be less than the samples of either set, {len(real)} and {len(fake)}")
    tie = TIE * max(_reach(x, mean) for x in (real, fake))
    # k + 1 neighbours in its own set: the first is the point itself
    radius_real, radius_fake = (nearest(x, x, k + 1)[0][:, k].square() + tie for x in (real, fake))
    precise, recalled, covered = (
        torch.zeros_like(r, dtype=torch.bool) for r in (radius_fake, *[radius_real] * 2)
    )
    pairs = 0
    for of_fake, of_real, distances in _blocks(fake, real, mean):
        inside = distances <= radius_real[of_real]
        precise[of_fake] |= inside.any(1)
        covered[of_real] |= inside.any(0)
        pairs += int(inside.sum())
        recalled[of_real] |= (distances <= radius_fake[of_fake].unsqueeze(1)).any(0)
    return Prdc(_mean(precise), _mean(recalled), pairs / (k * len(fake)), _mean(covered))


@bounded
def nearest(
    queries: Tensor, references: Tensor, count: Annotated[int, "count >= 1"] = 1
) -> tuple[Tensor, Tensor]:
    """The `count` nearest rows of references (M,F) to each row of queries (N,F) -> Euclidean distances in float64 and
    indices, (N,count) each, nearest first; equal rows are at distance 0 exactly. Raises ValueError for more than there
    are."""
    if count > len(references):
        raise ValueError(f"count = {count}: must be at most the number of references, {len(references)}")
    mean = _centre(references, queries)
    best = mean.new_full((len(queries), count), torch.inf)
    indices = torch.zeros(len(queries), count, dtype=torch.long, device=mean.device)
    for of_queries, of_references, distances in _blocks(queries, references, mean):
        here = distances.topk(min(count, distances.shape[1]), largest=False)
        candidates = torch.cat([best[of_queries], here.values], dim=1)
        rows = torch.cat([indices[of_queries], here.indices + of_references.start], dim=1)
        best[of_queries], kept = candidates.topk(count, largest=False)
        indices[of_queries] = rows.gather(1, kept)
    for part in range(0, len(queries), step := max(ENTRIES // (count * queries.shape[1]), 1)):
        of_queries = slice(part, part + step)
        # again, without the cancellation in |x|^2 + |y|^2 - 2 x y
        apart = queries[of_queries].double().unsqueeze(1) - references[indices[of_queries]].double()
        best[of_queries], order = apart.norm(dim=2).sort(dim=1, stable=True)
        indices[of_queries] = indices[of_queries].gather(1, order)
    return best, indices


def _centre(first: Tensor, second: Tensor) -> Tensor:
    """The mean of the first: moved by it, distances stay and the cancellation in them shrinks."""
    for features in (first, second):
        if features.ndim != 2 or len(features) == 0 or not features.isfinite().all():
            raise ValueError(f"features of shape {tuple(features.shape)}: must be (N, F), N >= 1, all finite")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{first.shape[1]} and {second.shape[1]} features: both sets must come from the same extractor"
        )
    return first.mean(0, dtype=torch.float64)


def _blocks(a: Tensor, b: Tensor, mean: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """The squared distances of (N,F) to (M,F) block by block: rows of a, rows of b, (rows of a, rows of b) float64."""
    wide = max(min(ENTRIES // b.shape[1], len(b)), 1)
    high = max(ENTRIES // max(wide, b.shape[1]), 1)
    for left in range(0, len(b), wide):
        y = _moved(b[left : left + wide], mean)
        lengths = y.square().sum(1)
        for top in range(0, len(a), high):
            x = _moved(a[top : top + high], mean)
            squared = x.square().sum(1).unsqueeze(1) + lengths
            squared.addmm_(x, y.T, alpha=-2).clamp_min_(0)
            yield slice(top, top + high), slice(left, left + wide), squared


def _reach(x: Tensor, mean: Tensor) -> float:
    """The largest squared distance from the mean."""
    rows = max(ENTRIES // x.shape[1], 1)
    return max(_moved(part, mean).square().sum(1).max().item() for part in x.split(rows))


def _moved(x: Tensor, mean: Tensor) -> Tensor:
    return x.double() - mean


def _mean(hits: Tensor) -> float:
    return hits.double().mean().item()
