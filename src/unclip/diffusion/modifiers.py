"""What changes any schedule: each takes one and is one, so they nest. No schedule of its own.

A modifier that moves the log-SNR keeps the schedule's scale: x_t stays variance preserving, or on the straight
path, or exploding (`norm`).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.process import Schedule, bisected, log_snr, variance_preserving


class Modified:
    """What modifiers share: the schedule below, its time and its scale."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule

    @property
    def T(self) -> int | None:
        return self.schedule.T

    @property
    def last(self) -> float:
        """The t of most noise."""
        return 1.0 if self.T is None else self.T - 1.0

    def from_uniform(self, u: Tensor) -> Tensor:
        return self.schedule.from_uniform(u)

    def norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.schedule.norm(alpha, sigma)

    def scaled(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The level of this log-SNR at the schedule's scale."""
        norm = self.norm(alpha, sigma)
        return alpha / norm, sigma / norm


class Shifted(Modified):
    """log_snr + 2 log(reference / resolution): what the noise of `reference` px looks like at `resolution`
    px, since larger pictures show through more noise (Hoogeboom et al. 2023, section 3.1). On `Flow` it is the
    shift of Esser et al. 2024, eq. 23: t -> c t / (1 + (c - 1) t), c = resolution / reference."""

    @bounded
    def __init__(
        self,
        schedule: Schedule,
        resolution: Annotated[float, "resolution > 0"],
        reference: Annotated[float, "reference > 0"],
    ):
        super().__init__(schedule)
        self._factor = resolution / reference

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return self.scaled(alpha, sigma * self._factor)

    def t_at(self, log_snr: Tensor) -> Tensor:
        return self.schedule.t_at(at_least_float32(log_snr) + 2 * math.log(self._factor))


class Interpolated(Modified):
    """`Shifted` by a reference that goes from `high` at t = 0 to `low` at t = 1, log_snr being the mean of the
    two shifted ones by t: the noise of small pictures for what is coarse, of large ones for details
    (Hoogeboom et al. 2023, section 3.1, on the cosine schedule). t_at by bisection."""

    @bounded
    def __init__(
        self,
        schedule: Schedule,
        resolution: Annotated[float, "resolution > 0"],
        low: Annotated[float, "low > 0"],
        high: Annotated[float, "high > 0"],
    ):
        if not low <= high:
            raise ValueError(f"low = {low}, high = {high}: must satisfy low <= high")
        super().__init__(schedule)
        self._factor, self._rise = resolution / high, math.log(high / low)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return self.scaled(
            alpha, sigma * self._factor * torch.exp(self._rise * at_least_float32(t) / self.last)
        )

    def t_at(self, log_snr: Tensor) -> Tensor:
        return bisected(self._level, log_snr, self.last)

    def _level(self, t: Tensor) -> Tensor:
        return log_snr(self, t)


class InputScaled(Modified):
    """alpha -> b alpha: the data scaled down in the same noise (Chen 2023, section 2.2). Not variance
    preserving: the objectives' c_in gives the network unit variance again, with sigma_data that of the data."""

    @bounded
    def __init__(self, schedule: Schedule, b: Annotated[float, "b > 0"]):
        super().__init__(schedule)
        self.b = b

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return self.b * alpha, sigma

    def t_at(self, log_snr: Tensor) -> Tensor:
        return self.schedule.t_at(at_least_float32(log_snr) - 2 * math.log(self.b))

    def norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.schedule.norm(alpha / self.b, sigma)


class ZeroTerminalSnr(Modified):
    """alpha, moved and stretched so that it ends at 0 and begins as it did: alpha' = (alpha - alpha_T) k, k =
    alpha_0 / (alpha_0 - alpha_T) (Lin et al. 2024, algorithm 1), alpha that of unit variance.

    1 - alpha'^2 is written in 1 - alpha = sigma^2 / (1 + alpha), which has its digits at the data's end.
    ValueError: a schedule whose alpha cannot be 0 (`Edm`).
    """

    def __init__(self, schedule: Schedule):
        super().__init__(schedule)
        noise = torch.tensor([0.0, 1.0], dtype=torch.float64)
        if not self.norm(*noise) > 0:
            raise ValueError(
                f"schedule = {type(schedule).__name__}: its alpha is the same at every t, and cannot end at 0"
            )

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, rest = self._unit(t)
        (first, first_rest), (last, _) = self._ends(t)
        signal = first * (alpha - last) / (first - last)
        lost = (first * rest - last * first_rest) / (first - last)  # 1 - signal
        return self.scaled(signal, torch.sqrt(lost * (1 + signal)))

    def t_at(self, log_snr: Tensor) -> Tensor:
        level = at_least_float32(log_snr)
        (first, first_rest), (last, _) = self._ends(level)
        signal, sigma = variance_preserving(level)
        alpha = signal * (first - last) / first + last
        rest = (sigma.square() / (1 + signal) * (first - last) + last * first_rest) / first
        return self.schedule.t_at(2 * alpha.log() - torch.log(rest * (1 + alpha)))

    def _unit(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha where alpha^2 + sigma^2 = 1, and 1 - alpha."""
        alpha, sigma = self.schedule(t)
        norm = torch.hypot(alpha, sigma)
        alpha, sigma = alpha / norm, sigma / norm
        return alpha, sigma.square() / (1 + alpha)

    def _ends(self, like: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """`_unit` at both ends, computed as anywhere else: alpha'(T) is 0 to the bit."""
        like = at_least_float32(like)
        return self._unit(torch.zeros_like(like)), self._unit(torch.full_like(like, self.last))
