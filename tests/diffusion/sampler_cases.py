"""What the samplers' tests share: the samplers, grids between noise levels, and the exact moments of what a
sampler makes of Gaussian data. No tests."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from unclip.diffusion import (
    Gaussian,
    Grid,
    ddim,
    ddpm,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    dpmpp_3m_sde,
    euler,
    euler_ancestral,
    heun,
    lcm,
    log_snr,
    plms,
    pndm,
    unipc,
)

partial = functools.partial
MEAN, STD = 0.7, 0.4  # of the Gaussian data

third_order = partial(dpmpp_3m, curvature=2.0)
churned = partial(heun, S_churn=8.0)
DETERMINISTIC = [ddim, heun, dpmpp_2m, dpmpp_3m, third_order, unipc, pndm]
STOCHASTIC = [
    ddpm,
    partial(ddpm, variance="large"),
    partial(ddim, eta=0.5),
    dpmpp_2m_sde,
    partial(dpmpp_2m_sde, eta=0.5, solver="heun"),
    dpmpp_3m_sde,
]
SAMPLERS = [*DETERMINISTIC, *STOCHASTIC, churned, lcm]
# other names, and parameters at which two are one
ALIASES = [
    (euler, ddim),
    (plms, pndm),
    (euler_ancestral, ddpm),
    (partial(ddim, eta=1.0), ddpm),
    (partial(dpmpp_2m_sde, eta=0.0), dpmpp_2m),
    (partial(dpmpp_3m_sde, eta=0.0, solver="midpoint"), dpmpp_3m),
]


def name(value):
    if isinstance(value, functools.partial):
        return "-".join([value.func.__name__, *(f"{k}={v}" for k, v in value.keywords.items())])
    return getattr(value, "__name__", type(value).__name__)


def keyed(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def interior(schedule, steps, even_in="t"):
    """A grid between two noise levels, t from .95 to .05, where the error of a method is not the ends': even
    in t or in log_snr."""
    t = torch.linspace(0.95, 0.05, steps + 1, dtype=torch.float64)
    t = t * (1 if schedule.T is None else schedule.T - 1)
    if even_in == "log_snr":
        noise, data = log_snr(schedule, t[[0, -1]]).tolist()
        t = schedule.t_at(torch.linspace(noise, data, steps + 1, dtype=torch.float64))
    return Grid(t, *schedule(t), schedule)


def order(error: Callable[[int], float], coarse=80, fine=320):
    """The slope of an error in the number of steps."""
    return math.log(error(coarse) / error(fine)) / math.log(fine / coarse)


def moments(sampler, schedule, grid, pure_noise=False) -> tuple[float, float]:
    """Mean and standard deviation of what a sampler makes of Gaussian data, exactly.

    The exact denoiser is affine, so the sample is too: mean + sum_i gain_i z_i over the start and every draw
    of noise. Row 0 gets no noise at all, row 1 only the start's, row 2 + i only that of draw i. The start is
    what the data are at the grid's first level, or pure noise, as samplers are used.
    """
    first = grid.levels[0]
    rows = torch.full((grid.steps + 2, 1), 0.0 if pure_noise else first.alpha * MEAN, dtype=torch.float64)
    rows[1] += first.sigma if pure_noise else spread(first)
    draws = iter(range(2, grid.steps + 2))

    def noise(x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        z[next(draws)] = 1
        return z

    got = sampler(Gaussian(schedule, MEAN, STD), rows, grid, noise=noise)
    return got[0].item(), (got[1:] - got[0]).norm().item()


def spread(level) -> float:
    """The standard deviation of the data at a noise level."""
    return math.hypot(level.alpha * STD, level.sigma)
