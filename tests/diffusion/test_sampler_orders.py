"""How fast samplers come near the exact solution: orders of convergence between noise levels, and, apart from
them because they are lower, orders and errors on the grids in use, which end at sigma = 0."""

from __future__ import annotations

import functools

import pytest
import torch
from sampler_cases import (
    DETERMINISTIC,
    MEAN,
    STD,
    STOCHASTIC,
    churned,
    interior,
    keyed,
    moments,
    name,
    order,
    spread,
    third_order,
)

from unclip.diffusion import (
    Analytic,
    Cosine,
    Discrete,
    Gaussian,
    GaussianMixture,
    Linear,
    cosine_betas,
    ddim,
    ddpm,
    dpmpp_2m,
    dpmpp_3m,
    heun,
    invert,
    lcm,
    linear_betas,
    make_grid,
    pndm,
    unipc,
)
from unclip.diffusion.schedule import Edm, Flow, Sigmoid

LINEAR, COSINE = Discrete(linear_betas(1000)), Discrete(cosine_betas(1000))
SCHEDULES = [Linear(), Cosine(), Sigmoid(), Flow(), Edm(), LINEAR]
ORDERS = {
    ddim: (0.9, 1.1),
    heun: (1.85, 2.15),
    dpmpp_2m: (1.6, 2.3),
    dpmpp_3m: (1.5, 2.5),
    third_order: (2.2, 6.5),
    unipc: (1.7, 3.2),
    pndm: (1.35, 3.0),
}


def ode_error(sampler, schedule, grid):
    """Root mean square distance from the exact end of the probability-flow ODE, in units of the data."""
    exact, (first, *_, last) = Gaussian(schedule, MEAN, STD), grid.levels
    x = first.alpha * MEAN + spread(first) * keyed(0)(torch.empty(16, 3, dtype=torch.float64))
    return (sampler(exact, x, grid) - exact.path(x, first, last)).square().mean().sqrt().item()


