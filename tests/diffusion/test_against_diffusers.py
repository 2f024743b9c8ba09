"""diffusers, and DDPM's own formulas, as oracles: the same tables, and the same state after every step."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from unclip.diffusion import (
    Discrete,
    Grid,
    cosine_betas,
    ddpm,
    linear_betas,
    make_grid,
    quadratic_betas,
    scaled_linear_betas,
    sigmoid_betas,
)
from unclip.diffusion.modifiers import Shifted
from unclip.diffusion.schedule import Edm, Flow, zero_terminal_snr

TABLES = {
    "linear": ("linear", linear_betas, {"beta_start": 1e-4, "beta_end": 0.02}),
    "scaled_linear": ("scaled_linear", scaled_linear_betas, {"beta_start": 0.00085, "beta_end": 0.012}),
    "quadratic": ("scaled_linear", quadratic_betas, {"beta_start": 1e-4, "beta_end": 0.02}),
    "cosine": ("squaredcos_cap_v2", cosine_betas, {}),
    "sigmoid": ("sigmoid", sigmoid_betas, {"beta_start": 1e-4, "beta_end": 0.02}),
}


@pytest.mark.parametrize("T", [50, 1000])
@pytest.mark.parametrize("case", TABLES)
def test_tables(case, T):
    """Ours are rescaled with T, theirs are not and are given the rescaled ends."""
    beta_schedule, betas, ends = TABLES[case]
    ends = {name: beta * 1000 / T for name, beta in ends.items()}
    theirs = diffusers.DDPMScheduler(num_train_timesteps=T, beta_schedule=beta_schedule, **ends)
    # theirs are products of float32
    torch.testing.assert_close(Discrete(betas(T)).betas, theirs.betas.double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        Discrete(betas(T)).alpha_bar, theirs.alphas_cumprod.double(), rtol=1e-4, atol=1e-8
    )


@pytest.mark.parametrize("betas", [linear_betas, scaled_linear_betas, cosine_betas])
def test_zero_terminal_snr(betas):
    theirs = rescale_zero_terminal_snr(betas(1000))
    torch.testing.assert_close(zero_terminal_snr(betas(1000)), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_the_shifted_flow(shift):
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    ours = Shifted(Flow(), 64 * shift, 64)(torch.linspace(1, 1e-3, 1000))[1]
    torch.testing.assert_close(ours, theirs.sigmas, rtol=1e-5, atol=0)


def test_edms_steps():
    theirs = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    theirs.set_timesteps(18)
    ours = Edm(0.002, 80.0, 7.0)(torch.linspace(1, 0, 18))[1]
    torch.testing.assert_close(ours, theirs.sigmas[:-1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [10, 27, 50])
def test_grids(spacing, steps):
    oracle = diffusers.DDIMScheduler(timestep_spacing=spacing)
    oracle.set_timesteps(steps)
    assert (
        make_grid(Discrete(linear_betas(1000)), steps, spacing).t[:-1].tolist() == oracle.timesteps.tolist()
    )


def test_one_ddpm_step_is_the_posterior_of_the_paper():
    """Ho et al. 2020, eq. 6 and 7, in the paper's own symbols."""
    betas = linear_betas(1000)
    table = Discrete(betas)
    t = 500
    alpha_bar, alpha_bar_before, beta = table.alpha_bar[t], table.alpha_bar[t - 1], betas[t]
    levels = torch.tensor([t, t - 1], dtype=torch.float64)
    grid = Grid(levels, *table(levels))
    x, x0, z = torch.tensor([[0.3]]).double(), torch.tensor([[-0.8]]).double(), torch.tensor([[1.7]]).double()
    mean = alpha_bar_before.sqrt() * beta / (1 - alpha_bar) * x0
    mean = mean + (1 - beta).sqrt() * (1 - alpha_bar_before) / (1 - alpha_bar) * x
    variance = (1 - alpha_bar_before) / (1 - alpha_bar) * beta
    got = ddpm(lambda x, t, cond: x0, x, grid, noise=lambda x: z)
    torch.testing.assert_close(got, mean + variance.sqrt() * z, rtol=1e-9, atol=0)
