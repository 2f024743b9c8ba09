"""The forward process x_t = alpha x_0 + sigma eps: what a schedule is, and what all of them have in common.
No schedule itself: the table is in schedule.py, which re-exports every other one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from unclip.diffusion.broadcast import over, precise

LOG_SNR_LIMIT = 20.0  # beyond it a level is noise, or data, to float32: alpha or sigma is 4.5e-5
HALVINGS = 64  # of an interval within [0, T]: more than float64 tells apart


class Schedule(Protocol):
    """What the rest of `diffusion` asks of a schedule. alpha, sigma and t_at keep the argument's shape and
    its dtype, float32 or float64; integers and narrower floats give float32."""

    @property
    def T(self) -> int | None:
        """Length of the table; None for a schedule of continuous time (see `Continuous`)."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha, sigma at t."""

    def t_at(self, log_snr: Tensor) -> Tensor:
        """The t whose log-SNR this is; the nearer end of the schedule where there is none."""

    def from_uniform(self, u: Tensor) -> Tensor:
        """Training times of u in [0, 1), rising with u: uniform over the schedule, unless it says otherwise
        (`Edm`)."""

    def norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """How x_t is scaled: the function, of degree one, that is 1 at every level of the schedule.
        `hypot` where variance is preserved. A modifier that moves the log-SNR divides by it."""


def log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """lambda(t) = 2 log(alpha / sigma), (B,) -> (B,); -inf where alpha = 0, +inf where sigma = 0."""
    alpha, sigma = schedule(t)
    return 2 * (alpha.log() - sigma.log())


def variance_preserving(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha, sigma with alpha^2 + sigma^2 = 1: sqrt(sigmoid(+-lambda)) (Kingma et al. 2021, eq. 3)."""
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def add_noise(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t = alpha x_0 + sigma eps, (B, *S), of Gaussian eps: the forward process (Ho et al. 2020, eq. 4)."""
    return over(alpha, x0) * x0 + over(sigma, x0) * eps


class Continuous:
    """What schedules of t in [0, 1] share: no table, uniform training times, and variance preserved unless
    they say otherwise."""

    T: int | None = None

    def from_uniform(self, u: Tensor) -> Tensor:
        return u

    def norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.hypot(alpha, sigma)


@torch.no_grad()
def bisected(falling: Callable[[Tensor], Tensor], level: Tensor, end: float) -> Tensor:
    """The t in [0, end] at which a falling function has this level, in level's dtype; the nearer end where it
    has not. For a `t_at` of no closed form; a fixed number of halvings, so nothing waits for the device."""
    wanted = precise(level)
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, end)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        beyond = falling(middle) > wanted
        low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
    return high.to(torch.promote_types(level.dtype, torch.float32))