@pytest.mark.parametrize("even_in", ["t", "log_snr"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=name)
def test_order_between_noise_levels(sampler, schedule, even_in):
    low, high = ORDERS[sampler]
    assert low <= order(lambda n: ode_error(sampler, schedule, interior(schedule, n, even_in))) <= high


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_the_parabola_pays_most_with_its_whole_second_difference(schedule):
    errors = [
        ode_error(s, schedule, interior(schedule, 160, "log_snr")) for s in (dpmpp_2m, dpmpp_3m, third_order)
    ]
    assert errors[2] < 0.35 * errors[1]
    assert errors[1] < 0.5 * errors[0] or schedule in (SCHEDULES[0], LINEAR)  # where 2M's errors cancel


@pytest.mark.parametrize("even_in", ["t", "log_snr"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_inversion_is_of_first_order_upwards(schedule, even_in):
    def error(steps):
        grid = interior(schedule, steps, even_in)
        exact, (first, *_, last) = Gaussian(schedule, MEAN, STD), grid.levels
        x = last.alpha * MEAN + spread(last) * keyed(0)(torch.empty(16, 3, dtype=torch.float64))
        return (invert(exact, x, grid) - exact.path(x, last, first)).abs().max().item()

    assert 0.9 <= order(error) <= 1.1


# order from 80 to 320 steps and error at 20, of a grid from t = 1 to sigma = 0, spacing trailing
ENDING_AT_0 = {
    ddim: (0.98, 6.6e-2),
    heun: (1.30, 2.6e-2),
    dpmpp_2m: (1.01, 3.1e-2),
    dpmpp_3m: (1.39, 2.7e-2),
    third_order: (1.45, 2.7e-2),
    unipc: (0.89, 3.0e-2),
    pndm: (1.36, 3.4e-2),
}


@pytest.mark.parametrize("sampler", ENDING_AT_0, ids=name)
def test_the_step_into_sigma_0_hides_the_order(sampler):
    """The VP-SDE's last step is the largest in log-SNR: every method is near first order, and its error at 20
    steps that of the last step, a twelfth of the data's spread."""
    expected = ENDING_AT_0[sampler]
    slope = order(lambda n: ode_error(sampler, Linear(), make_grid(Linear(), n)))
    assert slope == pytest.approx(expected[0], abs=0.1)
    assert ode_error(sampler, Linear(), make_grid(Linear(), 20)) == pytest.approx(expected[1], rel=0.05)


# errors at 10 and 20 steps from t = T to sigma = 0: linear trailing and log_snr, cosine trailing and log_snr
FEW_STEPS = {
    ddim: [(1.2e-1, 6.5e-2), (9.4e-2, 4.8e-2), (6.8e-2, 3.5e-2), (1.4e-1, 7.1e-2)],
    heun: [(7.8e-2, 2.5e-2), (7.7e-2, 1.5e-2), (2.3e-2, 7.0e-3), (2.1e-1, 3.8e-2)],
    dpmpp_2m: [(1.0e-1, 3.1e-2), (1.2e-2, 5.6e-3), (3.1e-2, 3.9e-3), (8.6e-3, 1.1e-2)],
    dpmpp_3m: [(9.4e-2, 2.7e-2), (4.1e-2, 3.4e-3), (2.7e-2, 8.3e-3), (1.1e-1, 1.1e-2)],
    third_order: [(9.2e-2, 2.6e-2), (4.2e-2, 1.3e-3), (2.7e-2, 1.1e-2), (1.4e-1, 6.0e-3)],
    unipc: [(9.9e-2, 2.9e-2), (2.1e-2, 3.7e-3), (2.8e-2, 4.3e-3), (7.5e-3, 1.1e-2)],
    pndm: [(9.9e-2, 3.4e-2), (1.9e-2, 4.7e-3), (3.3e-2, 9.4e-3), (2.5e-2, 1.1e-2)],
}


@pytest.mark.parametrize("sampler", FEW_STEPS, ids=name)
def test_errors_of_few_steps_along_a_table(sampler):
    """From the last entry, where the cosine's alpha is 4.9e-5, in 10 and 20 steps."""
    cases = [(table, spacing) for table in (LINEAR, COSINE) for spacing in ("trailing", "log_snr")]
    for (table, spacing), expected in zip(cases, FEW_STEPS[sampler], strict=True):
        got = [ode_error(sampler, table, make_grid(table, steps, spacing)) for steps in (10, 20)]
        assert got == pytest.approx(expected, rel=0.05)


def variance_error(sampler, schedule, grid):
    return abs(moments(sampler, schedule, grid)[1] ** 2 - spread(grid.levels[-1]) ** 2)


@pytest.mark.parametrize("even_in", ["t", "log_snr"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("sampler", [*STOCHASTIC, churned], ids=name)
def test_order_of_the_variance_between_noise_levels(sampler, schedule, even_in):
    """Exact, by affine propagation."""
    low, high = (0.9, 1.1) if name(sampler).startswith("dd") else (1.8, 2.6)
    slope = order(lambda n: variance_error(sampler, schedule, interior(schedule, n, even_in)), 60, 240)
    assert low <= slope <= high


@pytest.mark.parametrize("schedule", [Cosine(), Edm(), LINEAR], ids=name)
def test_the_analytic_variance_is_the_right_one(schedule):
    """On Gaussian data every step's Gaussian is exact with it, whatever the number of steps; the small
    variance leaves the spread too small, the large one is right only where the data's variance is 1."""
    grid = interior(schedule, 6)
    conditional = {t.t: STD**2 * t.sigma**2 / (t.alpha**2 * STD**2 + t.sigma**2) for t, _ in grid.pairs()}
    right = functools.partial(ddpm, variance=Analytic(conditional))
    assert variance_error(right, schedule, grid) < 1e-12
    for fixed in ("small", "large"):
        assert variance_error(functools.partial(ddpm, variance=fixed), schedule, grid) > 1e-3


def test_the_analytic_variance_is_the_papers_and_estimated_from_data():
    """Bao et al. 2022, eq. 8, in its symbols, with Gamma of the exact score; and v_t within the error of
    20,000 samples."""
    grid = interior(Linear(), 5)
    exact = Gaussian(Linear(), MEAN, STD)
    data = MEAN + STD * keyed(1)(torch.empty(10_000, 2, dtype=torch.float64))
    batches = [(data[:4000], None), (data[4000:], None)]
    analytic = Analytic.estimate(exact, batches, grid, noise=keyed(2))
    for t, s in grid.pairs():
        gamma = 1 / spread(t) ** 2  # E |score|^2 / D of N(alpha mean, spread^2)
        assert analytic.errors[t.t] == pytest.approx(
            t.sigma**2 / t.alpha**2 * (1 - t.sigma**2 * gamma), rel=0.03
        )
        alpha_n, beta_bar, beta_bar_before = (t.alpha / s.alpha) ** 2, t.sigma**2, s.sigma**2
        small = beta_bar_before / beta_bar * (1 - alpha_n)
        paper = small + ((beta_bar / alpha_n) ** 0.5 - (beta_bar_before - small) ** 0.5) ** 2 * (
            1 - beta_bar * gamma
        )
        x = torch.zeros(1, 2)
        assert analytic(x, x, t, s) == pytest.approx(paper, rel=0.03)
    with pytest.raises(ValueError, match=r"t = 0\.5: the analytic variance was estimated at other levels"):
        analytic(x, x, t._replace(t=0.5), s)


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


@pytest.mark.parametrize("sampler", [*STOCHASTIC, churned], ids=name)
def test_noise_keeps_the_mixtures_weights_and_spread(sampler):
    """4,000 samples of a lopsided mixture: the share of a mode to 3 sigma, and each mode's spread."""
    means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    exact = GaussianMixture(Linear(), means, 0.2, [0.3, 0.7])
    grid = make_grid(Linear(), 80, "log_snr")
    start = grid.sigma[0] * keyed(3)(torch.empty(4000, 1, dtype=torch.float64))
    got = sampler(exact, start, grid, noise=keyed(4))
    right = got > 0
    assert right.double().mean().item() == pytest.approx(0.7, abs=0.022)
    assert (got[right] - 1).square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("schedule", [Cosine(), Flow(), Edm()], ids=name)
def test_consistency_sampling_is_exact_for_an_exact_consistency_function(schedule, steps):
    """A jump to the end of the ODE's path, and fresh noise: right after every number of steps."""
    grid = make_grid(schedule, steps)
    exact = Gaussian(schedule, MEAN, STD)
    level = {t.t: t for t in grid.levels}

    def jump(x, t, cond):
        return exact.path(x, level[t[0].item()], grid.levels[-1])

    rows = torch.full((2 + steps, 1), grid.levels[0].alpha * MEAN, dtype=torch.float64)
    rows[1] += spread(grid.levels[0])
    draws = iter(range(2, 2 + steps))

    def noise(x):
        z = torch.zeros_like(x)
        z[next(draws)] = 1
        return z

    got = lcm(jump, rows, grid, noise=noise)
    assert got[0].item() == pytest.approx(MEAN, abs=1e-9)
    assert (got[1:] - got[0]).norm().item() == pytest.approx(STD, abs=1e-9)


def test_inversion_and_sampling_are_inverse():
    """From clean data up and down again, nearer the more steps, without a look at the clean end's t."""
    for schedule in (Linear(), Flow(), COSINE):
        exact = GaussianMixture(schedule, torch.tensor([[-1.0, 0.5], [1.0, 0.0]]).double(), 0.3)
        x = keyed(5)(torch.empty(8, 2, dtype=torch.float64))
        errors = []
        for steps in (50, 200):
            grid, seen = make_grid(schedule, steps, "log_snr"), []

            def denoise(x, t, cond, seen=seen, exact=exact):
                seen.append(t[0].item())
                return exact(x, t)

            up = invert(denoise, x, grid)
            assert seen == [grid.t[-2].item(), *grid.t[1:-1].flip(0).tolist()]
            errors.append((ddim(exact, up, grid) - x).abs().max().item())
        assert errors[1] < 0.4 * errors[0]
        assert errors[1] < 0.1
