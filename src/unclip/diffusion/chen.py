"""The three families of Chen 2023, "On the Importance of Noise Scheduling": gamma(t) = alpha^2 falls from 1 to
0, exactly, as a line, a power of a cosine or a sigmoid. Its input scale is modifiers.InputScaled.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.process import Continuous

SIGMOID_LIMIT = 80.0  # exp of it, and of minus it, are float32 numbers


class ChenLinear(Continuous):
    """alpha^2 = 1 - t (Chen 2023, section 2.1, gamma(t) = 1 - t). The jsd table (Sohl-Dickstein et al. 2015)
    has these values at t = 1/T, 2/T, ..., 1: it is this schedule."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        return torch.sqrt(1 - t), torch.sqrt(t)

    def t_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-at_least_float32(log_snr))


class ChenCosine(Continuous):
    """alpha^2 falls as cos(pi/2 x)^(2 tau) of x = start + t (end - start), shifted and scaled to go from 1 to
    0 (Chen 2023, algorithm 1). Variance preserving. `Cosine(s)` is start = s / (1 + s), end = 1, tau = 1;
    below tau = 1/2 the last fall is too steep for t to tell its levels apart.

    With q = (cos(pi/2 x) / cos(pi/2 start))^(2 tau), which falls from 1 to q_1, sigma^2 = (1 - q) / (1 - q_1)
    by expm1 of log q; log q is taken from 1 - cos / cos, a product of sines, where q is near 1.
    """

    @bounded
    def __init__(
        self,
        start: Annotated[float, "0 <= start < 1"] = 0.0,
        end: Annotated[float, "0 < end <= 1"] = 1.0,
        tau: Annotated[float, "tau >= 0.5"] = 1.0,
    ):
        if not start < end:
            raise ValueError(f"start = {start}, end = {end}: must satisfy start < end")
        self.start, self.end, self.tau = start, end, tau

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        log_q, last = self._log_q(t), self._log_q(torch.ones_like(t))
        signal = (log_q.exp() - last.exp()) / (1 - last.exp())  # exactly 1 at t = 0
        return signal.sqrt(), (torch.expm1(log_q) / torch.expm1(last)).sqrt()

    def t_at(self, log_snr: Tensor) -> Tensor:
        level = at_least_float32(log_snr)
        last = self._log_q(torch.ones_like(level))
        # 1 - q = sigma^2 (1 - q_1), and q as a sum of what is positive
        log_q = torch.where(
            level > 0,
            torch.log1p(torch.sigmoid(-level) * torch.expm1(last)),
            torch.log(torch.sigmoid(level) + torch.sigmoid(-level) * last.exp()),
        )
        a, cos_a = math.pi / 2 * self.start, math.cos(math.pi / 2 * self.start)
        cos_u = cos_a * torch.exp(log_q / (2 * self.tau))
        rise = -(cos_a**2) * torch.expm1(log_q / self.tau)  # sin^2 u - sin^2 a = sin(u - a) sin(u + a)
        sin_u = torch.sqrt(math.sin(a) ** 2 + rise)
        cosine, sine = cos_u * cos_a + sin_u * math.sin(a), sin_u * cos_a + cos_u * math.sin(a)
        angle = torch.atan2(rise, cosine * sine)  # u - a
        return (angle / (math.pi / 2 * (self.end - self.start))).clamp(0, 1)

    def _log_q(self, t: Tensor) -> Tensor:
        width, cos_a = self.end - self.start, math.cos(math.pi / 2 * self.start)
        cosine = torch.sin(math.pi / 2 * ((1 - self.end) + (1 - t) * width)) / cos_a
        half = math.pi / 4 * t * width  # of the angle since the start
        fall = 2 * torch.sin(half) * torch.sin(half + math.pi / 2 * self.start) / cos_a
        return 2 * self.tau * torch.where(fall < 0.5, torch.log1p(-fall), torch.log(cosine))


class Sigmoid(Continuous):
    """alpha^2 falls as a sigmoid of x = (start + t (end - start)) / tau, shifted and scaled to go from 1 to 0
    (Chen 2023, algorithm 1): alpha^2 = (S(end) - S(x)) / (S(end) - S(start)). Variance preserving.

    By S(a) - S(b) = sinh((a-b)/2) / (2 cosh(a/2) cosh(b/2)), both ends are exact and nothing cancels.
    """

    @bounded
    def __init__(self, start: float = -3.0, end: float = 3.0, tau: Annotated[float, "tau > 0"] = 1.0):
        if not start < end:
            raise ValueError(f"start = {start}, end = {end}: must satisfy start < end")
        if max(abs(start), abs(end)) / tau > SIGMOID_LIMIT:
            raise ValueError(
                f"tau = {tau}: start / tau = {start / tau:g} and end / tau = {end / tau:g} must lie within "
                f"+-{SIGMOID_LIMIT:g}, beyond which float32 cannot hold the sigmoid"
            )
        self.start, self.end, self.tau = start, end, tau

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        a, b = self.start / self.tau / 2, self.end / self.tau / 2
        x = a + t * (b - a)
        width, low, high = (torch.full_like(t, value) for value in (b - a, a, b))
        signal = torch.sinh((1 - t) * (b - a)) / width.sinh() * (low.cosh() / x.cosh())
        variance = torch.sinh(t * (b - a)) / width.sinh() * (high.cosh() / x.cosh())
        return signal.sqrt(), variance.sqrt()

    def t_at(self, log_snr: Tensor) -> Tensor:
        level = at_least_float32(log_snr)
        signal, variance = torch.sigmoid(level), torch.sigmoid(-level)
        start, end = self.start / self.tau, self.end / self.tau
        # log S(x) and log S(-x), S(-x) = 1 - S(x): both of sums of what is positive
        rising = torch.log(variance / (1 + math.exp(-end)) + signal / (1 + math.exp(-start)))
        falling = torch.log(variance / (1 + math.exp(end)) + signal / (1 + math.exp(start)))
        x = self.tau * (rising - falling)
        return ((x - self.start) / (self.end - self.start)).clamp(0, 1)
