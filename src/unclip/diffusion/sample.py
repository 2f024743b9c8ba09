"""Samplers: plain functions that walk a grid from x_T to x_0 through a denoise function. History lives in
locals, randomness is an argument. Nothing here knows of networks, objectives, guidance or schedules.

All share `f(denoise, x, grid, cond=None, *, noise=torch.randn_like, callback=None, ...) -> x`:
    denoise   x_t (B, *S), t (B,), cond -> x0_hat (B, *S)
    x         the start, at the grid's first level, (B, *S): sigma_T times standard noise
    noise     called with x once per stochastic step, in the order of the steps; gives a tensor like x
    callback  called once per step with (step, t, x, x0_hat), before x moves on from t
The state is float32 at least. Gradients are not recorded.
In the formulas t is the level now and s < t the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.grid import Grid, Level

Noise = Callable[[Tensor], Tensor]
Callback = Callable[[int, float, Tensor, Tensor], object]
Update = Callable[[Tensor, Tensor, Level, Level], Tensor]  # x_t, x0_hat, t, s -> x_s


def ddpm(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling: the posterior q(x_s | x_t, x0_hat) (Ho et al. 2020, eq. 6 and 7) of any two levels,

        mean      alpha_t sigma_s^2 / (alpha_s sigma_t^2) x_t + alpha_s (1 - r) x0_hat
        variance  sigma_s^2 (1 - r),    r = (alpha_t sigma_s / (alpha_s sigma_t))^2

    which is DDIM at eta = 1.
    """
    return ddim(denoise, x, grid, cond, noise=noise, callback=callback, eta=1.0)


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
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - n^2) eps_hat + n z, n = eta sigma_s sqrt(1 - r), r as above
    (Song et al. 2021, eq. 12 and 16). eta = 0: the probability-flow ODE, first order; 1: `ddpm`."""

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        r = (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2
        n = eta * s.sigma * math.sqrt(1 - r)
        x = _move(x, x0, t, s, n)
        return x + n * noise(x) if n > 0 else x

    return _walk(denoise, x, grid, cond, callback, update)


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M), second order, one evaluation a step (Lu et al. 2022b, algorithm 2): DDIM's step with
    x0_hat extrapolated linearly in log(alpha/sigma). First order at the first step and into sigma = 0. Draws
    no noise."""
    before: tuple[Tensor, Level] | None = None  # x0_hat and level of the step before

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        nonlocal before
        estimate = x0 if before is None or s.sigma == 0 else _extrapolate(*before, x0, t, s)
        before = x0, t
        return _move(x, estimate, t, s)

    return _walk(denoise, x, grid, cond, callback, update)


