"""Distances between two sets of features: Frechet distance and kernel distance, in float64.
Features in, numbers out; where the features come from is the extractors' business."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 4096  # rows of a kernel matrix at a time


class Moments(NamedTuple):
    mean: Tensor  # (F,) float64
    covariance: Tensor  # (F,F) float64, unbiased


class KernelDistance(NamedTuple):
    value: float  # mean over the subsets
    std: float  # between the subsets


def moments(features: Tensor) -> Moments:
    """features (N,F) -> mean and unbiased covariance. Raises ValueError for fewer than 2 rows or values that
    are not finite."""
    x = _checked(features)
    mean = x.mean(0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1))


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """Squared Frechet distance of two Gaussians (Dowson & Landau 1982, eq. 4; FID: Heusel et al. 2017, eq. 6)
    -> () float64

        |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

    with tr (S1 S2)^(1/2) = |S1^(1/2) S2^(1/2)|_*, the sum of the singular values: real and free of the square
    root of a rounding error that eigenvalues of S1 S2 bring where a covariance is singular.
    """
    m1, m2 = mean1.double(), mean2.double()
    S1, S2 = covariance1.double(), covariance2.double()
    if m1.shape != m2.shape or S1.shape != S2.shape:
        raise ValueError(
            f"{tuple(m1.shape)} and {tuple(m2.shape)} features: both sets must come from the same extractor"
        )
    cross = torch.linalg.svdvals(_root(S1) @ _root(S2)).sum()
    distance = (m1 - m2).square().sum() + S1.trace() + S2.trace() - 2 * cross
    return distance.clamp_min(0)  # equal sets: rounding may fall on either side of 0


def frechet(features_a: Tensor, features_b: Tensor) -> Tensor:
    """Squared Frechet distance of Gaussians fitted to features (N,F) and (M,F) -> () float64. Its bias falls
    as 1/N: say N."""
    return frechet_distance(*moments(features_a), *moments(features_b))


def mmd2(features_a: Tensor, features_b: Tensor, normalise: bool = True) -> Tensor:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with KID's cubic kernel
    (Binkowski et al. 2018, sec. 4)

        k(x, y) = (x . y / F + 1)^3

    of features (N,F) and (M,F) -> () float64; may be negative. `normalise` scales every feature vector to
    length sqrt(F), so that k = (cos + 1)^3 and extractors of any scale can be compared.
    """
    a, b = (_lengthened(_checked(x)) if normalise else _checked(x) for x in (features_a, features_b))
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{a.shape[1]} and {b.shape[1]} features: both sets must come from the same extractor"
        )
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a) - _kernel_diagonal_sum(a)) / (n * (n - 1))
    within_b = (_kernel_sum(b, b) - _kernel_diagonal_sum(b)) / (m * (m - 1))
    return within_a + within_b - 2 * _kernel_sum(a, b) / (n * m)


def kid(
    features_a: Tensor,
    features_b: Tensor,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
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


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features of shape {tuple(features.shape)}: must be (N, F) with N >= 2")
    if not features.isfinite().all():
        raise ValueError("features contain values that are not finite")
    return features.double()


def _root(covariance: Tensor) -> Tensor:
    """Symmetric positive semi-definite S (F,F) -> its symmetric square root; eigenvalues below 0 are
    rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def _lengthened(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1) * x.shape[1] ** 0.5


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """Sum over all pairs, without ever holding the whole matrix."""
    return torch.stack([_kernel(part, y).sum() for part in x.split(BLOCK)]).sum()


def _kernel_diagonal_sum(x: Tensor) -> Tensor:
    return ((x.square().sum(1) / x.shape[1] + 1) ** 3).sum()
