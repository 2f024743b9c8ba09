"""diffusers as the oracle of the samplers: the same state after every step, to 1e-6 of it, along diffusers' own
levels. Its third-order SDE is no oracle, and the exact variance of Gaussian data is the judge."""

from __future__ import annotations

import itertools
from functools import partial

import diffusers
import pytest
import torch
from diffusers.schedulers import scheduling_ddpm, scheduling_euler_ancestral_discrete, scheduling_lcm
from sampler_cases import interior, moments, order, spread

from unclip.diffusion import (
    Cosine,
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
    pndm,
    unipc,
)

TABLES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


def x0_hat(x, t, cond=None):
    """Any smooth function of x and t will do for a model."""
    return torch.tanh(1.5 * x + 0.3) * torch.cos(t / 700).reshape(-1, 1)


NOISES = torch.randn(26, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STEPS = 25


def own_grid(scheduler, t, last_alpha_bar=1.0):
    """The levels diffusers itself walks: its t, and its float32 table as it is, in float64."""
    if hasattr(scheduler, "sigmas"):  # of x / alpha
        scheduler.sigmas = scheduler.sigmas.double()
        steps = torch.unique_consecutive(scheduler.sigmas)
        alpha_bar = 1 / (1 + steps**2)
        return Grid([*t, -1.0], alpha_bar.sqrt(), steps * alpha_bar.sqrt())
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    alpha_bar = [*(scheduler.alphas_cumprod[int(i)].item() for i in t), last_alpha_bar]
    alpha_bar = torch.tensor(alpha_bar, dtype=torch.float64)
    return Grid([*t, -1.0], alpha_bar.sqrt(), (1 - alpha_bar).sqrt())


def ours(sampler, x, grid):
    """The state before every step, and the last."""
    states, remaining = [], iter(NOISES)
    last = sampler(
        x0_hat, x, grid, noise=lambda x: next(remaining), callback=lambda step, t, x, x0: states.append(x)
    )
    return [*states, last]


def agree(states, oracle):
    assert len(states) == len(oracle) > 2
    for mine, theirs in zip(states, oracle, strict=True):
        assert (mine - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.fixture(autouse=True)
def given_noise(monkeypatch):
    """diffusers draws what our samplers are given."""
    draws = iter(NOISES)
    for module in (scheduling_ddpm, scheduling_lcm, scheduling_euler_ancestral_discrete):
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(draws))


NO_CLIP = {"clip_sample": False}
SDE = {"algorithm_type": "sde-dpmsolver++"}
CASES = {  # sampler, scheduler, its options, those of its step
    "ddim": (ddim, diffusers.DDIMScheduler, NO_CLIP, {"eta": 0.0}),
    "ddim eta=1": (partial(ddim, eta=1.0), diffusers.DDIMScheduler, NO_CLIP, {"eta": 1.0}),
    "ddim eta=.3": (partial(ddim, eta=0.3), diffusers.DDIMScheduler, NO_CLIP, {"eta": 0.3}),
    "ddpm": (ddpm, diffusers.DDPMScheduler, NO_CLIP, {}),
    "ddpm large": (
        partial(ddpm, variance="large"),
        diffusers.DDPMScheduler,
        {**NO_CLIP, "variance_type": "fixed_large"},
        {},
    ),
    "dpmpp_2m": (dpmpp_2m, diffusers.DPMSolverMultistepScheduler, {}, {}),
    "dpmpp_2m heun": (
        partial(dpmpp_2m, solver="heun"),
        diffusers.DPMSolverMultistepScheduler,
        {"solver_type": "heun"},
        {},
    ),
    "dpmpp_3m": (dpmpp_3m, diffusers.DPMSolverMultistepScheduler, {"solver_order": 3}, {}),
    "dpmpp_2m_sde": (dpmpp_2m_sde, diffusers.DPMSolverMultistepScheduler, SDE, {"variance_noise": NOISES}),
    "dpmpp_2m_sde heun": (
        partial(dpmpp_2m_sde, solver="heun"),
        diffusers.DPMSolverMultistepScheduler,
        {**SDE, "solver_type": "heun"},
        {"variance_noise": NOISES},
    ),
    "unipc": (unipc, diffusers.UniPCMultistepScheduler, {}, {}),
}
LEFT_OUT = {
    *(
        ("cosine", "unipc", spacing) for spacing in ("trailing", "linspace")
    ),  # ours leaves alpha < 1e-3 sigma by DDIM, on purpose
    *((betas, "ddpm large", "trailing") for betas in TABLES),  # theirs adds noise to the clean end
    *((betas, case, "linspace") for betas in TABLES for case in CASES if case.startswith("dd")),
}  # whose steps to the level before do not meet the grid


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize(
    ("betas_name", "case", "spacing"),
    [
        cell
        for cell in itertools.product(TABLES, CASES, ["leading", "trailing", "linspace"])
        if cell not in LEFT_OUT
    ],
)
def test_states(betas_name, case, spacing):
    sampler, scheduler_class, options, step_options = CASES[case]
    scheduler = scheduler_class(timestep_spacing=spacing, **TABLES[betas_name], **options)
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps.tolist()
    grid = own_grid(scheduler, timesteps)
    x, oracle = NOISES[-1], [NOISES[-1]]
    for i, t in enumerate(timesteps):
        eps = (x - grid.alpha[i] * x0_hat(x, torch.tensor([t]))) / grid.sigma[i]
        step = {k: v[i] if k == "variance_noise" else v for k, v in step_options.items()}
        if step.get("eta"):
            step["variance_noise"] = NOISES[i]
        x = scheduler.step(eps, t, x, **step).prev_sample
        oracle.append(x)
    agree(ours(sampler, NOISES[-1], grid), oracle)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("betas_name", ["linear", "scaled_linear"])
@pytest.mark.parametrize(
    ("sampler", "scheduler_class"),
    [
        (heun, diffusers.HeunDiscreteScheduler),
        (euler, diffusers.EulerDiscreteScheduler),
        (euler_ancestral, diffusers.EulerAncestralDiscreteScheduler),
    ],
)
def test_states_of_x_over_alpha(sampler, scheduler_class, betas_name, spacing):
    """Schedulers that walk x / alpha, by sigma / alpha. Heun's asks twice a step but the last."""
    scheduler = scheduler_class(timestep_spacing=spacing, prediction_type="sample", **TABLES[betas_name])
    if sampler is euler_ancestral:
        scheduler.register_to_config(prediction_type="epsilon")  # it knows no x_0
    scheduler.set_timesteps(STEPS)
    scheduler.is_scale_input_called = True
    timesteps = scheduler.timesteps.tolist()
    grid = own_grid(scheduler, list(dict.fromkeys(timesteps)))
    x = NOISES[-1] / grid.alpha[0]
    oracle = []
    for call, t in enumerate(timesteps):
        level = grid.t.tolist().index(t)
        if sampler is not heun or call % 2 == 0:
            oracle.append(x * grid.alpha[level])
        x0 = x0_hat(x * grid.alpha[level], torch.tensor([t]))
        eps = (x - x0) * grid.alpha[level] / grid.sigma[level]
        x = scheduler.step(eps if sampler is euler_ancestral else x0, t, x).prev_sample
    agree(ours(sampler, NOISES[-1], grid), [*oracle, x])


@pytest.mark.parametrize("betas_name", TABLES)
def test_pndm(betas_name):
    """PLMS as in latent diffusion: from T to the table's own first entry, asked twice at the second level."""
    scheduler = diffusers.PNDMScheduler(
        skip_prk_steps=True, steps_offset=1, timestep_spacing="leading", **TABLES[betas_name]
    )
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps.tolist()
    last = scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    grid = own_grid(scheduler, list(dict.fromkeys(timesteps)), last.item())
    x, oracle = NOISES[-1], []
    for i, t in enumerate(timesteps):
        level = grid.t.tolist().index(t)
        if i != 1:
            oracle.append(x)
        eps = (x - grid.alpha[level] * x0_hat(x, torch.tensor([t]))) / grid.sigma[level]
        x = scheduler.step(eps, t, x).prev_sample
    agree(ours(pndm, NOISES[-1], grid), [*oracle, x])


def test_lcm():
    """The jump back to x_t near t = 0 is the model's own business: it is scaled away."""
    scheduler = diffusers.LCMScheduler(timestep_scaling=1e9)
    scheduler.set_timesteps(6)
    timesteps = scheduler.timesteps.tolist()
    grid = own_grid(scheduler, timesteps)
    x, oracle = NOISES[-1], [NOISES[-1]]
    for i, t in enumerate(timesteps):
        eps = (x - grid.alpha[i] * x0_hat(x, torch.tensor([t]))) / grid.sigma[i]
        x = scheduler.step(eps, t, x).prev_sample
        oracle.append(x)
    agree(ours(lcm, NOISES[-1], grid), oracle)


def test_flow_matching():
    """From sigma = 1, where alpha = 0, by the velocity eps - x_0."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    scheduler.sigmas = scheduler.sigmas.double()
    grid = Grid([*scheduler.timesteps.tolist(), 0.0], 1 - scheduler.sigmas, scheduler.sigmas)
    x, oracle = NOISES[-1], [NOISES[-1]]
    for i, t in enumerate(scheduler.timesteps):
        velocity = (x - x0_hat(x, t.reshape(1))) / grid.sigma[i]
        x = scheduler.step(velocity, t, x).prev_sample
        oracle.append(x)
    agree(ours(euler, NOISES[-1], grid), oracle)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_the_third_order_sde_is_right_where_diffusers_is_not():
    """Its coefficient of x0_hat's bend is that of k-diffusion minus 1: the variance converges at order 1 at
    best, and that of `dpmpp_3m_sde` at order 2 (test_sampler_orders.py)."""

    def theirs(denoise, x, grid, cond=None, *, noise):
        scheduler = diffusers.DPMSolverMultistepScheduler(
            solver_order=3, prediction_type="sample", lower_order_final=False, **SDE
        )
        scheduler.register_to_config(final_sigmas_type="sigma_min")  # of its own kind to the last step
        scheduler.set_timesteps(grid.steps)
        scheduler.sigmas = grid.sigma / grid.alpha
        for timestep, t in zip(scheduler.timesteps, grid.t, strict=False):
            x0 = denoise(x, t.expand(len(x)))
            x = scheduler.step(x0, timestep, x, variance_noise=noise(x)).prev_sample
        return x

    def error(sampler, steps):
        grid = interior(Cosine(), steps, "log_snr")
        return abs(moments(sampler, Cosine(), grid)[1] ** 2 - spread(grid.levels[-1]) ** 2)

    assert order(partial(error, theirs), 40, 160) < 1.2
    assert error(theirs, 160) > 20 * error(dpmpp_3m_sde, 160)
