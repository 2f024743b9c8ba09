"""Sampling that starts from a picture or keeps part of one, with any denoise function and any sampler of
`sample`. No network is asked to know of it, and none is trained for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32, over
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.grid import Grid, Level
from unclip.diffusion.sample import ddpm
from unclip.diffusion.steps import Callback, Noise
from unclip.diffusion.variance import forward_variance

CLEAN = Level(t=0.0, alpha=1.0, sigma=0.0)  # where x_t is x_0, in every schedule


@bounded
def image_to_image(
    denoise: Denoise,
    x0: Tensor,
    grid: Grid,
    sampler: Callable[..., Tensor],
    strength: Annotated[float, "0 <= strength <= 1"] = 1.0,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Noise x0 (B, *S) to an interior level of the grid and sample from there (Meng et al. 2022, SDEdit).

    strength: the share of the grid's steps that are walked, to the nearest step: 0 is x0 itself, 1 the whole
    grid, which is plain sampling where it starts at alpha = 0. A level by its index i: `grid[i:]`.
    """
    walked = round(strength * grid.steps)
    if walked == 0:
        return at_least_float32(x0)
    rest = grid[grid.steps - walked :]
    x = renoise(at_least_float32(x0), CLEAN, rest.levels[0], noise)
    return sampler(denoise, x, rest, cond, noise=noise, callback=callback)


@torch.no_grad()
@bounded
def inpaint(
    denoise: Denoise,
    x0: Tensor,
    mask: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    sampler: Callable[..., Tensor] = ddpm,
    resample: Annotated[int, "resample >= 1"] = 1,
    jump: Annotated[int, "jump >= 1"] = 1,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Samples (B, *S) that are x0 where the mask is True: the known part is put in, noised, at every level
    (Lugmayr et al. 2022, algorithm 1).

    x0: (B, *S); where the mask is False its values do not matter. mask: bool, broadcast to x0, e.g. (H, W).
    sampler: takes each step by itself, so that multistep ones are first order, and `heun` churns as on a grid of
        one step; the paper's is ddpm.
    resample: how often each part of the walk is walked (RePaint's U); 1 is plain replacement, whose new part
        is drawn before the known part is known. Between, x is noised again, by `jump` steps (RePaint's j).
        On N steps that costs N + (resample - 1) jump ((N-1) // jump) evaluations.
    The clean end is not noised again. The callback's steps count evaluations.
    """
    x0 = at_least_float32(x0)
    _check_mask(mask, x0)
    if resample > 1 and jump >= grid.steps:
        raise ValueError(
            f"jump = {jump}: on a grid of {grid.steps} steps it must satisfy jump < {grid.steps}"
        )
    known, levels = torch.where(mask, x0, 0), grid.levels
    x = renoise(known, CLEAN, levels[0], noise)
    evaluations = 0

    def count(_: int, t: float, x: Tensor, x0_hat: Tensor) -> None:
        nonlocal evaluations
        if callback is not None:
            callback(evaluations, t, x, x0_hat)
        evaluations += 1

    for here, there in pairwise(_there_and_back(grid.steps, resample, jump)):
        if there < here:
            x = renoise(x, levels[here], levels[there], noise)
            continue
        x = sampler(denoise, x, grid[here : there + 1], cond, noise=noise, callback=count)
        x = torch.where(mask, renoise(known, CLEAN, levels[there], noise), x)
    return x


def outpaint(denoise: Denoise, x0: Tensor, padding: Sequence[int], grid: Grid, **options: Any) -> Tensor:
    """What lies around x0: `inpaint`, with its options, of x0 padded by (left, right, top, bottom, ...), as
    many pairs as axes grow, the last axis first. The network must take the larger size."""
    if len(padding) % 2 or len(padding) > 2 * (x0.ndim - 1) or min(padding, default=-1) < 0:
        raise ValueError(
            f"padding = {list(padding)}: x0 of shape {tuple(x0.shape)} takes 1 to {x0.ndim - 1} pairs of "
            "numbers >= 0, the last axis first"
        )
    mask = F.pad(torch.ones_like(x0, dtype=torch.bool), tuple(padding))
    return inpaint(denoise, F.pad(x0, tuple(padding)), mask, grid, **options)


def renoise(x: Tensor, s: Level, t: Level, noise: Noise = torch.randn_like) -> Tensor:
    """A draw of q(x_t | x_s), (B, *S), t noisier than s: alpha_t / alpha_s x_s and fresh noise (Ho et al.
    2020, eq. 2, of any two levels). From the clean level to itself, x."""
    if t.sigma == 0:
        return x
    return t.alpha / s.alpha * x + math.sqrt(forward_variance(t, s)) * noise(x)


def slerp(a: Tensor, b: Tensor, w: float | Tensor) -> Tensor:
    """Spherical interpolation of latents, (B, *S) each, from a at w = 0 to b at w = 1 (Shoemake 1985):

        (sin((1 - w) angle) a + sin(w angle) b) / sin(angle)

    which keeps the length of Gaussian noise, that a line would shorten. w: a number or (B,). Where the angle
    is small it is the line, exactly; opposite a and b have no shortest way between them.
    """
    a, b = at_least_float32(a), at_least_float32(b)
    unit_a, unit_b = (F.normalize(x.flatten(1), dim=1) for x in (a, b))
    # by atan2: acos of a dot product near 1 loses half of its digits
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=1), (unit_a + unit_b).norm(dim=1))
    w = torch.as_tensor(w, dtype=angle.dtype, device=angle.device)
    share_a, share_b = (v * _sinc(v * angle) / _sinc(angle) for v in (1 - w, w))
    return over(share_a, a) * a + over(share_b, b) * b


def _sinc(x: Tensor) -> Tensor:
    return torch.sinc(x / math.pi)


def _there_and_back(steps: int, resample: int, jump: int) -> list[int]:
    """The indices of the levels visited, 0 ... steps: from the last level that is not clean and every
    `jump` before it, where there are that many, back by `jump`, resample - 1 times."""
    again = dict.fromkeys(range(steps - 1, jump - 1, -jump), resample - 1)
    path = [0]
    while path[-1] < steps:
        path.append(path[-1] + 1)
        if again.get(path[-1], 0) > 0:
            again[path[-1]] -= 1
            path.append(path[-1] - jump)
    return path


def _check_mask(mask: Tensor, x0: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise ValueError(f"mask of dtype {mask.dtype}: must be torch.bool, True where x0 is kept")
    sizes = zip(reversed(mask.shape), reversed(x0.shape), strict=False)
    if mask.ndim > x0.ndim or any(m not in (1, x) for m, x in sizes):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)}: must broadcast to x0's {tuple(x0.shape)}, like "
            f"{tuple(x0.shape[1:])}"
        )
