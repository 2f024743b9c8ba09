"""Schedules against the formulas of their papers, against each other where two are one, and their refusals."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.diffusion import X0, Eps, V, log_snr, objective
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
    jsd_betas,
    linear_betas,
    quadratic_betas,
    scaled_linear_betas,
    sigmoid_betas,
    zero_terminal_snr,
)

RESCALED = [linear_betas, scaled_linear_betas, quadratic_betas, sigmoid_betas]
T = torch.linspace(0, 1, 51, dtype=torch.float64)
INSIDE = T[1:-1]


def name(value):
    return getattr(value, "__name__", type(value).__name__)


def test_cosine_is_the_papers_cosine():
    s = 0.008
    paper = torch.cos(math.pi / 2 * (T + s) / (1 + s)) / math.cos(math.pi / 2 * s / (1 + s))
    torch.testing.assert_close(Cosine(s)(T)[0], paper)


def test_sigmoid_is_the_papers_sigmoid():
    start, end, tau = 0.0, 3.0, 0.7
    S = torch.tensor([start / tau, end / tau], dtype=torch.float64).sigmoid()
    paper = (S[1] - torch.sigmoid((T * (end - start) + start) / tau)) / (S[1] - S[0])
    torch.testing.assert_close(Sigmoid(start, end, tau)(T)[0].square(), paper)


@given(start=st.floats(0, 0.5), end=st.floats(0.6, 1), tau=st.floats(0.5, 3))
@settings(max_examples=20, deadline=None)
def test_chens_cosine_is_the_papers(start, end, tau):
    def f(t):
        return torch.cos((t * (end - start) + start) * math.pi / 2).clamp(min=0) ** (2 * tau)

    first, last = f(torch.tensor([0.0, 1.0], dtype=torch.float64))
    got = ChenCosine(start, end, tau)(T)[0].square()
    torch.testing.assert_close(got, (last - f(T)) / (last - first), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("s", [0.0, 0.008, 0.2])
def test_the_cosine_is_one_of_chens(s):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for one, other in zip(Cosine(s)(t), ChenCosine(s / (1 + s))(t), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_jsd_is_chens_line():
    """gamma(t) = 1 - t, which the table takes at t = 1/T, 2/T, ..., 1."""
    alpha, sigma = Discrete(jsd_betas(50))(torch.arange(50, dtype=torch.float64))
    expected = ChenLinear()(torch.arange(1, 51, dtype=torch.float64) / 50)
    torch.testing.assert_close(alpha, expected[0], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(sigma, expected[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(ChenLinear()(T)[0].square(), 1 - T)


def test_quadratic_is_scaled_linear_between_other_ends():
    assert torch.equal(quadratic_betas(100), scaled_linear_betas(100, 1e-4, 0.02))


@pytest.mark.parametrize(("low", "high"), [(0.1, 20.0), (0.85, 12.0)])
def test_sqrt_beta_is_linear_in_continuous_scaled_linear(low, high):
    """alpha^2 = exp(-integral of beta), the integral by Simpson's rule, which is exact for a quadratic."""
    one = ScaledLinear(low, high)

    def beta(t):
        return (math.sqrt(low) + t * (math.sqrt(high) - math.sqrt(low))) ** 2

    integral = T / 6 * (beta(0 * T) + 4 * beta(T / 2) + beta(T))
    torch.testing.assert_close(one(T)[0].square().log(), -integral, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("betas", "limit"),
    [
        (linear_betas, Linear()),
        (scaled_linear_betas, ScaledLinear()),
        (quadratic_betas, ScaledLinear(0.1, 20.0)),
        (cosine_betas, Cosine()),
    ],
    ids=name,
)
def test_tables_tend_to_continuous_time(betas, limit):
    """As 1/T: beta_i = beta(t_i) / T. The cosine's table is cut from it and agrees at once."""

    def error(T):
        t = torch.arange(0.1, 0.95, 0.1, dtype=torch.float64)
        return (log_snr(Discrete(betas(T)), t * T - 1) - log_snr(limit, t)).abs().max().item()

    if betas is cosine_betas:
        assert error(1000) < 1e-9
    else:
        assert error(1000) < 0.1
        assert 3.6 < error(1000) / error(4000) < 4.4


