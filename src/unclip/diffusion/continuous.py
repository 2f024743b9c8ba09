"""Schedules of continuous time, t in [0, 1], by their formulas; each exact at both ends and in its inverse.
Neither the table (schedule.py), nor Chen's families (chen.py), nor densities of log-SNR (density.py).
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.density import Normal
from unclip.diffusion.process import Continuous, variance_preserving


class Sde(Continuous):
    """alpha^2 = exp(-B(t)), B the integral of beta from 0 to t (Song et al. 2021, eq. 33): the limit of
    tables whose betas are beta(t) / T. A subclass gives B and its inverse."""

    def __init__(self, beta_min: float, beta_max: float):
        self.beta_min, self.beta_max = beta_min, beta_max
        if beta_max < beta_min:
            raise ValueError(f"beta_max = {beta_max}: must satisfy beta_max >= beta_min = {beta_min}")

    def integral(self, t: Tensor) -> Tensor:
        """B(t)."""
        raise NotImplementedError

    def inverse(self, B: Tensor) -> Tensor:
        """The t >= 0 with this B."""
        raise NotImplementedError

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        B = self.integral(at_least_float32(t))
        return torch.exp(-B / 2), torch.expm1(-B).neg().sqrt()

    def t_at(self, log_snr: Tensor) -> Tensor:
        B = logsigmoid(at_least_float32(log_snr)).neg()
        whole = self.integral(torch.ones_like(B))
        return torch.where(whole > B, self.inverse(torch.minimum(B, whole)), 1).clamp(max=1)


class Linear(Sde):
    """The VP-SDE: beta = beta_min + t (beta_max - beta_min), the limit of the linear table with 1000 times
    its ends (Song et al. 2021, eq. 33)."""

    @bounded
    def __init__(
        self,
        beta_min: Annotated[float, "beta_min > 0"] = 0.1,
        beta_max: Annotated[float, "beta_max > 0"] = 20.0,
    ):
        super().__init__(beta_min, beta_max)

    def integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)

    def inverse(self, B: Tensor) -> Tensor:
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * B)
        return 2 * B / (self.beta_min + root)


class ScaledLinear(Sde):
    """sqrt(beta) = r + t d linear from sqrt(beta_min) to sqrt(beta_max): B = ((r + t d)^3 - r^3) / (3 d). The
    limit of the scaled_linear table (Rombach et al. 2022), and with ends 0.1 and 20 of the quadratic one."""

    @bounded
    def __init__(
        self,
        beta_min: Annotated[float, "beta_min > 0"] = 0.85,
        beta_max: Annotated[float, "beta_max > 0"] = 12.0,
    ):
        super().__init__(beta_min, beta_max)
        self._r, self._d = math.sqrt(beta_min), math.sqrt(beta_max) - math.sqrt(beta_min)

    def integral(self, t: Tensor) -> Tensor:
        return t * (self._r**2 + t * self._d * (self._r + t * self._d / 3))

    def inverse(self, B: Tensor) -> Tensor:
        r = self._r
        root = (r**3 + 3 * self._d * B) ** (1 / 3)  # sqrt(beta) there; the difference of cubes, factored
        return 3 * B / (root * (root + r) + r**2)


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


class TruncatedCosine(Continuous):
    """alpha = cos u, sigma = sin u, u linear in t between the two log-SNRs given: the cosine schedule without
    its infinite ends (Hoogeboom et al. 2023, section 2)."""

    def __init__(self, log_snr_min: float = -15.0, log_snr_max: float = 15.0):
        if not log_snr_min < log_snr_max:
            raise ValueError(
                f"log_snr_max = {log_snr_max}: must satisfy log_snr_max > log_snr_min = {log_snr_min}"
            )
        # the angles that are left out at t = 0 and at t = 1
        self._first, self._last = math.atan(math.exp(-log_snr_max / 2)), math.atan(math.exp(log_snr_min / 2))
        self._span = math.pi / 2 - self._first - self._last

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        return torch.sin(self._last + (1 - t) * self._span), torch.sin(self._first + t * self._span)

    def t_at(self, log_snr: Tensor) -> Tensor:
        u = torch.atan(torch.exp(at_least_float32(log_snr) / -2))
        return ((u - self._first) / self._span).clamp(0, 1)


class Flow(Continuous):
    """alpha = 1 - t, sigma = t: the straight path, not variance preserving (Lipman et al. 2023; Liu et al.
    2023). The "simple linear interpolation" of tutorials."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        return 1 - t, t

    def t_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-at_least_float32(log_snr) / 2)

    def norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha + sigma


class Edm(Continuous):
    """alpha = 1, sigma^(1/rho) linear in t from sigma_min to sigma_max (Karras et al. 2022, eq. 5): variance
    exploding. t is the position on that curve, so that equal steps of t are the paper's steps. It trains on
    the paper's noise too (table 1): log sigma ~ N(P_mean, P_std^2), cut off at sigma_min and sigma_max."""

    @bounded
    def __init__(
        self,
        sigma_min: Annotated[float, "sigma_min > 0"] = 0.002,
        sigma_max: Annotated[float, "sigma_max > 0"] = 80.0,
        rho: Annotated[float, "rho > 0"] = 7.0,
        P_mean: float = -1.2,
        P_std: Annotated[float, "P_std > 0"] = 1.2,
    ):
        if not sigma_min < sigma_max:
            raise ValueError(f"sigma_max = {sigma_max}: must satisfy sigma_max > sigma_min = {sigma_min}")
        if not math.log(sigma_min) < P_mean < math.log(sigma_max):
            raise ValueError(
                f"P_mean = {P_mean}: the middle of log sigma in training must lie between log sigma_min = "
                f"{math.log(sigma_min):.4g} and log sigma_max = {math.log(sigma_max):.4g}"
            )
        self.rho = rho
        self._low, self._high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        self._training = Normal(-2 * P_mean, 2 * P_std, -2 * math.log(sigma_max), -2 * math.log(sigma_min))

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = at_least_float32(t)
        return torch.ones_like(t), (self._low + t * (self._high - self._low)) ** self.rho

    def t_at(self, log_snr: Tensor) -> Tensor:
        root = torch.exp(at_least_float32(log_snr) / (-2 * self.rho))  # sigma^(1/rho)
        return ((root - self._low) / (self._high - self._low)).clamp(0, 1)

    def from_uniform(self, u: Tensor) -> Tensor:
        return self.t_at(self._training.level(u))

    def norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha
