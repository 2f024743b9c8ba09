"""Cold diffusion: sampling by undoing any degradation, with two to try it on. Not the Gaussian process of
the rest of `diffusion`: t is a severity from 0 (clean) to 1, there are no schedules and no noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.steps import Callback

Degrade = Callable[[Tensor, float], Tensor]  # x_0 (B, *S), severity -> (B, *S); at 0 x_0 itself


@torch.no_grad()
@bounded
def cold_sample(
    restore: Denoise,
    degrade: Degrade,
    x: Tensor,
    steps: Annotated[int, "steps >= 1"],
    cond: Cond = None,
    *,
    improved: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """Restore x (B, *S), degraded at t = 1, in steps of 1 / steps, with x0_hat = restore(x_t, t):

        improved      x_s = x_t - degrade(x0_hat, t) + degrade(x0_hat, s)   (Bansal et al. 2022, algorithm 2)
        not improved  x_s = degrade(x0_hat, s)                                                  (algorithm 1)

    The improved update makes up for errors of `restore`: where a degradation moves x_0 by t e, with one e for
    every x_0, it is exact whatever `restore` gives. restore: any x_t (B, *S), t (B,), cond -> x0_hat.
    """
    x = at_least_float32(x)
    for step in range(steps):
        t, s = (steps - step) / steps, (steps - step - 1) / steps
        x0 = restore(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device), cond).to(x.dtype)
        if callback is not None:
            callback(step, t, x, x0)
        x = x - degrade(x0, t) + degrade(x0, s) if improved else degrade(x0, s)
    return x


@bounded
def blur(
    x0: Tensor, t: Annotated[float, "0 <= t <= 1"], pixels: Annotated[float, "pixels > 0"] = 8.0
) -> Tensor:
    """A Gaussian blur of standard deviation t * pixels, (B, C, H, W), over edges that wrap around: linear,
    and by Fourier transform, so that it is exact at any width. 0 is x0 itself."""
    if t == 0:
        return x0
    x0 = at_least_float32(x0)
    height, width = x0.shape[-2:]
    y = torch.fft.fftfreq(height, dtype=x0.dtype, device=x0.device)
    x = torch.fft.rfftfreq(width, dtype=x0.dtype, device=x0.device)
    low_pass = torch.exp(-2 * (math.pi * t * pixels) ** 2 * (y.unsqueeze(1) ** 2 + x**2))  # (H, W // 2 + 1)
    return torch.fft.irfft2(torch.fft.rfft2(x0) * low_pass, s=(height, width))


@bounded
def pixelate(
    x0: Tensor, t: Annotated[float, "0 <= t <= 1"], coarsest: Annotated[int, "coarsest >= 1"] = 2
) -> Tensor:
    """Mean colours of ever larger blocks, (B, C, H, W), at t = 1 `coarsest` a side and in between
    geometrically. Linear; 0 is x0 itself."""
    size = x0.shape[-2:]
    blocks = [round(n * (min(coarsest, n) / n) ** t) for n in size]
    return F.interpolate(F.interpolate(x0, blocks, mode="area"), tuple(size), mode="nearest")
