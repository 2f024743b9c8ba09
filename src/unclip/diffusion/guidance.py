"""Wrappers around a denoise function: each takes one and gives one, so they nest. No sampler.
Pixels want `clipped(guided(denoise, scale, null), 1)`, in that order: it is guidance that overshoots."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import over
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.schedule import Schedule, log_snr


@bounded
def guided(denoise: Denoise, scale: Annotated[float, "scale >= 0"], null_cond: Cond) -> Denoise:
    """Classifier-free guidance u + scale (c - u) on x0_hat (Ho & Salimans 2022, eq. 6, whose w is scale - 1).

    scale 1 means off: `denoise` itself, no second pass. Otherwise one forward pass on the batch twice, once
    with `cond` and once with `null_cond`, which has cond's keys and shapes and drops only the condition: x_t
    and t are the same. In x_0 it is the same guidance as in eps or v, all being affine in x_0 at a given x_t.
    """
    if scale == 1:
        return denoise

    def denoise_guided(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        if cond is None or null_cond is None or cond.keys() != null_cond.keys():
            given, null = (sorted(c) if c is not None else None for c in (cond, null_cond))
            raise ValueError(f"scale = {scale} needs cond and null_cond of the same keys: {given} and {null}")
        both = {key: torch.cat([cond[key], null_cond[key]]) for key in cond}
        c, u = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return torch.lerp(u, c, scale)

    return denoise_guided


@bounded
def clipped(denoise: Denoise, limit: Annotated[float, "limit > 0"]) -> Denoise:
    """x0_hat within [-limit, limit], the range of the data (Ho et al. 2020's code; "static thresholding")."""

    def denoise_clipped(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return denoise(x_t, t, cond).clamp(-limit, limit)

    return denoise_clipped


def retimed(denoise: Denoise, trained: Schedule, sampling: Schedule) -> Denoise:
    """A denoiser of one schedule walked along another: at t' of equal log-SNR, x times alpha' / alpha.

    That is written as the ratio of sqrt(alpha^2 + sigma^2), its equal at equal log-SNR, which is defined at
    alpha = 0 too and is 1 between variance-preserving schedules.
    """

    def denoise_retimed(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        t_trained = trained.t_at(log_snr(sampling, t))
        ratio = torch.hypot(*trained(t_trained)) / torch.hypot(*sampling(t))
        return denoise(over(ratio, x_t) * x_t, t_trained, cond)

    return denoise_retimed
