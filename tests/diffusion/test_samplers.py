"""Samplers against exact solutions: order of convergence, moments of what they give, and the contract they
share."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from unclip.diffusion import (
    X0,
    Cosine,
    Denoiser,
    Discrete,
    Eps,
    Gaussian,
    GaussianMixture,
    Grid,
    Linear,
    cosine_betas,
    ddim,
    ddpm,
    dpmpp_2m,
    heun,
    jsd_betas,
    linear_betas,
    make_grid,
    pndm,
    unipc,
)
from unclip.diffusion.schedule import Edm, Flow, Sigmoid

ORDERS = {ddim: (0.9, 1.1), heun: (1.85, 2.15), dpmpp_2m: (1.65, 2.3), pndm: (1.35, 3.0), unipc: (1.7, 3.2)}
DETERMINISTIC = list(ORDERS)
ancestral = functools.partial(ddim, eta=1.0)
STOCHASTIC = [ddpm, ancestral, functools.partial(ddim, eta=0.5)]
SAMPLERS = DETERMINISTIC + STOCHASTIC
MEAN, STD = 0.7, 0.4


def name(value):
    if isinstance(value, functools.partial):
        return f"{value.func.__name__}-{value.keywords}"
    return getattr(value, "__name__", type(value).__name__)


def keyed(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def interior(schedule, steps):
    """A grid between two noise levels, t from .95 to .05, where the error of a method is not the ends'."""
    t = torch.linspace(0.95, 0.05, steps + 1, dtype=torch.float64) * (
        1 if schedule.T is None else schedule.T - 1
    )
    alpha, sigma = schedule(t)
    return Grid(t=t, alpha=alpha, sigma=sigma)


@pytest.mark.parametrize(
    "schedule", [Linear(), Cosine(), Sigmoid(), Flow(), Discrete(linear_betas(1000))], ids=name
)
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=name)
def test_order_of_convergence_to_the_exact_ode(sampler, schedule):
    x = 2 * keyed(0)(torch.empty(16, 3, dtype=torch.float64))
    exact = Gaussian(schedule, MEAN, STD)

    def error(steps):
        grid = interior(schedule, steps)
        levels = [level for pair in grid.pairs() for level in pair]
        return (sampler(exact, x, grid) - exact.path(x, levels[0], levels[-1])).abs().max().item()

    slope = math.log(error(80) / error(320)) / math.log(4)
    low, high = ORDERS[sampler]
    assert low <= slope <= high


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=name)
def test_every_solver_finds_the_same_mixture(sampler):
    """Curved trajectories between two modes: all agree with a fine solution, and end on the data."""
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=torch.float64)
    exact = GaussianMixture(Linear(), means, 0.1)
    x = keyed(1)(torch.empty(32, 2, dtype=torch.float64))
    fine = heun(exact, x, make_grid(Linear(), 150, "log_snr"))
    got = sampler(exact, x, make_grid(Linear(), 100, "log_snr"))
    assert (got - fine).abs().median().item() < 0.02
    assert (got[:, None] - means).norm(dim=-1).amin(1).max().item() < 0.6


def moments(sampler, schedule, grid):
    """Mean and standard deviation of what a sampler makes of Gaussian data, exactly.

    The exact denoiser is affine, so the sample is too: mean + sum_i gain_i z_i over the start and every draw
    of noise. Row 0 gets no noise at all, row 1 only the start's, row 2 + i only that of draw i.
    """
    rows = torch.zeros(grid.steps + 2, 1, dtype=torch.float64)
    rows[1] = grid.sigma[0]
    draws = iter(range(2, grid.steps + 2))

    def noise(x):
        z = torch.zeros_like(x)
        z[next(draws)] = 1
        return z

    got = sampler(Gaussian(schedule, MEAN, STD), rows, grid, noise=noise)
    return got[0].item(), (got[1:] - got[0]).norm().item()


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "karras", "log_snr"])
@pytest.mark.parametrize("schedule", [Cosine(), Discrete(cosine_betas(1000)), Edm(), Flow()], ids=name)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_the_whole_process_turns_noise_into_the_data(sampler, schedule, spacing):
    """From pure noise to the clean end, on every kind of grid: the data's mean and spread come out, and the
    better the more steps."""
    coarse, fine = (moments(sampler, schedule, make_grid(schedule, steps, spacing)) for steps in (50, 200))
    for got, wanted in zip(fine, (MEAN, STD), strict=True):
        assert got == pytest.approx(wanted, rel=0.08 if sampler in STOCHASTIC else 0.05)
    assert abs(fine[1] - STD) < max(0.4 * abs(coarse[1] - STD), 1e-3)


