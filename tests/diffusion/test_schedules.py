"""Noise schedules: published constants, exact ends, exact inverses; properties of every family."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.diffusion import add_noise, log_snr, make_grid, schedule
from unclip.diffusion.schedule import (
    Cauchy,
    ChenCosine,
    ChenLinear,
    Cosine,
    Discrete,
    Edm,
    Flow,
    InputScaled,
    Interpolated,
    Laplace,
    Learned,
    Linear,
    Normal,
    ScaledLinear,
    Shifted,
    Sigmoid,
    TruncatedCosine,
    ZeroTerminalSnr,
    cosine_betas,
    discrete,
    jsd_betas,
    linear_betas,
    quadratic_betas,
    scaled_linear_betas,
    sigmoid_betas,
)

BETAS = [linear_betas, scaled_linear_betas, cosine_betas, sigmoid_betas, quadratic_betas, jsd_betas]
TO_THE_END = [  # from exactly (1, 0) to exactly (0, 1)
    Cosine(),
    Cosine(s=0.0),
    ChenLinear(),
    ChenCosine(),
    ChenCosine(0.2, 1.0, 3.0),
    ChenCosine(0.1, 0.8, 0.5),
    Sigmoid(),
    Sigmoid(0.0, 3.0, 0.5),
    Sigmoid(tau=0.1),
    Flow(),
]
CONTINUOUS = [Linear(), ScaledLinear(), TruncatedCosine(), Edm(), Laplace(), Cauchy(), Normal(), *TO_THE_END]
TABLES = [Discrete(betas(1000)) for betas in BETAS]
MODIFIED = [
    Shifted(Cosine(), 64, 32),
    Shifted(Flow(), 64, 32),
    Shifted(Edm(), 256, 64),
    Interpolated(TruncatedCosine(), 512, 32, 256),
    Interpolated(Discrete(cosine_betas(100)), 64, 32, 64),
    InputScaled(ChenLinear(), 0.3),
    ZeroTerminalSnr(Linear()),
    ZeroTerminalSnr(Discrete(scaled_linear_betas(1000))),
    ZeroTerminalSnr(Shifted(InputScaled(Discrete(linear_betas(50)), 0.5), 64, 32)),
]
ALL = [*CONTINUOUS, *TABLES, *MODIFIED, Learned(hidden=16).requires_grad_(False)]

positive, sizes = st.floats(0.2, 5.0), st.floats(16.0, 512.0)
tables = st.builds(discrete, st.sampled_from(BETAS), st.integers(21, 1000))
bases = st.one_of(st.sampled_from([*CONTINUOUS, *TABLES]), tables)
moved = st.one_of(st.builds(Shifted, bases, sizes, sizes), st.builds(InputScaled, bases, positive))
FAMILIES = {
    "tables": tables,
    "linear": st.builds(Linear, st.floats(0.05, 1), st.floats(1, 25)),
    "scaled_linear": st.builds(ScaledLinear, st.floats(0.05, 1), st.floats(1, 25)),
    "cosine": st.builds(Cosine, st.floats(0, 0.2)),
    "truncated": st.builds(TruncatedCosine, st.floats(-20, -2), st.floats(2, 20)),
    "chen_cosine": st.builds(ChenCosine, st.floats(0, 0.4), st.floats(0.5, 1), st.floats(0.5, 3)),
    "sigmoid": st.builds(Sigmoid, st.floats(-3, 0), st.floats(0.5, 3), st.floats(0.1, 2)),
    "edm": st.builds(Edm, st.floats(1e-3, 0.1), st.floats(5, 100), st.floats(1, 10)),
    "laplace": st.builds(Laplace, st.floats(-4, 4), positive),
    "cauchy": st.builds(Cauchy, st.floats(-4, 4), positive),
    "normal": st.builds(Normal, st.floats(-4, 4), positive),
    "shifted, scaled": st.one_of(moved, st.builds(Shifted, moved, sizes, sizes)),
    "interpolated": st.builds(Interpolated, bases, sizes, st.floats(16, 64), st.floats(64, 512)),
    "zero_terminal": st.builds(ZeroTerminalSnr, bases.filter(lambda s: not isinstance(s, Edm))),
}


def name(value):
    inner = getattr(value, "schedule", None)
    return getattr(value, "__name__", type(value).__name__) + (f"({name(inner)})" if inner else "")


def times(one, n, dtype=torch.float64):
    return torch.linspace(0, 1, n, dtype=dtype) * (1 if one.T is None else one.T - 1)


@pytest.mark.parametrize(
    ("betas", "expected"),
    [
        (linear_betas, [0.9999, 0.07858724288, 4.035829765e-5]),
        (cosine_betas, [0.9999587158, 0.4938435904, 2.428766907e-9]),
    ],
)
def test_published_tables(betas, expected):
    alpha_bar = Discrete(betas(1000)).alpha_bar
    assert alpha_bar.dtype == torch.float64
    torch.testing.assert_close(alpha_bar[[0, 499, 999]], torch.tensor(expected).double(), rtol=1e-7, atol=0)


def test_published_ends():
    assert Linear(0.1, 20)(torch.tensor(1.0).double())[0].item() == pytest.approx(0.0065715865, rel=1e-7)
    terminal = Discrete(scaled_linear_betas(1000)).alpha_bar[-1].sqrt().item()
    assert terminal == pytest.approx(0.068, abs=5e-4)  # the published flaw of latent diffusion's table


def test_a_table_is_the_product_of_its_betas():
    betas = torch.tensor([0.1, 0.3, 0.25, 1.0])
    table = Discrete(betas)
    alpha, sigma = table(torch.arange(4))
    expected = torch.tensor([0.9, 0.63, 0.4725, 0.0])
    torch.testing.assert_close(alpha**2, expected)
    torch.testing.assert_close(sigma**2, 1 - expected)
    torch.testing.assert_close(table.alpha_bar, torch.cumprod(1 - betas.double(), 0))


def test_betas_by_hand():
    torch.testing.assert_close(jsd_betas(4).tolist(), [1 / 4, 1 / 3, 1 / 2, 1.0])
    torch.testing.assert_close(linear_betas(3, 1e-4, 3e-4).tolist(), [1e-1 / 3, 2e-1 / 3, 1e-1])
    torch.testing.assert_close(scaled_linear_betas(4, 1e-4, 16e-4)[[0, 3]].tolist(), [25e-3, 400e-3])
    torch.testing.assert_close(quadratic_betas(1001, 1e-4, 9e-4)[500].item(), 4e-4 / 1.001)
    middle = sigmoid_betas(1001, 0.1, 0.3, reach=2.0) * 1.001
    assert middle[500].item() == pytest.approx(0.2)
    assert middle[0].item() == pytest.approx(0.1 + 0.2 / (1 + math.exp(2.0)))
    assert discrete(linear_betas, 25).T == 25


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=15, deadline=None)
def test_every_schedule_falls_from_end_to_end_and_is_inverted(family, data, dtype):
    """Tolerances: log_snr within +-20 has 2e-6 of rounding in float32, and a t moves it by more than 0.1 t."""
    one = data.draw(FAMILIES[family])
    t = times(one, 201, dtype)
    alpha, sigma = one(t)
    level = log_snr(one, t)
    assert (level.diff() < 0).all()
    assert alpha.isfinite().all()
    assert sigma.isfinite().all()
    one_everywhere = torch.ones_like(t)
    torch.testing.assert_close(one.norm(alpha, sigma), one_everywhere, rtol=2e-6, atol=0)
    last = 1 if one.T is None else one.T - 1
    atol = last * (2e-5 if dtype == torch.float32 else 1e-12)
    torch.testing.assert_close(one.t_at(level), t, rtol=0, atol=atol)


@pytest.mark.parametrize("one", ALL, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_snr_falls_strictly_from_end_to_end(one, dtype):
    assert (log_snr(one, times(one, 1001, dtype)).diff() < 0).all()


@pytest.mark.parametrize("one", ALL, ids=name)
@given(u=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_t_at_inverts_log_snr(one, u):
    t = torch.tensor([u], dtype=torch.float64) * (1 if one.T is None else one.T - 1)
    there_and_back = one.t_at(log_snr(one, t))
    torch.testing.assert_close(there_and_back, t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("one", ALL, ids=name)
def test_t_at_is_the_nearer_end_beyond_the_schedule(one):
    beyond = torch.tensor([-math.inf, -200.0, 200.0, math.inf], dtype=torch.float64)
    last = 1 if one.T is None else one.T - 1
    torch.testing.assert_close(
        one.t_at(beyond), torch.tensor([last, last, 0, 0]).double(), rtol=0, atol=1e-12
    )


def test_variance_is_preserved_but_by_those_that_say_so():
    def preserves(one):
        alpha, sigma = one(times(one, 997))
        return torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-12, atol=0)

    others = {name(one) for one in ALL if not preserves(one)}
    assert others == {
        "Flow",
        "Edm",
        "Shifted(Flow)",
        "Shifted(Edm)",
        "InputScaled(ChenLinear)",
        "ZeroTerminalSnr(Shifted(InputScaled(Discrete)))",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("one", [*TO_THE_END, Shifted(Cosine(), 64, 32), ZeroTerminalSnr(Linear())], ids=name)
def test_the_ends_are_exact(one, dtype):
    """As a cosine, the cosine schedule's alpha(1) is -4e-8 in float32: signal of the wrong sign."""
    alpha, sigma = one(torch.tensor([0.0, 1.0], dtype=dtype))
    assert alpha.tolist() == [1.0, 0.0]
    assert sigma.tolist() == [0.0, 1.0]


