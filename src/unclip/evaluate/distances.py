"""Distances between two sets of features: Frechet distance, its limit for infinite sets, kernel distances.
Features in, numbers in float64 out; where the features come from is the extractors' business."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.evaluate.moments import Moments, StreamedMoments, checked, moments

__all__ = [
    "Extrapolation",
    "KernelDistance",
    "Moments",
    "StreamedMoments",
    "cmmd",
    "fd_infinity",
    "frechet",
    "frechet_distance",
    "kid",
    "mmd2",
    "moments",
]

ENTRIES = 2**24  # of a kernel matrix at a time: 128 MiB


class KernelDistance(NamedTuple):
    """A squared kernel distance, measured on random subsets."""

    value: float  # mean over the subsets
    std: float  # between the subsets


class Extrapolation(NamedTuple):
    """The line distance = value + slope / N through measured points."""

    value: float  # at N = infinity
    slope: float
    counts: tuple[int, ...]  # N of each point
    distances: tuple[float, ...]


class _Gaussian(NamedTuple):
    mean: Tensor  # (F,)
    root: Tensor  # (R,F), R <= F: covariance = root^T root

    @property
    def trace(self) -> Tensor:
        return self.root.square().sum()


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """Squared Frechet distance of two Gaussians (Dowson & Landau 1982, eq. 4; FID: Heusel et al. 2017, eq. 6)
    -> () float64

        |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

    With any roots S = R^T R, the eigenvalues of S1 S2 are the squared singular values of R1 R2^T, so that
    tr (S1 S2)^(1/2) = |R1 R2^T|_*, their sum: real, several times faster than eigenvalues of the product, which is not
    symmetric, and free of the square root of a rounding error that those bring where a covariance is singular.
    """
    if mean1.shape != mean2.shape or covariance1.shape != covariance2.shape:
        raise ValueError(
            f"{tuple(mean1.shape)} and {tuple(mean2.shape)} features: both sets must come from the same extractor"
        )
    return _distance(_gaussian(mean1, covariance1), _gaussian(mean2, covariance2))


def frechet(features_a: Tensor, features_b: Tensor) -> Tensor:
    """Squared Frechet distance of Gaussians fitted to features (N,F) and (M,F) -> () float64. Its bias falls
    as 1/N: say N.

    A set of fewer images than features is its own root, so that no (F,F) matrix is made for it and what
    it leaves empty is exactly empty.
    """
    _same_width(features_a, features_b)
    return _distance(_fitted(features_a), _fitted(features_b))


@bounded
def fd_infinity(
    features: Tensor,
    reference: Moments | Tensor,
    *,
    points: Annotated[int, "points >= 2"] = 15,
    smallest: Annotated[int | None, "smallest >= 2"] = None,
    seed: Annotated[int, "seed >= 0"] = 0,
) -> Extrapolation:
    """Frechet distance of infinitely many samples (FD-infinity: Chong & Forsyth 2020, sec. 3.1): the intercept of the
    least-squares line of the distance against 1/N, over `points` sizes evenly from `smallest` (None: a tenth) to all
    of features (N,F). Each size is a random subset, drawn by a generator of its own from `seed`.

    reference: features (M,F) or their moments; the bias by M itself remains. The law 1/N holds where N exceeds F by
    far. Raises ValueError where there are no more samples than in the smallest subset.
    """
    x = checked(features)
    first = smallest or max(len(x) // 10, 2)
    if first >= len(x):
        raise ValueError(f"{len(x)} samples: must be more than the smallest subset, {first}")
    counts = torch.linspace(first, len(x), points, dtype=torch.float64).round().long().unique().tolist()
    real = _gaussian(*reference) if isinstance(reference, Moments) else _fitted(reference)
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for count in counts:
        subset = torch.randperm(len(x), generator=generator)[:count].to(x.device)
        distances.append(_distance(_fitted(x[subset]), real).item())
    inverse = 1 / torch.tensor(counts, dtype=torch.float64)
    measured = torch.tensor(distances, dtype=torch.float64)
    centred = inverse - inverse.mean()
    slope = (centred @ measured / centred.square().sum()).item()
    value = measured.mean().item() - slope * inverse.mean().item()
    return Extrapolation(value, slope, tuple(counts), tuple(distances))


def mmd2(features_a: Tensor, features_b: Tensor, normalise: bool = True) -> Tensor:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with KID's cubic kernel
    (Binkowski et al. 2018, sec. 4)

        k(x, y) = (x . y / F + 1)^3

    of features (N,F) and (M,F) -> () float64; may be negative. `normalise` scales every feature vector to
    length sqrt(F), so that k = (cos + 1)^3 and extractors of any scale can be compared.
    """
    _same_width(features_a, features_b)
    a, b = (checked(x).double() for x in (features_a, features_b))
    if normalise:
        a, b = (F.normalize(x, dim=1) * x.shape[1] ** 0.5 for x in (a, b))
    return _mmd2(a, b, lambda dots: (dots / a.shape[1] + 1) ** 3, biased=False)