@pytest.mark.parametrize("betas", RESCALED, ids=name)
def test_rescaled_tables_end_alike_at_any_length(betas):
    """1000/T of the sum of T betas: log alpha_bar at the end stays within a tenth from T = 100 on, where
    betas of T = 1000 as they are would leave a tenth of it."""
    whole = Discrete(betas(1000)).alpha_bar[-1].log()
    for length in (100, 250, 4000):
        ratio = (Discrete(betas(length)).alpha_bar[-1].log() / whole).item()
        assert ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("betas", "least"),
    [(linear_betas, 21), (quadratic_betas, 21), (sigmoid_betas, 20), (scaled_linear_betas, 13)],
)
def test_a_rescaled_table_that_is_too_short_says_how_long_it_must_be(betas, least):
    assert betas(least).max() < 1
    with pytest.raises(
        ValueError, match=rf"T = {least - 1}: every beta must be below 1.* T >= {least}, cosine any"
    ):
        betas(least - 1)


def hoogeboom(t, low=-15, high=15):
    """The log-SNR of the cosine schedule as the paper writes it."""
    first, last = math.atan(math.exp(-high / 2)), math.atan(math.exp(-low / 2))
    return -2 * torch.log(torch.tan(first + t * (last - first)))


def test_simple_diffusions_cosines_are_the_papers():
    torch.testing.assert_close(log_snr(TruncatedCosine(-15, 15), T), hoogeboom(T), rtol=1e-9, atol=1e-9)
    small, large = (hoogeboom(T) + 2 * math.log(reference / 512) for reference in (32, 256))
    shifted = Shifted(TruncatedCosine(-15, 15), 512, 32)
    torch.testing.assert_close(log_snr(shifted, T), small, rtol=1e-9, atol=1e-9)
    between = Interpolated(TruncatedCosine(-15, 15), 512, 32, 256)
    torch.testing.assert_close(log_snr(between, T), T * small + (1 - T) * large, rtol=1e-9, atol=1e-9)


def test_the_mean_of_shifted_pixels_has_the_references_noise():
    """64 px with the noise of 32: where blocks of 2 x 2 equal pixels are averaged, sigma halves."""
    alpha, sigma = Shifted(Linear(), 64, 32)(INSIDE)
    reference = Linear()(INSIDE)
    torch.testing.assert_close(alpha / (sigma / 2), reference[0] / reference[1])


@pytest.mark.parametrize(
    ("one", "density"),
    [
        (Laplace(0.3, 0.5), scipy.stats.laplace(0.3, 0.5)),
        (Cauchy(0.3, 0.5), scipy.stats.cauchy(0.3, 0.5)),
        (Normal(2.4, 2.4), scipy.stats.norm(2.4, 2.4)),
    ],
    ids=name,
)
def test_densities_are_those_of_their_names(one, density):
    """t = P(a larger log-SNR), of what lies between the two ends."""
    level = log_snr(one, T)
    top, bottom = density.cdf(level[0]), density.cdf(level[-1])
    expected = (top - density.cdf(level)) / (top - bottom)
    torch.testing.assert_close(torch.as_tensor(expected), T, rtol=0, atol=1e-12)
    assert -20 - 1e-9 <= level[-1] < level[0] <= 20 + 1e-9


def test_laplace_and_cauchy_are_the_papers():
    """Hang et al. 2024. The Cauchy's ends, which are cut off, are 1.6% of it."""
    mean, scale = 0.5, 0.4
    sign, distance = torch.sign(0.5 - INSIDE), (0.5 - INSIDE).abs()
    laplace = mean - scale * sign * torch.log(1 - 2 * distance)
    torch.testing.assert_close(log_snr(Laplace(mean, scale), INSIDE), laplace, rtol=0, atol=1e-5)
    middle = INSIDE[20:29]
    cauchy = mean + scale * torch.tan(math.pi / 2 * (1 - 2 * middle))
    torch.testing.assert_close(log_snr(Cauchy(mean, scale), middle), cauchy, rtol=0.02, atol=0.01)


