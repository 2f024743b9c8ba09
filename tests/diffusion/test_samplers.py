"""What samplers promise, whatever the method: the whole process from noise to data, and the contract they
share. Orders of convergence are in test_sampler_orders.py."""

from __future__ import annotations

import math

import pytest
import torch
from sampler_cases import (
    ALIASES,
    MEAN,
    SAMPLERS,
    STD,
    STOCHASTIC,
    churned,
    keyed,
    moments,
    name,
)

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
    clipped,
    cosine_betas,
    ddim,
    ddpm,
    dpmpp_2m,
    dpmpp_3m,
    dpmpp_3m_sde,
    heun,
    jsd_betas,
    lcm,
    linear_betas,
    make_grid,
    pndm,
    unipc,
)
from unclip.diffusion.schedule import Edm, Flow

EXACT = [s for s in SAMPLERS if s is not lcm]  # lcm is exact for consistency functions alone


@pytest.mark.parametrize(("alias", "original"), ALIASES, ids=name)
def test_one_method_by_two_names_is_one(alias, original):
    exact = GaussianMixture(Cosine(), torch.tensor([[-1.0, 0.5], [1.0, 0.0]]).double(), 0.2)
    for grid in (make_grid(Cosine(), 9), make_grid(Flow(), 5, "karras")):
        x = grid.sigma[0] * keyed(1)(torch.empty(4, 2, dtype=torch.float64))
        results = [sampler(exact, x, grid, noise=keyed(2)) for sampler in (alias, original)]
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("schedule", [Cosine(), Discrete(cosine_betas(1000)), Edm(), Flow()], ids=name)
@pytest.mark.parametrize("sampler", EXACT, ids=name)
def test_the_whole_process_turns_noise_into_the_data(sampler, schedule, spacing):
    """From pure noise to the clean end, on every kind of grid: the data's mean and spread come out, and the
    better the more steps."""
    coarse, fine = (
        moments(sampler, schedule, make_grid(schedule, steps, spacing), pure_noise=True)
        for steps in (50, 200)
    )
    for got, wanted in zip(fine, (MEAN, STD), strict=True):
        assert got == pytest.approx(wanted, rel=0.08 if sampler in STOCHASTIC else 0.05)
    assert abs(fine[1] - STD) < max(0.4 * abs(coarse[1] - STD), 1e-3)


def test_ancestral_noise_has_the_posteriors_variance():
    """The noise term is sigma eps. Written sqrt(sigma) eps, or with the variance for the deviation, the
    spread of the samples is off by far more than this."""
    table = Discrete(linear_betas(1000))
    assert moments(ddpm, table, make_grid(table, 1000), pure_noise=True) == pytest.approx(
        (MEAN, STD), rel=0.01
    )


def test_the_default_noise_is_gaussian():
    """Not rand_like: half of it negative, a third beyond one standard deviation."""
    torch.manual_seed(0)
    grid = Grid(t=[0.9, 0.5], alpha=[0.1, 0.8], sigma=[math.sqrt(0.99), 0.6])
    n = 0.6 * math.sqrt(1 - (0.1 * 0.6 / (0.8 * math.sqrt(0.99))) ** 2)
    z = ddpm(lambda x, t, cond: torch.zeros_like(x), torch.zeros(20_000, 1), grid) / n
    assert z.mean().item() == pytest.approx(0, abs=0.03)
    assert z.std().item() == pytest.approx(1, abs=0.02)
    assert (z.abs() > 1).double().mean().item() == pytest.approx(0.317, abs=0.02)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s is not churned], ids=name)
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
    expected = {heun: 19, churned: 19, pndm: 11}
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
    assert [step for step, _ in steps] == [0, 1, 2, 3, 4]
    if sampler is churned:  # before every step, also the last one
        assert draws == [0, 1, 2, 3, 4]
        assert all(raised > t for (_, raised), t in zip(steps, grid.t[:-1].tolist(), strict=True))
    else:
        assert steps == list(enumerate(grid.t[:-1].tolist()))
        # the step into the clean end is not stochastic
        assert draws == ([1, 2, 3, 4] if sampler in [*STOCHASTIC, lcm] else [])


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
@pytest.mark.parametrize("sampler", EXACT, ids=name)
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


def test_a_model_without_an_answer_at_alpha_0_is_refused_there():
    """A device is not asked at every step whether alpha is 0: x0_hat is NaN then, clipped or not, and the
    sampler, which knows its levels, says so."""
    schedule, x = Discrete(jsd_betas(100)), torch.ones(2, 3)
    undefined = clipped(lambda x, t, cond: torch.full_like(x, math.nan), 1)
    with pytest.raises(ValueError, match="x0_hat is NaN at t = 99, where alpha = 0: a network of eps"):
        ddim(undefined, x, make_grid(schedule, 10))
    assert ddim(undefined, x, make_grid(schedule, 10, "log_snr")).isnan().all()  # a model's own affair


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        (ddim, {"eta": -0.1}, "eta = -0.1: must satisfy 0 <= eta <= 1"),
        (ddim, {"eta": 1.1}, "eta = 1.1: must satisfy 0 <= eta <= 1"),
        (dpmpp_3m_sde, {"eta": -1.0}, "eta = -1.0: must satisfy eta >= 0"),
        (dpmpp_2m, {"solver": "euler"}, "solver = 'euler': midpoint or heun"),
        (dpmpp_3m, {"curvature": -1.0}, "curvature = -1.0: must satisfy curvature >= 0"),
        (ddpm, {"variance": "tiny"}, "variance = 'tiny': small, large or a function"),
        (heun, {"S_churn": -1.0}, "S_churn = -1.0: must satisfy S_churn >= 0"),
        (heun, {"S_noise": 0.0}, "S_noise = 0.0: must satisfy S_noise > 0"),
    ],
)
def test_impossible_options_are_refused(sampler, options, message):
    with pytest.raises(ValueError, match=message):
        sampler(Gaussian(Cosine()), torch.ones(1, 1), make_grid(Cosine(), 2), **options)


def test_churn_needs_levels_between_the_grids():
    t = torch.tensor([0.9, 0.5, 0.1]).double()
    by_hand = Grid(t, *Cosine()(t))
    assert heun(Gaussian(Cosine()), torch.ones(1, 1), by_hand).isfinite().all()
    with pytest.raises(ValueError, match="a grid without its schedule has no levels but its own"):
        heun(Gaussian(Cosine()), torch.ones(1, 1), by_hand, S_churn=1.0)
