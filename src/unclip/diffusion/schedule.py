"""Noise schedules: callables t -> (alpha, sigma) with x_t = alpha x_0 + sigma eps; large t is noise.
Here is `Discrete`, the DDPM table, and every other schedule by name; not what a sampler walks (grid.py).

Continuous schedules take t in [0, 1]; the table takes t in {0, ..., T-1} and floats between. log_snr = 2
log(alpha / sigma), strictly decreasing in t, and `t_at` is its inverse. process.py says what a schedule is,
continuous.py, chen.py and density.py have those of continuous time, modifiers.py what changes any of them,
learned.py the one with parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.betas import (
    cosine_betas,
    jsd_betas,
    linear_betas,
    quadratic_betas,
    scaled_linear_betas,
    sigmoid_betas,
)
from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.chen import ChenCosine, ChenLinear, Sigmoid
from unclip.diffusion.continuous import Cosine, Edm, Flow, Linear, ScaledLinear, TruncatedCosine
from unclip.diffusion.density import Cauchy, Laplace, Normal
from unclip.diffusion.learned import Learned
from unclip.diffusion.modifiers import InputScaled, Interpolated, Shifted, ZeroTerminalSnr
from unclip.diffusion.process import (
    LOG_SNR_LIMIT,
    Continuous,
    Schedule,
    add_noise,
    log_snr,
    variance_preserving,
)

__all__ = [
    "LOG_SNR_LIMIT",
    "Cauchy",
    "ChenCosine",
    "ChenLinear",
    "Continuous",
    "Cosine",
    "Discrete",
    "Edm",
    "Flow",
    "InputScaled",
    "Interpolated",
    "Laplace",
    "Learned",
    "Linear",
    "Normal",
    "ScaledLinear",
    "Schedule",
    "Shifted",
    "Sigmoid",
    "TruncatedCosine",
    "ZeroTerminalSnr",
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
    "zero_terminal_snr",
]


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

    def norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.hypot(alpha, sigma)

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


def zero_terminal_snr(betas: Tensor | Sequence[float]) -> Tensor:
    """Betas (T,) of the same table with alpha moved and stretched so that the last is 0 and the first as it
    was (Lin et al. 2024, algorithm 1): `ZeroTerminalSnr` as betas, the last of which is 1."""
    table = Discrete(betas)
    alpha, _ = ZeroTerminalSnr(table)(torch.arange(table.T, dtype=torch.float64))
    kept = alpha.square()  # alpha_bar
    return 1 - kept / torch.cat([torch.ones_like(kept[:1]), kept[:-1]])