def test_edm_trains_on_the_papers_noise_and_samples_at_the_papers_steps():
    one = Edm(0.002, 80.0, 7.0, P_mean=-1.2, P_std=1.2)
    z = [(math.log(end) + 1.2) / 1.2 for end in (0.002, 80.0)]
    log_sigma = one(one.from_uniform(T))[1].log()
    expected = torch.as_tensor(scipy.stats.truncnorm(*z, loc=-1.2, scale=1.2).ppf(T.numpy()))
    torch.testing.assert_close(log_sigma, expected, rtol=0, atol=1e-7)
    i = torch.arange(19, -1, -1, dtype=torch.float64)
    paper = (80 ** (1 / 7) + i / 19 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(one(1 - i / 19)[1], paper, rtol=1e-9, atol=0)


def test_zero_terminal_snr_is_algorithm_1():
    betas = scaled_linear_betas(1000)
    root = torch.cumprod(1 - betas, 0).sqrt()
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    table = Discrete(zero_terminal_snr(betas))
    torch.testing.assert_close(table.alpha_bar.sqrt(), expected, rtol=1e-9, atol=1e-15)
    assert table.betas[-1] == 1
    modified = ZeroTerminalSnr(Discrete(betas))(torch.arange(1000, dtype=torch.float64))
    torch.testing.assert_close(modified[0], expected, rtol=1e-12, atol=0)
    assert modified[0][-1] == 0


@pytest.mark.parametrize("one", [Flow(), Cosine(), Discrete(jsd_betas(30))], ids=name)
def test_zero_terminal_snr_leaves_what_ends_at_0(one):
    t = T * (29 if one.T else 1)
    for got, expected in zip(ZeroTerminalSnr(one)(t), one(t), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", [Eps, X0, V, objective.Flow, objective.Edm])
@given(b=st.floats(0.1, 2), deviation=st.floats(0.2, 3))
@settings(max_examples=10, deadline=None)
def test_scaled_inputs_reach_the_network_at_unit_variance(kind, b, deviation):
    """Var(c_in x_t) = c_in^2 (alpha^2 d^2 + sigma^2), x_0 of deviation d (Chen 2023, section 2.2)."""
    alpha, sigma = InputScaled(Cosine(), b)(T)
    torch.testing.assert_close(alpha, b * Cosine()(T)[0])
    c_in = kind(sigma_data=deviation).c_in(alpha, sigma)
    variance = c_in.square() * (alpha.square() * deviation**2 + sigma.square())
    torch.testing.assert_close(variance, torch.ones_like(variance))


def test_the_flow_objectives_network_gets_x_t_as_it_is_unless_asked():
    alpha, sigma = Flow()(T)
    assert torch.equal(objective.Flow().c_in(alpha, sigma), torch.ones_like(T))


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
        (lambda: linear_betas(1000, beta_end=1.0), "beta_end = 1.0: must satisfy 0 < beta_end < 1"),
        (lambda: cosine_betas(10, s=-1), "s = -1: must satisfy s >= 0"),
        (lambda: Linear(5.0, 1.0), "beta_max = 1.0: must satisfy beta_max >= beta_min = 5.0"),
        (lambda: Edm(1.0, 0.5), "sigma_max = 0.5"),
        (lambda: ScaledLinear(5.0, 1.0), "beta_max = 1.0: must satisfy beta_max >= beta_min = 5.0"),
        (
            lambda: TruncatedCosine(3.0, 1.0),
            "log_snr_max = 1.0: must satisfy log_snr_max > log_snr_min = 3.0",
        ),
        (lambda: Edm(P_mean=5.0), r"P_mean = 5.0: .* between log sigma_min = -6.215 and .* = 4.382"),
        (lambda: Edm(P_std=0.0), "P_std = 0.0: must satisfy P_std > 0"),
        (lambda: Sigmoid(3.0, -3.0), "start = 3.0, end = -3.0: must satisfy start < end"),
        (lambda: Sigmoid(tau=0.01), r"tau = 0.01: start / tau = -300 and end / tau = 300 must lie within"),
        (lambda: ChenCosine(0.8, 0.5), "start = 0.8, end = 0.5: must satisfy start < end"),
        (lambda: ChenCosine(end=1.5), "end = 1.5: must satisfy 0 < end <= 1"),
        (lambda: ChenCosine(tau=0.1), "tau = 0.1: must satisfy tau >= 0.5"),
        (lambda: Laplace(scale=0.0), "scale = 0.0: must satisfy scale > 0"),
        (lambda: Cauchy(mean=30.0), "mean = 30.0: log-SNR has its middle within -20 ... 20"),
        (lambda: Normal(0.0, 1.0, low=1.0), "mean = 0.0: log-SNR has its middle within 1 ... 20"),
        (lambda: Shifted(Cosine(), 0, 32), "resolution = 0: must satisfy resolution > 0"),
        (lambda: Shifted(Cosine(), 64, -1), "reference = -1: must satisfy reference > 0"),
        (lambda: Interpolated(Cosine(), 64, 64, 32), "low = 64, high = 32: must satisfy low <= high"),
        (lambda: InputScaled(Cosine(), 0.0), "b = 0.0: must satisfy b > 0"),
        (lambda: ZeroTerminalSnr(Edm()), "schedule = Edm: its alpha is the same at every t"),
        (lambda: Learned(hidden=0), "hidden = 0: must satisfy hidden >= 1"),
        (lambda: Learned(gamma_min=5.0), "gamma_max = 5.0: must satisfy gamma_max > gamma_min = 5.0"),
        (lambda: V(sigma_data=0.0), "sigma_data = 0.0: must satisfy sigma_data > 0"),
    ],
)
def test_impossible_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
