"""Means and covariances of features, streamed: memory does not grow with the number of images.
Gaussians only; what they are compared by is in distances.py."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

ROWS = 1024  # rows a matrix product: small batches are gathered until there are as many
PARTS = 8  # column blocks of the covariance, of which only the upper triangle is computed: 9/16 of the work


class Moments(NamedTuple):
    """Mean and covariance of features."""

    mean: Tensor  # (F,) float64
    covariance: Tensor  # (F,F) float64, unbiased


class StreamedMoments:
    """Mean and unbiased covariance of features that arrive in batches of any size, in any order.

    Sums of y = x - c and of y y^T in float64, c the mean of the first rows to arrive, so that nothing cancels where
    the mean is far from 0 (Chan, Golub & LeVeque 1983, sec. 1, shifted data):

        mean = c + sum y / N,    covariance = (sum y y^T - N (mean - c) (mean - c)^T) / (N - 1)

    Holds one (F,F) matrix and ROWS rows, whatever N is.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiting = 0  # rows in the buffer that are not in the sums yet

    def update(self, features: Tensor) -> Self:
        """features (n,F), on the device where the sums are to be. Raises ValueError for another F and for values that
        are not finite."""
        if features.ndim != 2:
            raise ValueError(f"features of shape {tuple(features.shape)}: must be (N, F)")
        if len(features) == 0:
            return self
        if self.count == 0:
            self._begin(features)
        if features.shape[1] != len(self._shift):
            raise ValueError(
                f"{features.shape[1]} features after {len(self._shift)}: all must come from one extractor"
            )
        for part in features.split(ROWS):
            room = ROWS - self._waiting
            for rows in (part[:room], part[room:]):
                end = self._waiting + len(rows)
                torch.sub(rows, self._shift, out=self._buffer[self._waiting : end])
                self._waiting = end
                if end == ROWS:
                    self._flush()
        self.count += len(features)
        return self

    @property
    def moments(self) -> Moments:
        """Of all rows so far. Raises ValueError for fewer than 2."""
        if self.count < 2:
            raise ValueError(f"{self.count} rows of features: must be at least 2")
        self._flush()
        offset = self._sum / self.count
        upper = self._products.addr(offset, offset, alpha=-self.count).triu_()
        covariance = upper + upper.triu(1).T
        return Moments(self._shift + offset, covariance.div_(self.count - 1))

    def _begin(self, features: Tensor) -> None:
        self._shift = features[:ROWS].double().mean(0)
        width = features.shape[1]
        self._sum = torch.zeros_like(self._shift)
        self._products = self._sum.new_zeros(width, width)  # only the blocks on and above the diagonal
        self._buffer = self._sum.new_empty(ROWS, width)

    def _flush(self) -> None:
        y = self._buffer[: self._waiting]
        sums = y.sum(0)
        if not sums.isfinite().all():
            raise ValueError("features contain values that are not finite")
        self._sum += sums
        step = max(-(-y.shape[1] // PARTS), 64)  # narrower blocks cost more than they save
        for start in range(0, y.shape[1], step):
            end = start + step
            self._products[start:end, start:].addmm_(y[:, start:end].T, y[:, start:])
        self._waiting = 0


def moments(features: Tensor) -> Moments:
    """features (N,F) -> mean and unbiased covariance. Raises ValueError for fewer than 2 rows or values that
    are not finite."""
    return StreamedMoments().update(checked(features)).moments


def checked(features: Tensor) -> Tensor:
    """The features, if they are a set that can be measured."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features of shape {tuple(features.shape)}: must be (N, F) with N >= 2")
    if not features.isfinite().all():
        raise ValueError("features contain values that are not finite")
    return features
