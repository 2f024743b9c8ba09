"""Samplers whose steps remember those before: the DPM-Solver++, UniPC and PNDM families. History lives in
locals. The contract they share with the others, and the one place to reach all of them, is sample.py."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.grid import Grid, Level
from unclip.diffusion.steps import (
    Callback,
    Noise,
    eps_hat,
    heun_slope,
    is_noise,
    move,
    move_eps,
    rise,
    walk,
)
from unclip.diffusion.variance import posterior_variance

Past = list[tuple[Tensor, Level]]  # x0_hat and level of the steps before, newest first


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
    solver: Literal["midpoint", "heun"] = "midpoint",
) -> Tensor:
    """DPM-Solver++(2M), second order, one evaluation a step (Lu et al. 2022b, algorithm 2): DDIM's step with
    x0_hat extrapolated linearly in log(alpha/sigma). First order at the first step and into sigma = 0. Draws
    no noise.

    solver: "midpoint" takes the line's value half-way, "heun" integrates it exactly.
    """
    return _dpmpp(2, denoise, x, grid, cond, noise, callback, 0.0, solver)


@bounded
def dpmpp_3m(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
    solver: Literal["midpoint", "heun"] = "midpoint",
    curvature: Annotated[float, "curvature >= 0"] = 1.0,
) -> Tensor:
    """DPM-Solver++(3M), one evaluation a step (Lu et al. 2022b, appendix B): `dpmpp_2m` with x0_hat on the
    parabola through the last three steps. The second step is 2M's, by its `solver`. Draws no noise.

    curvature: times x0_hat's second difference. 1, as its authors' code and those made after it have it, is
        half of the Taylor expansion's: of second order, with a fraction of 2M's error. 2 is of third order
        but for the first two steps.
    """
    return _dpmpp(3, denoise, x, grid, cond, noise, callback, 0.0, solver, curvature)


@bounded
def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
    eta: Annotated[float, "eta >= 0"] = 1.0,
    solver: Literal["midpoint", "heun"] = "midpoint",
) -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, eq. 19; eta of k-diffusion): `dpmpp_2m` on the reverse SDE, whose
    samples are right in spread to second order. Its first step is `ddpm`'s, into sigma = 0 it draws no noise.

    eta: the speed of the SDE, 0 for the ODE, which is `dpmpp_2m`. solver: as there.
    """
    return _dpmpp(2, denoise, x, grid, cond, noise, callback, eta, solver)


@bounded
def dpmpp_3m_sde(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
    eta: Annotated[float, "eta >= 0"] = 1.0,
    solver: Literal["midpoint", "heun"] = "heun",
    curvature: Annotated[float, "curvature >= 0"] = 1.0,
) -> Tensor:
    """SDE-DPM-Solver++(3M) (k-diffusion's `sample_dpmpp_3m_sde`): `dpmpp_3m` on the reverse SDE. Second order
    in the spread, with less error than 2M. eta, solver and curvature as there."""
    return _dpmpp(3, denoise, x, grid, cond, noise, callback, eta, solver, curvature)