@bounded
def kid(
    features_a: Tensor,
    features_b: Tensor,
    *,
    subsets: Annotated[int, "subsets >= 1"] = 100,
    subset_size: Annotated[int, "subset_size >= 2"] = 1000,
    seed: Annotated[int, "seed >= 0"] = 0,
    normalise: bool = True,
) -> KernelDistance:
    """Kernel distance (KID) over random subsets without replacement, drawn by a generator of its own from
    `seed`.

    Raises ValueError where a set is smaller than `subset_size`.
    """
    smaller = min(len(features_a), len(features_b))
    if smaller < subset_size:
        raise ValueError(f"subset_size = {subset_size}: must be at most the number of samples, {smaller}")
    generator = torch.Generator().manual_seed(seed)

    def subset(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=generator)[:subset_size].to(x.device)]

    values = torch.stack([mmd2(subset(features_a), subset(features_b), normalise) for _ in range(subsets)])
    return KernelDistance(values.mean().item(), values.std(correction=0).item())


@bounded
def cmmd(
    features_a: Tensor,
    features_b: Tensor,
    *,
    sigma: Annotated[float, "sigma > 0"] = 10.0,
    biased: bool = True,
) -> Tensor:
    """CMMD (Jayasumana et al. 2024, sec. 4): 1000 times the squared maximum mean discrepancy with a Gaussian kernel

        k(x, y) = exp(-|x - y|^2 / (2 sigma^2))

    of CLIP embeddings (N,F) and (M,F), scaled to length 1 -> () float64. By default with all pairs, each with itself
    included, as the authors' code has it (Gretton et al. 2012, eq. 5): never negative, and about 2000 (1 - k)/N too
    large; `biased=False` leaves those out (eq. 3).
    """
    _same_width(features_a, features_b)
    a, b = (F.normalize(checked(x).double(), dim=1) for x in (features_a, features_b))
    # k - 1 for k, whose ones cancel: k is close to 1, and the differences are what counts
    return 1000 * _mmd2(a, b, lambda dots: torch.expm1((dots - 1) / sigma**2), biased)


# --- Gaussians -------------------------------------------------------------------------------------------------


def _fitted(features: Tensor) -> _Gaussian:
    x = checked(features)
    if len(x) > x.shape[1]:
        return _gaussian(*moments(x))
    x = x.double()
    mean = x.mean(0)
    return _Gaussian(mean, (x - mean) / (len(x) - 1) ** 0.5)


def _gaussian(mean: Tensor, covariance: Tensor) -> _Gaussian:
    """By Cholesky's root; where the covariance is singular, by the symmetric one, eigenvalues below 0 being
    rounding."""
    lower, failed = torch.linalg.cholesky_ex(covariance.double())
    if failed.item():
        values, vectors = torch.linalg.eigh(covariance.double())
        lower = vectors * values.clamp_min(0).sqrt()
    return _Gaussian(mean.double(), lower.T)


def _distance(p: _Gaussian, q: _Gaussian) -> Tensor:
    cross = torch.linalg.svdvals(p.root @ q.root.T).sum()
    distance = (p.mean - q.mean).square().sum() + p.trace + q.trace - 2 * cross
    return distance.clamp_min(0)  # equal sets: rounding may fall on either side of 0


def _same_width(a: Tensor, b: Tensor) -> None:
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"{tuple(a.shape[1:])} and {tuple(b.shape[1:])} features: both sets must come from the same extractor"
        )


# --- kernels ---------------------------------------------------------------------------------------------------


def _mmd2(a: Tensor, b: Tensor, kernel: Callable[[Tensor], Tensor], biased: bool) -> Tensor:
    """Of a kernel of dot products; with or without the pairs of a row and itself."""

    def within(x: Tensor) -> Tensor:
        total, n = _kernel_sum(x, x, kernel), len(x)
        return total / n**2 if biased else (total - kernel(x.square().sum(1)).sum()) / (n * (n - 1))

    return within(a) + within(b) - 2 * _kernel_sum(a, b, kernel) / (len(a) * len(b))


def _kernel_sum(x: Tensor, y: Tensor, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum over all pairs, without ever holding the whole matrix."""
    rows = max(ENTRIES // len(y), 1)
    return torch.stack([kernel(part @ y.T).sum() for part in x.split(rows)]).sum()
