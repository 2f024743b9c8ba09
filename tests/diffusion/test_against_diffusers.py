"""diffusers, and DDPM's own formulas, as oracles: the same tables, and the same state after every step."""

from __future__ import annotations

import functools
import itertools

import diffusers
import diffusers.schedulers.scheduling_ddpm as diffusers_ddpm
import pytest
import torch

from unclip.diffusion import (
    Discrete,
    Grid,
    cosine_betas,
    ddim,
    ddpm,
    dpmpp_2m,
    linear_betas,
    make_grid,
    quadratic_betas,
    scaled_linear_betas,
    sigmoid_betas,
    unipc,
)

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
    beta_schedule, betas, ends = TABLES[case]
    theirs = diffusers.DDPMScheduler(num_train_timesteps=T, beta_schedule=beta_schedule, **ends)
    # theirs are products of float32
    torch.testing.assert_close(Discrete(betas(T)).betas, theirs.betas.double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        Discrete(betas(T)).alpha_bar, theirs.alphas_cumprod.double(), rtol=1e-4, atol=1e-8
    )


def x0_hat(x, t, cond=None):
    """Any smooth function of x and t will do for a model."""
    return torch.tanh(1.5 * x + 0.3) * torch.cos(t / 700).reshape(-1, 1)


def compare(sampler, scheduler, table, step_kwargs, noises, monkeypatch):
    """Walks both samplers over diffusers' own timesteps; its tables are replaced by float64 ones of the same
    betas."""
    scheduler.set_timesteps(len(noises) - 1)
    timesteps = scheduler.timesteps.tolist()
    scheduler.alphas_cumprod = table.alpha_bar
    grid = make_grid(table, None, timesteps)
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([grid.sigma[:-1] / grid.alpha[:-1], torch.zeros(1)])
    draw = iter(noises)
    monkeypatch.setattr(diffusers_ddpm, "randn_tensor", lambda *args, **kwargs: next(draw))
    x = theirs = noises[-1]
    states = []
    for i, t in enumerate(timesteps):
        states.append(theirs)
        alpha, sigma = grid.alpha[i], grid.sigma[i]
        eps = (theirs - alpha * x0_hat(theirs, torch.tensor([t]))) / sigma
        kwargs = {"variance_noise": noises[i]} if step_kwargs.get("eta") else {}
        theirs = scheduler.step(eps, t, theirs, **step_kwargs, **kwargs).prev_sample

    ours = []
    remaining = iter(noises)
    last = sampler(
        x0_hat, x, grid, noise=lambda x: next(remaining), callback=lambda step, t, x, x0: ours.append(x)
    )
    assert len(ours) == len(states) == len(timesteps)
    for mine, oracle in zip([*ours, last], [*states, theirs], strict=True):
        assert (mine - oracle).norm() <= 1e-6 * oracle.norm()


CASES = {
    "ddim": (ddim, diffusers.DDIMScheduler, {"clip_sample": False}, {"eta": 0.0}),
    "ddim eta=1": (
        functools.partial(ddim, eta=1.0),
        diffusers.DDIMScheduler,
        {"clip_sample": False},
        {"eta": 1.0},
    ),
    "ddim eta=.3": (
        functools.partial(ddim, eta=0.3),
        diffusers.DDIMScheduler,
        {"clip_sample": False},
        {"eta": 0.3},
    ),
    "ddpm": (ddpm, diffusers.DDPMScheduler, {"clip_sample": False}, {}),
    "dpmpp_2m": (dpmpp_2m, diffusers.DPMSolverMultistepScheduler, {}, {}),
    "unipc": (unipc, diffusers.UniPCMultistepScheduler, {}, {}),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize(
    ("betas_name", "case", "spacing"),
    [
        cell
        for cell in itertools.product(["linear", "scaled_linear", "cosine"], CASES, ["leading", "trailing"])
        if cell != ("cosine", "unipc", "trailing")  # ours leaves alpha < 1e-3 sigma by DDIM, on purpose
    ],
)
def test_states(betas_name, case, spacing, monkeypatch):
    beta_schedule, betas, ends = TABLES[betas_name]
    sampler, scheduler, options, step_kwargs = CASES[case]
    generator = torch.Generator().manual_seed(0)
    noises = torch.randn(26, 4, 3, generator=generator, dtype=torch.float64)
    oracle = scheduler(beta_schedule=beta_schedule, timestep_spacing=spacing, **ends, **options)
    compare(sampler, oracle, Discrete(betas(1000)), step_kwargs, noises, monkeypatch)


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