@pytest.mark.parametrize("sampler", [ddpm, ancestral], ids=name)
def test_ancestral_noise_has_the_posteriors_variance(sampler):
    """The noise term is sigma eps. Written sqrt(sigma) eps, or with the variance for the deviation, the
    spread of the samples is off by far more than this."""
    table = Discrete(linear_betas(1000))
    assert moments(sampler, table, make_grid(table, 1000)) == pytest.approx((MEAN, STD), rel=0.01)


def test_the_default_noise_is_gaussian():
    """Not rand_like: half of it negative, a third beyond one standard deviation."""
    torch.manual_seed(0)
    grid = Grid(t=[0.9, 0.5], alpha=[0.1, 0.8], sigma=[math.sqrt(0.99), 0.6])
    n = 0.6 * math.sqrt(1 - (0.1 * 0.6 / (0.8 * math.sqrt(0.99))) ** 2)
    z = ddpm(lambda x, t, cond: torch.zeros_like(x), torch.zeros(20_000, 1), grid) / n
    assert z.mean().item() == pytest.approx(0, abs=0.03)
    assert z.std().item() == pytest.approx(1, abs=0.02)
    assert (z.abs() > 1).double().mean().item() == pytest.approx(0.317, abs=0.02)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_the_model_is_run_at_every_level_of_the_grid_from_the_noisiest(sampler):
    """A diffusion model is sampled by its whole reverse process: one pass at t = T is not a sample."""
    schedule, seen = Discrete(cosine_betas(1000)), []

    def denoise(x, t, cond=None):
        assert t.shape == (2,)
        assert (t == t[0]).all()
        seen.append(t[0].item())
        return torch.zeros_like(x)

    sampler(denoise, torch.ones(2, 3), make_grid(schedule, 10))
    levels = [999.0, 899.0, 799.0, 699.0, 599.0, 499.0, 399.0, 299.0, 199.0, 99.0]
    assert seen[0] == 999
    assert sorted(set(seen), reverse=True) == levels
    if sampler not in (heun, pndm):
        assert seen == levels


def evaluations(sampler, steps):
    calls = []
    sampler(
        lambda x, t, cond: calls.append(t) or torch.zeros_like(x),
        torch.ones(2, 3),
        make_grid(Linear(), steps),
    )
    return len(calls)


