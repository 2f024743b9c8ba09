"""Samplers: plain functions that walk a grid from x_T to x_0 through a denoise function. Here are those that
take each step by itself; those with a history are in multistep.py, and all are reached through this module.

All share `f(denoise, x, grid, cond=None, *, noise=torch.randn_like, callback=None, ...) -> x`:
    denoise   x_t (B, *S), t (B,), cond -> x0_hat (B, *S)
    x         the start, at the grid's first level, (B, *S): sigma_T times standard noise
    noise     called with x once per stochastic step, in the order of the steps; gives a tensor like x
    callback  called once per step with (step, t, x, x0_hat), before x moves on from t
The state is float32 at least. Gradients are not recorded. Randomness is an argument. Nothing here knows of
networks, objectives or guidance. In the formulas t is the level now and s < t the next one.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.grid import Grid, Level
from unclip.diffusion.multistep import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    dpmpp_3m_sde,
    plms,
    pndm,
    unipc,
)
from unclip.diffusion.steps import (
    Callback,
    Noise,
    denoise_at,
    eps_hat,
    heun_slope,
    is_noise,
    move,
    move_eps,
    walk,
)
from unclip.diffusion.variance import Variance, forward_variance, large, posterior_variance, small

__all__ = [
    "Callback",
    "Noise",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "euler",
    "euler_ancestral",
    "heun",
    "invert",
    "lcm",
    "plms",
    "pndm",
    "unipc",
]


def ddpm(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
    variance: Literal["small", "large"] | Variance = "small",
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2): x_s is Gaussian, and its mean that of the posterior
    q(x_s | x_t, x0_hat), eq. 7, of any two levels,

        alpha_t sigma_s^2 / (alpha_s sigma_t^2) x_t + alpha_s (1 - r) x0_hat,
        r = (alpha_t sigma_s / (alpha_s sigma_t))^2

    variance: "small", the posterior's, with which it is DDIM at eta = 1; "large", the forward process'; or
        a function x_t, x0_hat, t, s -> variance of x_s, such as `variance.Analytic`. None into sigma = 0.
    """
    fixed: dict[object, Variance] = {"small": small, "large": large}
    if isinstance(variance, str):
        if variance not in fixed:
            raise ValueError(
                f"variance = {variance!r}: small, large or a function x_t, x0_hat, t, s -> variance"
            )
        variance = fixed[variance]

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        mean = move(x, x0, t, s, posterior_variance(t, s))
        return mean if s.sigma == 0 else mean + variance(x, x0, t, s) ** 0.5 * noise(x)

    return walk(denoise, x, grid.pairs(), cond, callback, update)


@bounded
def ddim(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
    eta: Annotated[float, "0 <= eta <= 1"] = 0.0,
) -> Tensor:
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - n^2) eps_hat + n z, n^2 = eta^2 times the posterior's variance
    (Song et al. 2021, eq. 12 and 16). eta = 0: the probability-flow ODE, first order; 1: `ddpm`."""

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        variance = eta**2 * posterior_variance(t, s)
        x = move(x, x0, t, s, variance)
        return x + math.sqrt(variance) * noise(x) if variance > 0 else x

    return walk(denoise, x, grid.pairs(), cond, callback, update)


def euler(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Euler's method on d(x/alpha) / d(sigma/alpha) = eps_hat (Karras et al. 2022, section 3), and on dx/dt =
    eps_hat - x0_hat of the flow schedule: `ddim` at eta = 0, exactly. Draws no noise."""
    return ddim(denoise, x, grid, cond, noise=noise, callback=callback)


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Euler's method down to less than the next level's noise, and fresh noise up to it (k-diffusion's
    `sample_euler_ancestral`): `ddim` at eta = 1 and `ddpm` with the small variance, exactly."""
    return ddim(denoise, x, grid, cond, noise=noise, callback=callback, eta=1.0)


@bounded
def heun(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
    S_churn: Annotated[float, "S_churn >= 0"] = 0.0,
    S_tmin: Annotated[float, "S_tmin >= 0"] = 0.0,
    S_tmax: Annotated[float | None, "S_tmax >= 0"] = None,
    S_noise: Annotated[float, "S_noise > 0"] = 1.0,
) -> Tensor:
    """Heun's method on d(x/alpha) / d(sigma/alpha) = eps_hat, second order, two evaluations a step (Karras
    et al. 2022, algorithm 1). DDIM steps into sigma = 0 and where alpha < 1e-3 sigma.

    S_churn > 0 (algorithm 2): before each of the N steps from a level with S_tmin <= sigma/alpha <= S_tmax,
    noise of deviation S_noise raises that to (1 + min(S_churn / N, sqrt 2 - 1)) sigma/alpha, or to the
    schedule's noisiest level. At 0 no noise is drawn. S_tmax None: any. The callback sees the level raised.
    """
    gamma = min(S_churn / grid.steps, math.sqrt(2) - 1)
    raised: dict[Level, Level] = {}
    if gamma > 0:
        top = math.inf if S_tmax is None else S_tmax
        within = [t for t, _ in grid.pairs() if t.alpha > 0 and S_tmin <= t.sigma / t.alpha <= top]
        log_snr = [2 * math.log(t.alpha / (t.sigma * (1 + gamma))) for t in within]
        raised = dict(zip(within, grid.levels_at(log_snr), strict=True))

    def churn(x: Tensor, t: Level) -> tuple[Tensor, Level]:
        hat = raised.get(t, t)
        variance = forward_variance(hat, t) if hat is not t else 0.0
        if variance <= 0:  # no churn here, or no noisier level
            return x, t
        return hat.alpha / t.alpha * x + S_noise * math.sqrt(variance) * noise(x), hat

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        if s.sigma == 0 or is_noise(t):
            return move(x, x0, t, s)
        return move_eps(x, heun_slope(denoise, cond, x, x0, t, s), t, s)

    return walk(denoise, x, grid.pairs(), cond, callback, update, churn)


def lcm(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1; Luo et al. 2023, algorithm 3): x0_hat, and
    all of its noise anew: x_s = alpha_s x0_hat + sigma_s z. For a `denoise` that jumps to the end of the ODE's
    path, as consistency models do; one of the posterior mean comes out blurred."""

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        x = move(x, x0, t, s, s.sigma**2)
        return x + s.sigma * noise(x) if s.sigma > 0 else x

    return walk(denoise, x, grid.pairs(), cond, callback, update)


@torch.no_grad()
def invert(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """DDIM inversion: the grid walked upwards, from x at its last level to what `ddim` would have started from
    (Song et al. 2021, section 4.3; Dhariwal & Nichol 2021, appendix F). First order. Draws no noise.

    x (B, *S): clean where the grid ends at sigma = 0, whose t is never evaluated. The step out of it takes
    eps_hat from the level before, at alpha x, and is not seen by the callback.
    """
    upwards = grid.levels[::-1]
    if upwards[0].sigma == 0:
        upwards = upwards[1:]
        level, mean = upwards[0], upwards[0].alpha * at_least_float32(x)
        x = mean + level.sigma * eps_hat(mean, denoise_at(denoise, cond, mean, level), level)
    return walk(denoise, x, pairwise(upwards), cond, callback, move)
