"""Noise schedules: published constants, exact ends, exact inverses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unclip.diffusion import add_noise, log_snr, schedule
from unclip.diffusion.schedule import (
    Cosine,
    Discrete,
    Edm,
    Flow,
    Linear,
    Sigmoid,
    cosine_betas,
    discrete,
    jsd_betas,
    linear_betas,
    quadratic_betas,
    scaled_linear_betas,
    sigmoid_betas,
)

BETAS = [linear_betas, scaled_linear_betas, cosine_betas, sigmoid_betas, quadratic_betas, jsd_betas]
CONTINUOUS = [Linear(), Cosine(), Cosine(s=0.0), Sigmoid(), Sigmoid(0.0, 3.0, 0.5), Flow(), Edm()]
TABLES = [Discrete(betas(1000)) for betas in BETAS]
ALL = CONTINUOUS + TABLES


def name(value):
    return getattr(value, "__name__", type(value).__name__)


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
    torch.testing.assert_close(quadratic_betas(3, 0.01, 0.09).tolist(), [0.01, 0.04, 0.09])
    middle = sigmoid_betas(3, 0.1, 0.3, reach=2.0)
    assert middle[1].item() == pytest.approx(0.2)
    assert middle[0].item() == pytest.approx(0.1 + 0.2 / (1 + math.exp(2.0)))
    assert discrete(linear_betas, 5).T == 5


@pytest.mark.parametrize("one", ALL, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_snr_falls_strictly_from_end_to_end(one, dtype):
    assert (log_snr(one, times(one, 1001, dtype)).diff() < 0).all()


@pytest.mark.parametrize("one", ALL, ids=name)
@given(u=st.floats(0, 1))
def test_t_at_inverts_log_snr(one, u):
    t = torch.tensor([u], dtype=torch.float64) * (1 if one.T is None else one.T - 1)
    there_and_back = one.t_at(log_snr(one, t))
    torch.testing.assert_close(there_and_back, t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("one", ALL, ids=name)
def test_t_at_is_the_nearer_end_beyond_the_schedule(one):
    beyond = torch.tensor([-math.inf, -80.0, 80.0, math.inf], dtype=torch.float64)
    last = 1 if one.T is None else one.T - 1
    torch.testing.assert_close(
        one.t_at(beyond), torch.tensor([last, last, 0, 0]).double(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("one", [s for s in ALL if not isinstance(s, Flow | Edm)], ids=name)
def test_variance_is_preserved(one):
    alpha, sigma = one(times(one, 997))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("one", [Cosine(), Sigmoid(), Sigmoid(0.0, 3.0, 0.5), Flow()], ids=name)
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


def test_cosine_is_the_papers_cosine():
    t, s = torch.linspace(0, 1, 50, dtype=torch.float64), 0.008
    paper = torch.cos(math.pi / 2 * (t + s) / (1 + s)) / math.cos(math.pi / 2 * s / (1 + s))
    torch.testing.assert_close(Cosine(s)(t)[0], paper)


def test_sigmoid_is_the_papers_sigmoid():
    t, start, end, tau = torch.linspace(0, 1, 50, dtype=torch.float64), 0.0, 3.0, 0.7
    S = torch.tensor([start / tau, end / tau], dtype=torch.float64).sigmoid()
    paper = (S[1] - torch.sigmoid((t * (end - start) + start) / tau)) / (S[1] - S[0])
    torch.testing.assert_close(Sigmoid(start, end, tau)(t)[0].square(), paper)


def test_the_discrete_linear_table_is_the_vp_sde_in_the_limit():
    """beta_i = beta(t_i) / T with beta(t) = 0.1 ... 20: at T = 1000 the two agree to a few per cent of
    log_snr."""
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    table = Discrete(linear_betas(1000))
    torch.testing.assert_close(log_snr(table, t * 1000 - 1), log_snr(Linear(), t), rtol=0, atol=0.11)


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Discrete([0.1]), "T >= 2"),
        (lambda: Discrete(torch.full((3, 3), 0.1)), r"shape \(3, 3\)"),
        (lambda: Discrete([0.1, 0.0, 0.2]), r"betas\[1\] = 0: every beta must satisfy 0 < beta <= 1"),
        (lambda: Discrete([0.1, 0.2, 1.5]), r"betas\[2\] = 1.5"),
        (lambda: Discrete([0.1, float("nan")]), r"betas\[1\] = nan"),
        (lambda: Discrete([0.1, 1.0, 0.2]), r"betas\[1\] = 1 leaves alpha = 0"),
        (lambda: linear_betas(10, 0.0), "beta_start = 0.0"),
        (lambda: cosine_betas(10, s=-1), "s = -1: must satisfy s >= 0"),
        (lambda: Linear(5.0, 1.0), "beta_max = 1.0: must satisfy beta_max >= beta_min = 5.0"),
        (lambda: Edm(1.0, 0.5), "sigma_max = 0.5"),
        (lambda: Sigmoid(3.0, -3.0), "start < end"),
    ],
)
def test_impossible_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("t", [-1, 4])
def test_an_index_off_the_table_is_an_error_not_its_other_end(t):
    with pytest.raises(RuntimeError, match="out of bounds"):
        Discrete(linear_betas(4))(torch.tensor([t]))


def test_betas_are_reached_through_the_schedule_module():
    assert schedule.cosine_betas is cosine_betas