def test_evaluations_a_step():
    """One; for Heun two but into sigma = 0, for PNDM two at the start."""
    expected = {heun: 19, pndm: 11}
    assert [evaluations(sampler, 10) for sampler in SAMPLERS] == [expected.get(s, 10) for s in SAMPLERS]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_noise_is_drawn_once_a_stochastic_step_and_the_condition_is_passed_on(sampler):
    cond, draws, steps = {"embedding": torch.ones(2, 4)}, [], []

    def denoise(x, t, given):
        assert given is cond
        return 0.5 * x

    def noise(x):
        draws.append(len(steps))
        return torch.zeros_like(x)

    def callback(step, t, x, x0_hat):
        assert torch.equal(x0_hat, 0.5 * x)
        steps.append((step, t))

    grid = make_grid(Cosine(), 5)
    sampler(denoise, torch.ones(2, 3), grid, cond, noise=noise, callback=callback)
    assert steps == list(enumerate(grid.t[:-1].tolist()))
    # the step into the clean end is not stochastic
    assert draws == ([1, 2, 3, 4] if sampler in STOCHASTIC else [])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_samples_do_not_depend_on_their_batch(sampler):
    exact = GaussianMixture(Cosine(), torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.2)
    grid = make_grid(Cosine(), 12)
    start, draws = keyed(6)(torch.empty(5, 2)), keyed(7)(torch.empty(12, 5, 2))

    def run(rows):
        remaining = iter(draws)
        return sampler(exact, start[rows], grid, noise=lambda x: next(remaining)[rows])

    alone = torch.cat([run(slice(i, i + 1)) for i in range(5)])
    torch.testing.assert_close(run(slice(None)), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_the_state_is_float32_at_least_and_gradients_are_not_recorded(sampler):
    states = []

    def denoise(x, t, cond):
        states.append(x.dtype)
        assert t.dtype == torch.float64
        return (0.5 * x.detach()).bfloat16().requires_grad_()

    for given, state in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64,) * 2,
    ]:
        states.clear()
        got = sampler(denoise, torch.ones(2, 3, dtype=given), make_grid(Cosine(), 4))
        assert set(states) == {got.dtype} == {state}
        assert not got.requires_grad


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_images_and_vectors_are_sampled_alike(sampler):
    exact = Gaussian(Linear(), MEAN, STD)
    x, draws = keyed(8)(torch.empty(3, 2, 4, 4)), keyed(9)(torch.empty(12, 3, 2, 4, 4))
    images, vectors = iter(draws), iter(draws.flatten(2))
    grid = make_grid(Linear(), 12)
    got = sampler(exact, x, grid, noise=lambda x: next(images))
    flat = sampler(exact, x.flatten(1), grid, noise=lambda x: next(vectors))
    torch.testing.assert_close(got.flatten(1), flat)


@pytest.mark.parametrize("steps", [1, 2, 3, 30])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_from_alpha_0_to_sigma_0(sampler, steps):
    """A table that ends at alpha = 0 exactly: no NaN, and the data's mean and spread as anywhere else. A
    single step can only give the mean."""
    schedule = Discrete(jsd_betas(1000))
    grid = make_grid(schedule, steps)
    assert (grid.alpha[0], grid.sigma[-1]) == (0, 0)
    mean, std = moments(sampler, schedule, grid)
    assert mean == pytest.approx(MEAN, abs=0.03)
    assert std == pytest.approx(
        {1: 0.0, 30: STD}.get(steps, STD / 2), rel=0.2 if steps == 30 else 0.95, abs=1e-9
    )


@pytest.mark.parametrize("sampler", [heun, pndm, unipc], ids=name)
def test_the_step_out_of_pure_noise_is_ddims(sampler):
    """x / alpha is no fit variable at alpha = 4.9e-5, the discrete cosine's end: a second-order first step
    there is off by a factor of 4."""
    schedule = Discrete(cosine_betas(1000))
    grid = make_grid(schedule, 20)
    exact, x = Gaussian(schedule, MEAN, STD), keyed(12)(torch.empty(9, 1, dtype=torch.float64))
    first = Grid(grid.t[:2], grid.alpha[:2], grid.sigma[:2])
    torch.testing.assert_close(sampler(exact, x, first), ddim(exact, x, first))
    assert moments(sampler, schedule, grid) == pytest.approx((MEAN, STD), rel=0.05)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_eps_cannot_be_sampled_from_alpha_0_and_says_why(sampler):
    net = torch.nn.Module()
    net.forward = lambda x, time, cond: torch.zeros_like(x)
    schedule, x = Discrete(jsd_betas(100)), torch.ones(2, 3)
    with pytest.raises(ValueError, match="eps at alpha = 0: x_t is pure noise"):
        sampler(Denoiser(net, schedule, Eps()), x, make_grid(schedule, 10))
    for possible in (
        Denoiser(net, schedule, X0()),
        Denoiser(net, Cosine(), Eps()),  # alpha(1) = 0 too: its grids start at log_snr -20 instead
    ):
        assert sampler(possible, x, make_grid(possible.schedule, 10)).isfinite().all()


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_an_impossible_eta_is_refused(eta):
    with pytest.raises(ValueError, match=f"eta = {eta}: must satisfy 0 <= eta <= 1"):
        ddim(Gaussian(Cosine()), torch.ones(1, 1), make_grid(Cosine(), 2), eta=eta)
