"""Families of betas for `schedule.Discrete`: T -> (T,) float64. Not schedules themselves.

Families that give beta itself (linear, scaled_linear, quadratic, sigmoid) are rescaled: beta_start and
beta_end are those of T = 1000, and at any other T every beta is 1000/T times as large, so that the sum of the
betas, and nearly alpha_bar at the end, is that of T = 1000. Families that give alpha_bar (cosine, jsd) need no
rescaling. diffusers does not rescale: its tables are these at T = 1000.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded


@bounded
def linear_betas(
    T: Annotated[int, "T >= 2"],
    beta_start: Annotated[float, "0 < beta_start < 1"] = 1e-4,
    beta_end: Annotated[float, "0 < beta_end < 1"] = 0.02,
) -> Tensor:
    """beta linear in t, (T,) float64 (Ho et al. 2020, section 4), rescaled: needs T >= 21 with these ends."""
    return _rescaled(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))


@bounded
def scaled_linear_betas(
    T: Annotated[int, "T >= 2"],
    beta_start: Annotated[float, "0 < beta_start < 1"] = 0.00085,
    beta_end: Annotated[float, "0 < beta_end < 1"] = 0.012,
) -> Tensor:
    """sqrt(beta) linear in t, (T,) float64, with the ends of latent diffusion (Rombach et al. 2022);
    rescaled: needs T >= 13 with these ends."""
    roots = torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), T, dtype=torch.float64)
    return _rescaled(roots.square())


@bounded
def quadratic_betas(
    T: Annotated[int, "T >= 2"],
    beta_start: Annotated[float, "0 < beta_start < 1"] = 1e-4,
    beta_end: Annotated[float, "0 < beta_end < 1"] = 0.02,
) -> Tensor:
    """`scaled_linear_betas` between the ends of the linear table: "quad" of the DDPM and DDIM code."""
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
    beta_start: Annotated[float, "0 < beta_start < 1"] = 1e-4,
    beta_end: Annotated[float, "0 < beta_end < 1"] = 0.02,
    reach: Annotated[float, "reach > 0"] = 6.0,
) -> Tensor:
    """beta follows a sigmoid of t from -reach to reach, (T,) float64 (Xu et al. 2022, GeoDiff), rescaled.
    Not the sigmoid schedule of Chen 2023, which is one of alpha_bar."""
    rise = torch.linspace(-reach, reach, T, dtype=torch.float64).sigmoid()
    return _rescaled(beta_start + rise * (beta_end - beta_start))


@bounded
def jsd_betas(T: Annotated[int, "T >= 2"]) -> Tensor:
    """beta = 1/T, 1/(T-1), ..., 1, (T,) float64 (Sohl-Dickstein et al. 2015, section 2.4.1): alpha_bar falls
    linearly in t and ends at exactly 0, from where the eps objective cannot sample."""
    return torch.arange(T, 0, -1, dtype=torch.float64).reciprocal()


def _rescaled(betas: Tensor) -> Tensor:
    """1000/T times betas (T,). ValueError where that is not below 1."""
    T, largest = len(betas), betas.max().item()
    if largest * 1000 / T >= 1:
        raise ValueError(
            f"T = {T}: every beta must be below 1, and the largest is 1000/T * {largest:.4g} = "
            f"{largest * 1000 / T:.4g}; this family needs T >= {math.floor(largest * 1000) + 1}, cosine any T"
        )
    return betas * (1000 / T)
