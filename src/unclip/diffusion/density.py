"""Schedules given by the density of log-SNR under uniform t: t is the probability of a larger log-SNR.
Not the weighting of a loss, and not a sampler's steps.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.process import LOG_SNR_LIMIT, Continuous, variance_preserving

RESOLUTION = 2.0**-24  # of a float32 t: what is less likely has no t of its own


class Density(Continuous):
    """lambda = mean + scale z of a symmetric z, cut off at low and high and where either tail is less than
    6e-8; a subclass gives z's tail. Variance preserving.

    The nearer tail is what is computed with, so that both ends keep their digits. ValueError: a mean outside
    low ... high.
    """

    def __init__(self, mean: float, scale: float, low: float = -LOG_SNR_LIMIT, high: float = LOG_SNR_LIMIT):
        if not low < mean < high:
            raise ValueError(f"mean = {mean}: log-SNR has its middle within {low:g} ... {high:g}")
        reach = scale * self.tail_at(torch.tensor(RESOLUTION, dtype=torch.float64)).item()
        self.mean, self.scale = mean, scale
        self.low, self.high = max(low, mean - reach), min(high, mean + reach)
        ends = torch.tensor([self.high - mean, mean - self.low], dtype=torch.float64) / scale
        self._above, self._below = self.tail(ends).tolist()  # the mass that is cut off at either end
        self._mass = 1 - self._above - self._below

    def tail(self, z: Tensor) -> Tensor:
        """P(Z > z) for z >= 0."""
        raise NotImplementedError

    def tail_at(self, p: Tensor) -> Tensor:
        """The z >= 0 with P(Z > z) = p <= 1/2."""
        raise NotImplementedError

    def level(self, t: Tensor) -> Tensor:
        """lambda(t), the quantile function."""
        t = at_least_float32(t)
        above, below = self._above + t * self._mass, self._below + (1 - t) * self._mass
        z = self.tail_at(torch.minimum(above, below).clamp(max=0.5))
        return (self.mean + self.scale * torch.where(above < below, z, -z)).clamp(self.low, self.high)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return variance_preserving(self.level(t))

    def t_at(self, log_snr: Tensor) -> Tensor:
        z = (at_least_float32(log_snr).clamp(self.low, self.high) - self.mean) / self.scale
        p = self.tail(z.abs())
        t = torch.where(z > 0, (p - self._above) / self._mass, 1 - (p - self._below) / self._mass)
        return t.clamp(0, 1)


class Laplace(Density):
    """p(lambda) = exp(-|lambda - mean| / scale) / (2 scale), cut off at +-20 (Hang et al. 2024)."""

    @bounded
    def __init__(self, mean: float = 0.0, scale: Annotated[float, "scale > 0"] = 0.5):
        super().__init__(mean, scale)

    def tail(self, z: Tensor) -> Tensor:
        return torch.exp(-z) / 2

    def tail_at(self, p: Tensor) -> Tensor:
        return -torch.log(2 * p)


class Cauchy(Density):
    """p(lambda) = scale / (pi ((lambda - mean)^2 + scale^2)), cut off at +-20 (Hang et al. 2024)."""

    @bounded
    def __init__(self, mean: float = 0.0, scale: Annotated[float, "scale > 0"] = 0.5):
        super().__init__(mean, scale)

    def tail(self, z: Tensor) -> Tensor:
        return torch.atan2(torch.ones_like(z), z) / math.pi

    def tail_at(self, p: Tensor) -> Tensor:
        return 1 / torch.tan(math.pi * p)


class Normal(Density):
    """lambda ~ N(mean, scale^2), cut off at low and high: the log-normal noise of EDM's training, whose log sigma
    ~ N(-1.2, 1.2^2) is lambda ~ N(2.4, 2.4^2) (Karras et al. 2022, table 1), here variance preserving."""

    @bounded
    def __init__(
        self,
        mean: float = 2.4,
        scale: Annotated[float, "scale > 0"] = 2.4,
        low: float = -LOG_SNR_LIMIT,
        high: float = LOG_SNR_LIMIT,
    ):
        super().__init__(mean, scale, low, high)

    def tail(self, z: Tensor) -> Tensor:
        return torch.special.ndtr(-z)

    def tail_at(self, p: Tensor) -> Tensor:
        return -torch.special.ndtri(p)