def test_sigma_keeps_its_digits_near_the_data():
    """1 - alpha^2 in float32 has none left at t = 1e-3; each schedule's own form does."""
    t = torch.tensor([1e-6, 1e-4, 1e-3])
    for one in CONTINUOUS:
        torch.testing.assert_close(one(t)[1].double(), one(t.double())[1], rtol=2e-6, atol=0)


def test_between_entries_log_snr_is_linear():
    table = Discrete(cosine_betas(10))
    a, b = log_snr(table, torch.tensor([3.0, 4.0]).double())
    torch.testing.assert_close(log_snr(table, torch.tensor(3.25).double()), 0.75 * a + 0.25 * b)


def test_towards_alpha_0_the_ratio_falls_linearly():
    table = Discrete(jsd_betas(4))  # alpha_bar 3/4, 1/2, 1/4, 0
    alpha, sigma = table(torch.tensor([2.0, 2.5, 3.0]).double())
    torch.testing.assert_close(alpha / sigma, math.sqrt(1 / 3) * torch.tensor([1, 0.5, 0]).double())


@pytest.mark.parametrize("one", ALL, ids=name)
def test_t_decides_the_dtype_and_narrow_times_become_float32(one):
    for dtype, expected in [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.int64, torch.float32),
    ]:
        alpha, sigma = one(torch.tensor([[0], [1]], dtype=dtype))
        assert alpha.dtype == sigma.dtype == expected
        assert alpha.shape == sigma.shape == (2, 1)


