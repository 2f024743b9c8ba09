"""The variational bound on the negative log-likelihood of 8-bit data: its three kinds of term, and their sum
in bits per dimension. No training; loss.py takes the terms one t at a time.

x_0 has 256 values, k / 127.5 - 1. Terms are (B, *S), in nats; their levels (B,) or ().
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.broadcast import over, precise
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.grid import Grid, Level
from unclip.diffusion.learned_variance import LearnedVariance, log_excess, log_variance_into_data
from unclip.diffusion.steps import Noise, denoise_at

HALF_BIN = 1 / 255


class Bound(NamedTuple):
    """A bound on -log p(x_0) in bits per dimension, (B,) each: L_T, the sum of the L_{t-1}, and L_0."""

    prior: Tensor
    steps: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        return self.prior + self.steps + self.decoder


# ---- terms ---------------------------------------------------------------------------------------------


def prior_kl(x0: Tensor, level: Level) -> Tensor:
    """L_T: the KL of q(x_T | x_0) from N(0, sigma_T^2), which is what samplers start from; N(0, 1) but for
    alpha_T^2 where variance is preserved."""
    return (level.alpha / level.sigma * x0) ** 2 / 2


def step_kl(error: Tensor, log_snr_t: Tensor, log_snr_s: Tensor, excess: Tensor) -> Tensor:
    """L_{t-1}: the KL of q(x_s | x_t, x_0) from N(its mean at x0_hat, Sigma) (Nichol & Dhariwal 2021, eq. 6).

    error: x_0 - x0_hat. excess: log(Sigma / beta_tilde). The means are alpha_s (1 - r) error apart, whose
    square in units of beta_tilde is (SNR_s - SNR_t) error^2 (Kingma et al. 2021, eq. 14).
    """
    # SNR_s - SNR_t, also where SNR_t = 0
    difference = -log_snr_s.exp() * torch.expm1(log_snr_t - log_snr_s)
    return (excess + torch.expm1(-excess) + over(difference, error) * error**2 * torch.exp(-excess)) / 2


def decoder_nll(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """L_0: -log of the mass of N(mean, variance) in the bin of x_0, one of 256, of which the outer two are
    unbounded (Ho et al. 2020, eq. 13). By log Phi, which does not underflow however far off the mean is."""
    low, high = ((x0 + side - mean) * torch.exp(-log_variance / 2) for side in (-HALF_BIN, HALF_BIN))
    above = low + high > 0  # mirrored into the left tail, where log Phi keeps its digits
    larger = _log_cdf(torch.where(above, -low, high))
    smaller = _log_cdf(torch.where(above, -high, low))
    inside = larger + torch.log(-torch.expm1(smaller - larger))
    first, last = x0 < HALF_BIN - 1, x0 > 1 - HALF_BIN
    outer = _log_cdf(torch.where(first, high, -low))
    return -torch.where(first | last, outer, inside)


def _log_cdf(z: Tensor) -> Tensor:
    """log Phi. On the left by the scaled erfc: `log_ndtr` has no gradient to speak of there in float32."""
    left, right = z.clamp(max=0), z.clamp(min=0)
    tail = torch.log(torch.special.erfcx(-left / math.sqrt(2)) / 2) - left**2 / 2
    return torch.where(z < 0, tail, torch.special.log_ndtr(right))


# ---- their sum -----------------------------------------------------------------------------------------


@torch.no_grad()
def bits_per_dim(
    denoise: Denoise,
    images: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    variance: Literal["small", "large"] | LearnedVariance = "small",
    mask: Tensor | None = None,
    u: Tensor | None = None,
    callback: Callable[[int], object] | None = None,
) -> Bound:
    """The bound of the model that `ddpm` samples along the grid, N >= 2 steps that end in the data:
    `make_grid(table, table.T)` for the bound of a table (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021).

    images: (B, *S) uint8, x_0 = images / 127.5 - 1. noise: called once per evaluation of `denoise`.
    variance: as of `ddpm`; a LearnedVariance is the one within `denoise`. The step into the data is the
        Gaussian about x0_hat, its variance "small" or learned being bounded by that of the step before.
    mask: True where a dimension counts, broadcast over images; padding does not. None: all count.
    u: None for every step; or draws (k,) in [0, 1): an unbiased estimate from k of the N - 1 steps, one in
        each of k equal parts, and the last one.
    callback: called with the number of evaluations done.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images of {images.dtype}: the likelihood is that of 8-bit values, torch.uint8")
    if isinstance(variance, str) and variance not in ("small", "large"):
        raise ValueError(f"variance = {variance!r}: small, large or a LearnedVariance")
    *above, (last, data) = grid.pairs()
    if not above or data.sigma > 0:
        raise ValueError(f"a grid of {grid.steps} steps to sigma = {data.sigma:g}: needs 2 or more, to 0")
    x0 = images.float() / 127.5 - 1
    chosen = above if u is None else [above[i] for i in _strata(u, len(above))]

    def guess(t: Level) -> tuple[Tensor, Tensor]:
        """x0_hat and v at one draw of x_t."""
        x_t = t.alpha * x0 + t.sigma * noise(x0)
        x0_hat = denoise_at(denoise, cond, x_t, t)
        if callback is not None:
            callback(next(evaluations))
        if isinstance(variance, str):
            return x0_hat, torch.full_like(x0, {"small": 0.0, "large": 1.0}[variance])
        return x0_hat, variance.v(x_t)

    counts = torch.ones_like(x0) if mask is None else mask.to(x0).expand_as(x0)
    dimensions = counts.flatten(1).sum(1) * math.log(2)

    def bits(nats: Tensor) -> Tensor:
        return (nats * counts).flatten(1).sum(1) / dimensions

    evaluations = count(1)
    steps = torch.zeros_like(dimensions)
    for t, s in chosen:
        x0_hat, v = guess(t)
        (log_snr_t, sigma_t), (log_snr_s, sigma_s) = (_tensors(level, x0) for level in (t, s))
        steps += bits(step_kl(x0 - x0_hat, log_snr_t, log_snr_s, log_excess(v, sigma_t, sigma_s)))
    x0_hat, v = guess(last)
    (before, _), (log_snr, sigma) = (_tensors(level, x0) for level in (above[-1][0], last))
    decoder = decoder_nll(x0, x0_hat, log_variance_into_data(v, sigma, log_snr, before))
    return Bound(bits(prior_kl(x0, above[0][0])), steps * (len(above) / len(chosen)), bits(decoder))


def _strata(u: Tensor, n: int) -> list[int]:
    """Of n items k, by draws (k,): item i is expected k / n times."""
    parts = (torch.arange(len(u)) + u.cpu().double()) / len(u)
    return (parts * n).long().clamp(max=n - 1).tolist()


def _tensors(level: Level, x: Tensor) -> tuple[Tensor, Tensor]:
    """log_snr and sigma, () each, on the device of x."""
    alpha, sigma = precise(x.new_empty(2)).new_tensor([level.alpha, level.sigma])
    return 2 * (alpha.log() - sigma.log()), sigma
