"""Exact denoisers of data whose posterior mean is known in closed form: the oracle of the samplers' tests,
and toy data. No network; each is a denoise function of its schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unclip.diffusion.broadcast import at_least_float32, over
from unclip.diffusion.denoiser import Cond
from unclip.diffusion.grid import Level
from unclip.diffusion.schedule import Schedule


class Gaussian:
    """Data N(mean, std^2 I); mean a number or (*S), std > 0:

    E[x_0 | x_t] = mean + alpha std^2 / (alpha^2 std^2 + sigma^2) (x_t - alpha mean)
    """

    def __init__(self, schedule: Schedule, mean: float | Tensor = 0.0, std: float = 1.0):
        if not std > 0:
            raise ValueError(f"std = {std}: must satisfy std > 0")
        self.schedule, self.std = schedule, std
        self.mean = torch.as_tensor(mean, dtype=torch.float64)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """x_t (B, *S), t (B,) -> x0_hat (B, *S)."""
        x_t = at_least_float32(x_t)
        alpha, sigma = self.schedule(t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        mean = self.mean.to(x_t)
        return mean + over(gain, x_t) * (x_t - over(alpha, x_t) * mean)

    def path(self, x: Tensor, start: Level, end: Level) -> Tensor:
        """Where the probability-flow ODE takes x (B, *S) from one level to another: the deviation from alpha
        mean keeps its size in units of the marginal's spread sqrt(alpha^2 std^2 + sigma^2)."""
        spread = [(level.alpha**2 * self.std**2 + level.sigma**2) ** 0.5 for level in (start, end)]
        mean = self.mean.to(x)
        return end.alpha * mean + spread[1] / spread[0] * (x - start.alpha * mean)


class GaussianMixture:
    """Data sum_k weights_k N(means_k, std^2 I): the components' posterior means, weighted by the
    responsibilities softmax_k(log weights_k - |x_t - alpha means_k|^2 / (2 (alpha^2 std^2 + sigma^2))).

    means: (K, *S). std > 0, one for all. weights: K positive numbers, equal by default.
    """

    def __init__(self, schedule: Schedule, means: Tensor, std: float, weights: Sequence[float] | None = None):
        if not std > 0:
            raise ValueError(f"std = {std}: must satisfy std > 0")
        if weights is not None and (len(weights) != len(means) or min(weights) <= 0):
            raise ValueError(f"weights = {list(weights)}: {len(means)} means need as many positive weights")
        self.components = [Gaussian(schedule, mean, std) for mean in means]
        self.schedule, self.means, self.std = schedule, means, std
        self.weights = torch.as_tensor([1.0] * len(means) if weights is None else weights)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """x_t (B, *S), t (B,) -> x0_hat (B, *S)."""
        x_t = at_least_float32(x_t)
        alpha, sigma = self.schedule(t)
        x, means = x_t.flatten(1), self.means.to(x_t).flatten(1)  # (B, D), (K, D)
        distance = (x.unsqueeze(1) - over(alpha, x).unsqueeze(1) * means).square().sum(-1)  # (B, K)
        variance = over(alpha**2 * self.std**2 + sigma**2, x)  # (B, 1)
        share = torch.softmax(self.weights.to(x).log() - distance / (2 * variance), dim=1)
        estimates = torch.stack([component(x_t, t) for component in self.components], dim=1)  # (B, K, *S)
        return (over(share, estimates) * estimates).sum(1)