@given(u=st.floats(0, 1, exclude_max=True, width=32))
def test_training_times_of_a_table_are_its_entries(u):
    t = Discrete(linear_betas(1000)).from_uniform(torch.tensor([u]))
    assert t.item() == min(math.floor(u * 1000), 999) or abs(t.item() - u * 1000) <= 1.0
    assert t.item() in range(1000)
    assert Cosine().from_uniform(torch.tensor([u])).item() == u


def test_the_forward_process_has_the_schedules_moments():
    """Gaussian noise of standard deviation sigma about alpha x_0."""
    eps = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    alpha, sigma = torch.full((4000,), 0.6), torch.full((4000,), 0.8)
    x = add_noise(torch.full_like(eps, 2.0), eps, alpha, sigma)
    assert x.mean().item() == pytest.approx(1.2, abs=0.02)
    assert x.std().item() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("betas", BETAS, ids=name)
def test_a_table_of_one_is_refused(betas):
    with pytest.raises(ValueError, match="T = 1: must satisfy T >= 2"):
        betas(1)
    with pytest.raises(ValueError, match="T = 1: must satisfy T >= 2"):
        discrete(betas, 1)


@pytest.mark.parametrize("one", ALL, ids=name)
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "karras", "log_snr"])
def test_samplers_grids_on_every_schedule(one, spacing):
    """Grid itself refuses what does not fall; alpha = 0 is visited by tables that end there alone."""
    grid = make_grid(one, 40, spacing)
    assert grid.steps == 40
    ends_there = one.T is not None and log_snr(one, times(one, 2))[1] == -math.inf
    assert (grid.alpha > 0).all() or (ends_there and spacing in ("trailing", "linspace"))
    back = one.t_at(2 * (grid.alpha[:-1].log() - grid.sigma[:-1].log()))
    torch.testing.assert_close(back, grid.t[:-1], rtol=0, atol=1e-9 * (one.T or 1))


@pytest.mark.parametrize("t", [-1, 4])
def test_an_index_off_the_table_is_an_error_not_its_other_end(t):
    with pytest.raises(RuntimeError, match="out of bounds"):
        Discrete(cosine_betas(4))(torch.tensor([t]))


def test_betas_are_reached_through_the_schedule_module():
    assert schedule.cosine_betas is cosine_betas