def unipc(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """UniPC-2 with B_2(h), one evaluation a step (Zhao et al. 2023, algorithms 1 and 2): `dpmpp_2m`'s step
    and, once x0_hat is known where it arrived, the same step again with x0_hat interpolated. First order into
    sigma = 0; DDIM steps, uncorrected, where alpha < 1e-3 sigma. Draws no noise."""
    history: list[tuple[Tensor, Tensor, Level]] = []  # x, x0_hat and level of the last two steps

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        if _is_noise(t):
            return _move(x, x0, t, s)
        if history:
            x = _correct(history, x0, t)
        history.append((x, x0, t))
        del history[:-2]
        if len(history) == 1 or s.sigma == 0:
            return _move(x, x0, t, s)
        return _move(x, _extrapolate(*history[0][1:], x0, t, s), t, s)

    return _walk(denoise, x, grid, cond, callback, update)


def heun(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Heun's method on d(x/alpha) / d(sigma/alpha) = eps_hat, second order, two evaluations a step (Karras
    et al. 2022, algorithm 1). DDIM steps into sigma = 0 and where alpha < 1e-3 sigma. Draws no noise."""

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        if s.sigma == 0 or _is_noise(t):
            return _move(x, x0, t, s)
        return _move_eps(x, _heun_slope(denoise, cond, x, x0, t, s), t, s)

    return _walk(denoise, x, grid, cond, callback, update)


def pndm(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """Pseudo linear multistep: DDIM's step with eps_hat extrapolated by Adams-Bashforth, of orders 2, 3 and
    then 4 (Liu et al. 2022, eq. 12), after one Heun step. One evaluation a step, two at the start. DDIM steps
    into sigma = 0 and where alpha < 1e-3 sigma, which do not enter the history. Draws no noise."""
    history: list[Tensor] = []  # eps_hat, newest last

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        if s.sigma == 0 or _is_noise(t):
            return _move(x, x0, t, s)
        history.append(_eps(x, x0, t))
        if len(history) == 1:
            return _move_eps(x, _heun_slope(denoise, cond, x, x0, t, s), t, s)
        weights = _ADAMS_BASHFORTH[min(len(history), 4)]
        slope = sum((w * eps for w, eps in zip(weights, reversed(history), strict=True)), torch.zeros_like(x))
        del history[:-3]
        return _move_eps(x, slope, t, s)

    return _walk(denoise, x, grid, cond, callback, update)


_ADAMS_BASHFORTH = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@torch.no_grad()
def _walk(
    denoise: Denoise, x: Tensor, grid: Grid, cond: Cond, callback: Callback | None, update: Update
) -> Tensor:
    """The reverse process: at every level of the grid but the last, x0_hat and then the sampler's update."""
    x = at_least_float32(x)
    for step, (t, s) in enumerate(grid.pairs()):
        x0 = _denoise_at(denoise, cond, x, t)
        if callback is not None:
            callback(step, t.t, x, x0)
        x = update(x, x0, t, s)
    return x


def _denoise_at(denoise: Denoise, cond: Cond, x: Tensor, level: Level) -> Tensor:
    """x0_hat (B, *S) in x's dtype. t in float64 where the device has it: float32 loses 1 - t near t = 1."""
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    t = torch.full((len(x),), level.t, dtype=dtype, device=x.device)
    return denoise(x, t, cond).to(x.dtype)


def _move(x: Tensor, x0: Tensor, t: Level, s: Level, n: float = 0.0) -> Tensor:
    """alpha_s x0_hat + sqrt(sigma_s^2 - n^2) eps_hat, from t to s: what every sampler's step amounts to.

    eps_hat = (x_t - alpha_t x0_hat) / sigma_t makes it linear in x_t and x0_hat, and defined at alpha_t = 0.
    """
    keep = math.sqrt(s.sigma**2 - n**2) / t.sigma
    return keep * x + (s.alpha - keep * t.alpha) * x0


def _move_eps(x: Tensor, eps: Tensor, t: Level, s: Level) -> Tensor:
    """The same step from an estimate of eps; needs alpha_t > 0."""
    return _move(x, (x - t.sigma * eps) / t.alpha, t, s)


def _eps(x: Tensor, x0: Tensor, t: Level) -> Tensor:
    return (x - t.alpha * x0) / t.sigma


def _heun_slope(denoise: Denoise, cond: Cond, x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
    """The mean of eps_hat at t and at where a DDIM step arrives; one evaluation, at s."""
    x_s = _move(x, x0, t, s)
    return (_eps(x, x0, t) + _eps(x_s, _denoise_at(denoise, cond, x_s, s), s)) / 2


def _extrapolate(x0_before: Tensor, before: Level, x0: Tensor, t: Level, s: Level) -> Tensor:
    """x0_hat half-way from t to s in log(alpha/sigma), on the line through the step before and t."""
    return x0 + _rise(t, s) / (2 * _rise(before, t)) * (x0 - x0_before)


def _correct(history: list[tuple[Tensor, Tensor, Level]], x0: Tensor, t: Level) -> Tensor:
    """UniC: the step from the newest of the history to t again, now that x0_hat at t is known (Zhao et al.
    2023, section 3); of order 1, or 2 with two steps of history: rho_1 + rho_2 = b_1, r rho_1 + rho_2 = b_2.
    """
    x, x0_last, last = history[-1]
    change = x0 - x0_last
    if len(history) == 1:
        return _move(x, x0_last + change / 2, last, t)
    _, x0_before, before = history[-2]
    h = _rise(last, t)
    r = -_rise(before, last) / h
    B = math.expm1(-h)  # the paper's B_2 with h -> -h, for a network of x_0
    b_1 = (B / -h - 1) / B
    b_2 = 2 * ((B / -h - 1) / -h - 1 / 2) / B
    rho_2 = (b_2 - r * b_1) / (1 - r)
    bend = (b_1 - rho_2) / r * (x0_before - x0_last)
    return _move(x, x0_last + bend + rho_2 * change, last, t)


def _rise(t: Level, s: Level) -> float:
    """h = log(alpha_s/sigma_s) - log(alpha_t/sigma_t), sigma_s > 0; infinite from alpha_t = 0."""
    return math.log(s.alpha * t.sigma / (s.sigma * t.alpha)) if t.alpha > 0 else math.inf


def _is_noise(level: Level) -> bool:
    """Where x/alpha is no fit variable: the discrete cosine ends at alpha = 4.9e-5 sigma."""
    return level.alpha < 1e-3 * level.sigma
