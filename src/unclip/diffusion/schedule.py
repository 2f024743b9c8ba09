"""Noise schedules: callables t -> (alpha, sigma) with x_t = alpha x_0 + sigma eps; large t is noise.
Not what a sampler walks (grid.py), and no module: nothing here is a parameter, a buffer or averaged.

Continuous schedules take t in [0, 1]; `Discrete`, the DDPM table, takes t in {0, ..., T-1} and floats
between. log_snr = 2 log(alpha / sigma), strictly decreasing in t, and `t_at` is its inverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from unclip.diffusion.betas import (
    cosine_betas,
    jsd_betas,
    linear_betas,
    quadratic_betas,
    scaled_linear_betas,
    sigmoid_betas,
)
from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32, over

__all__ = [
    "LOG_SNR_LIMIT",
    "Continuous",
    "Cosine",
    "Discrete",
    "Edm",
    "Flow",
    "Linear",
    "Schedule",
    "Sigmoid",
    "add_noise",
    "cosine_betas",
    "discrete",
    "jsd_betas",
    "linear_betas",
    "log_snr",
    "quadratic_betas",
    "scaled_linear_betas",
    "sigmoid_betas",
    "variance_preserving",
]

LOG_SNR_LIMIT = 20.0  # beyond it a level is noise, or data, to float32: alpha or sigma is 4.5e-5


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
        """Training times, uniform over the schedule, of u in [0, 1)."""


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


# ---- the table -----------------------------------------------------------------------------------------


class Discrete:
    """The DDPM table, variance preserving: alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar) with
    alpha_bar_t = prod_{i<=t} (1 - beta_i) (Ho et al. 2020, eq. 4).

    Between two entries log_snr is linear in t. Where the last entry is alpha = 0, so that log_snr ends at
    -inf, it is alpha / sigma that falls linearly to 0 over the last interval: also strictly monotone, also
    inverted exactly.

    betas: (T,), T >= 2, each in (0, 1]; 1 (which means alpha = 0 from there on) only as the last. Else
    ValueError. `.betas`, `.alpha_bar`: (T,) float64 on the CPU.
    """

    def __init__(self, betas: Tensor | Sequence[float]):
        self.betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu").clone()
        if self.betas.ndim != 1 or len(self.betas) < 2:
            raise ValueError(f"betas of shape {tuple(self.betas.shape)}: a table is one row of T >= 2 betas")
        outside = ((self.betas > 0) & (self.betas <= 1)).logical_not().nonzero().flatten().tolist()
        if outside:
            i = outside[0]
            raise ValueError(f"betas[{i}] = {self.betas[i]:.6g}: every beta must satisfy 0 < beta <= 1")
        ones = (self.betas[:-1] == 1).nonzero().flatten().tolist()
        if ones:
            raise ValueError(
                f"betas[{ones[0]}] = 1 leaves alpha = 0 for every later entry: only the last of T = "
                f"{len(self.betas)} betas may be 1"
            )
        log_alpha_bar = self.betas.neg().log1p().cumsum(0)
        self.alpha_bar = log_alpha_bar.exp()
        # expm1: exact also where sigma is tiny
        self._log_snr = log_alpha_bar - log_alpha_bar.expm1().neg().log()
        self._copies: dict[torch.device, Tensor] = {}

    @property
    def T(self) -> int:
        return len(self.betas)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self._table(t.device)
        real = at_least_float32(t)
        i = real.floor().long()
        w = real.to(table.dtype) - i
        here, there = self._interval(table, i)
        fall = torch.where(there.isinf(), 2 * torch.log1p(-w), w * (there - here))
        alpha, sigma = variance_preserving(here + fall)
        return alpha.to(real.dtype), sigma.to(real.dtype)

    def t_at(self, log_snr: Tensor) -> Tensor:
        table = self._table(log_snr.device)
        real = at_least_float32(log_snr)
        level = real.to(table.dtype)
        i = torch.searchsorted(-table, -level, right=True).sub(1).clamp(0, self.T - 2)
        here, there = self._interval(table, i)
        w = torch.where(there.isinf(), -torch.expm1((level - here) / 2), (level - here) / (there - here))
        return (i + w.clamp(0, 1)).to(real.dtype)

    def from_uniform(self, u: Tensor) -> Tensor:
        return (u * self.T).floor().clamp(max=self.T - 1)

    def _interval(self, table: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        """log_snr at i and at i + 1. gather, not indexing: an index of -1 is an error, not the other end."""
        flat = i.flatten()
        here, there = table.gather(0, flat), table.gather(0, (flat + 1).clamp(max=self.T - 1))
        return here.reshape(i.shape), there.reshape(i.shape)

    def _table(self, device: torch.device) -> Tensor:
        """The log-SNR table on the device of t, copied once; float64 wherever the device has it."""
        if device not in self._copies:
            dtype = torch.float32 if device.type == "mps" else torch.float64
            self._copies[device] = self._log_snr.to(device=device, dtype=dtype)
        return self._copies[device]


@bounded
def discrete(betas: Callable[[int], Tensor], T: Annotated[int, "T >= 2"] = 1000) -> Discrete:
    """The table of length T of a family of betas, e.g. `discrete(cosine_betas, 1000)`."""
    return Discrete(betas(T))


# ---- continuous time -----------------------------------------------------------------------------------


class Continuous:
    """What schedules of t in [0, 1] share: no table, and uniform training times."""

    T: int | None = None

    def from_uniform(self, u: Tensor) -> Tensor:
        return u


class Linear(Continuous):
    """The VP-SDE: alpha^2 = exp(-B), B(t) = beta_min t + (beta_max - beta_min) t^2 / 2
    (Song et al. 2021, eq. 33)."""

    @bounded
    def __init__(
        self,
        beta_min: Annotated[float, "beta_min > 0"] = 0.1,
        beta_max: Annotated[float, "beta_max > 0"] = 20.0,
    ):
        self.beta_min, self.beta_max = beta_min, beta_max
        if beta_max < beta_min:
            raise ValueError(f"beta_max = {beta_max}: must satisfy beta_max >= beta_min = {beta_min}")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        B = t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)
        return torch.exp(-B / 2), torch.expm1(-B).neg().sqrt()

    def t_at(self, log_snr: Tensor) -> Tensor:
        B = logsigmoid(at_least_float32(log_snr)).neg().clamp(max=(self.beta_min + self.beta_max) / 2)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * B)
        return 2 * B / (self.beta_min + root)


class Cosine(Continuous):
    """alpha = cos(pi/2 (t+s)/(1+s)) / cos(pi/2 s/(1+s)), variance preserving
    (Nichol & Dhariwal 2021, eq. 17).

    Written with q = pi/2 / (1+s), whose sine is that denominator, as alpha = sin(q (1-t)) / sin q and
    sigma^2 = 1 - alpha^2 = sin(q t) sin(q (t+2s)) / sin^2 q: exactly (1, 0) at t = 0 and (0, 1) at t = 1.
    """

    @bounded
    def __init__(self, s: Annotated[float, "s >= 0"] = 0.008):
        self.s = s
        self._q = math.pi / 2 / (1 + s)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        sin_q = torch.sin(torch.full_like(t, self._q))  # alpha's own sine: alpha(0) is 1 to the bit
        variance = torch.sin(self._q * t) / sin_q * (torch.sin(self._q * (t + 2 * self.s)) / sin_q)
        return torch.sin(self._q * (1 - t)) / sin_q, variance.sqrt()

    def t_at(self, log_snr: Tensor) -> Tensor:
        alpha, sigma = variance_preserving(at_least_float32(log_snr))
        a = self._q * self.s
        # the angle u = q (t+s) has cos u = alpha cos a and sin^2 u = sin^2 a + sigma^2 cos^2 a
        u = torch.atan2(torch.sqrt(math.sin(a) ** 2 + (sigma * math.cos(a)) ** 2), alpha * math.cos(a))
        return ((u - a) / self._q).clamp(0, 1)


class Sigmoid(Continuous):
    """alpha^2 falls as a sigmoid of x = (start + t (end - start)) / tau, shifted and scaled to go from 1 to 0
    (Chen 2023, algorithm 1): alpha^2 = (S(end) - S(x)) / (S(end) - S(start)). Variance preserving.

    By S(a) - S(b) = sinh((a-b)/2) / (2 cosh(a/2) cosh(b/2)), both ends are exact and nothing cancels.
    """

    @bounded
    def __init__(self, start: float = -3.0, end: float = 3.0, tau: Annotated[float, "tau > 0"] = 1.0):
        if not start < end:
            raise ValueError(f"start = {start}, end = {end}: must satisfy start < end")
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
        low, high = (1 / (1 + math.exp(-end / self.tau)) for end in (self.start, self.end))
        x = self.tau * torch.logit(high * torch.sigmoid(-level) + low * torch.sigmoid(level))
        return ((x - self.start) / (self.end - self.start)).clamp(0, 1)


class Flow(Continuous):
    """alpha = 1 - t, sigma = t: the straight path, not variance preserving (Lipman et al. 2023; Liu et al.
    2023)."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        return 1 - t, t

    def t_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-at_least_float32(log_snr) / 2)


class Edm(Continuous):
    """alpha = 1, sigma^(1/rho) linear in t from sigma_min to sigma_max (Karras et al. 2022, eq. 5): variance
    exploding. t is the position on that curve, so that equal steps of t are the paper's steps."""

    @bounded
    def __init__(
        self,
        sigma_min: Annotated[float, "sigma_min > 0"] = 0.002,
        sigma_max: Annotated[float, "sigma_max > 0"] = 80.0,
        rho: Annotated[float, "rho > 0"] = 7.0,
    ):
        if not sigma_min < sigma_max:
            raise ValueError(f"sigma_max = {sigma_max}: must satisfy sigma_max > sigma_min = {sigma_min}")
        self.rho = rho
        self._low, self._high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        return torch.ones_like(t), (self._low + t * (self._high - self._low)) ** self.rho

    def t_at(self, log_snr: Tensor) -> Tensor:
        root = torch.exp(at_least_float32(log_snr) / (-2 * self.rho))  # sigma^(1/rho)
        return ((root - self._low) / (self._high - self._low)).clamp(0, 1)
