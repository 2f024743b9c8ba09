"""Families of betas for `schedule.Discrete`: T -> (T,) float64. Not schedules themselves."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded


@bounded
def linear_betas(
    T: Annotated[int, "T >= 2"],
    beta_start: Annotated[float, "0 < beta_start <= 1"] = 1e-4,
    beta_end: Annotated[float, "0 < beta_end <= 1"] = 0.02,
) -> Tensor:
    """beta linear in t, (T,) float64 (Ho et al. 2020, section 4). The ends are not rescaled with T."""
    return torch.linspace(beta_start, beta_end, T, dtype=torch.float64)


@bounded
def scaled_linear_betas(
    T: Annotated[int, "T >= 2"],
    beta_start: Annotated[float, "0 < beta_start <= 1"] = 0.00085,
    beta_end: Annotated[float, "0 < beta_end <= 1"] = 0.012,
) -> Tensor:
    """sqrt(beta) linear in t, (T,) float64, with the ends of latent diffusion (Rombach et al. 2022)."""
    return linear_betas(T, math.sqrt(beta_start), math.sqrt(beta_end)).square()


@bounded
def quadratic_betas(
    T: Annotated[int, "T >= 2"],
    beta_start: Annotated[float, "0 < beta_start <= 1"] = 1e-4,
    beta_end: Annotated[float, "0 < beta_end <= 1"] = 0.02,
) -> Tensor:
    """The same curve between the ends of the linear table, (T,) float64: "quad" of the DDPM and DDIM code."""
    return scaled_linear_betas(T, beta_start, beta_end)


@bounded
def cosine_betas(
    T: Annotated[int, "T >= 2"],
    s: Annotated[float, "s >= 0"] = 0.008,
    max_beta: Annotated[float, "0 < max_beta <= 1"] = 0.999,
) -> Tensor:
    """alpha_bar proportional to cos^2(pi/2 (t/T + s)/(1 + s)), beta clipped (Nichol & Dhariwal 2021, eq. 17).

    (T,) float64. The clip leaves alpha = 4.9e-5 at the end of T = 1000.
    """
    t = torch.arange(T + 1, dtype=torch.float64) / T
    alpha_bar = torch.cos(math.pi / 2 * (t + s) / (1 + s)).square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


@bounded
def sigmoid_betas(
    T: Annotated[int, "T >= 2"],
    beta_start: Annotated[float, "0 < beta_start <= 1"] = 1e-4,
    beta_end: Annotated[float, "0 < beta_end <= 1"] = 0.02,
    reach: Annotated[float, "reach > 0"] = 6.0,
) -> Tensor:
    """beta follows a sigmoid of t from -reach to reach, (T,) float64 (Xu et al. 2022, GeoDiff)."""
    rise = torch.linspace(-reach, reach, T, dtype=torch.float64).sigmoid()
    return beta_start + rise * (beta_end - beta_start)


@bounded
def jsd_betas(T: Annotated[int, "T >= 2"]) -> Tensor:
    """beta = 1/T, 1/(T-1), ..., 1, (T,) float64 (Sohl-Dickstein et al. 2015, section 2.4.1): alpha_bar falls
    linearly in t and ends at exactly 0, from where the eps objective cannot sample."""
    return torch.arange(T, 0, -1, dtype=torch.float64).reciprocal()