def _dpmpp(
    order: int,
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond,
    noise: Noise,
    callback: Callback | None,
    eta: float,
    solver: str,
    curvature: float = 0.0,
) -> Tensor:
    if solver not in ("midpoint", "heun"):
        raise ValueError(f"solver = {solver!r}: midpoint or heun")
    past: Past = []

    def update(x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
        estimate = x0
        if past and s.sigma > 0:
            estimate = _mean_on_curve(past, x0, t, s, eta, solver, curvature)
        past.insert(0, (x0, t))
        del past[order - 1 :]
        variance = posterior_variance(t, s, eta)
        x = move(x, estimate, t, s, variance)
        return x + math.sqrt(variance) * noise(x) if variance > 0 else x

    return walk(denoise, x, grid.pairs(), cond, callback, update)


def _mean_on_curve(
    past: Past, x0: Tensor, t: Level, s: Level, eta: float, solver: str, curvature: float
) -> Tensor:
    """x0_hat averaged from t to s in lambda = log(alpha/sigma) with the exponential weight of the solution,
    on the line or the parabola through x0_hat at t and at one or two steps before (Lu et al. 2022b, eq. 8).

    In k-diffusion's symbols, h_eta = (1 + eta) h, the averages of (lambda - lambda_t) / h and of half its
    square are phi_2 / phi_1 and -phi_3 / phi_1; slope and bend are derivatives in those units.
    """
    (x0_1, t_1), *older = past
    if solver == "midpoint" and not older:
        return _extrapolate(x0_1, t_1, x0, t, s)
    h = rise(t, s)
    h_eta = (1 + eta) * h
    phi_1 = -math.expm1(-h_eta)
    phi_2 = 1 - phi_1 / h_eta
    phi_3 = phi_2 / h_eta - 1 / 2
    r_1 = rise(t_1, t) / h
    slope = (x0 - x0_1) / r_1
    if not older:
        return x0 + phi_2 / phi_1 * slope
    ((x0_2, t_2),) = older
    r_2 = rise(t_2, t_1) / h
    bend = (slope - (x0_1 - x0_2) / r_2) / (r_1 + r_2)
    return x0 + phi_2 / phi_1 * (slope + r_1 * bend) - curvature * phi_3 / phi_1 * bend


def _extrapolate(x0_before: Tensor, before: Level, x0: Tensor, t: Level, s: Level) -> Tensor:
    """x0_hat half-way from t to s in log(alpha/sigma), on the line through the step before and t."""
    return x0 + rise(t, s) / (2 * rise(before, t)) * (x0 - x0_before)


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
        if is_noise(t):
            return move(x, x0, t, s)
        if history:
            x = _correct(history, x0, t)
        history.append((x, x0, t))
        del history[:-2]
        if len(history) == 1 or s.sigma == 0:
            return move(x, x0, t, s)
        return move(x, _extrapolate(*history[0][1:], x0, t, s), t, s)

    return walk(denoise, x, grid.pairs(), cond, callback, update)


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
        if s.sigma == 0 or is_noise(t):
            return move(x, x0, t, s)
        history.append(eps_hat(x, x0, t))
        if len(history) == 1:
            return move_eps(x, heun_slope(denoise, cond, x, x0, t, s), t, s)
        weights = _ADAMS_BASHFORTH[min(len(history), 4)]
        slope = sum((w * eps for w, eps in zip(weights, reversed(history), strict=True)), torch.zeros_like(x))
        del history[:-3]
        return move_eps(x, slope, t, s)

    return walk(denoise, x, grid.pairs(), cond, callback, update)


_ADAMS_BASHFORTH = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def _correct(history: list[tuple[Tensor, Tensor, Level]], x0: Tensor, t: Level) -> Tensor:
    """UniC: the step from the newest of the history to t again, now that x0_hat at t is known (Zhao et al.
    2023, section 3); of order 1, or 2 with two steps of history: rho_1 + rho_2 = b_1, r rho_1 + rho_2 = b_2.
    """
    x, x0_last, last = history[-1]
    change = x0 - x0_last
    if len(history) == 1:
        return move(x, x0_last + change / 2, last, t)
    _, x0_before, before = history[-2]
    h = rise(last, t)
    r = -rise(before, last) / h
    B = math.expm1(-h)  # the paper's B_2 with h -> -h, for a network of x_0
    b_1 = (B / -h - 1) / B
    b_2 = 2 * ((B / -h - 1) / -h - 1 / 2) / B
    rho_2 = (b_2 - r * b_1) / (1 - r)
    bend = (b_1 - rho_2) / r * (x0_before - x0_last)
    return move(x, x0_last + bend + rho_2 * change, last, t)


def plms(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    cond: Cond = None,
    *,
    noise: Noise = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """The name of `pndm` in latent diffusion (Rombach et al. 2022), whose start is a Heun step too."""
    return pndm(denoise, x, grid, cond, noise=noise, callback=callback)
