"""Objectives: the table of coefficients, round trips, and both ends of the noise range."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unclip.diffusion import X0, Eps, V, add_noise
from unclip.diffusion.objective import Edm, Flow

OBJECTIVES = [Eps(), X0(), V(), Flow(), Edm(0.5), Edm(1.7)]
angles = st.floats(0.01, math.pi / 2 - 0.01)
scales = st.floats(0.2, 5.0)


def name(objective):
    return type(objective).__name__


def tensors(alpha, sigma):
    return torch.tensor([alpha], dtype=torch.float64), torch.tensor([sigma], dtype=torch.float64)


def row(objective, a, s):
    """target's coefficients of x_0 and eps, c_skip, c_out, c_in: the table again, in plain numbers."""
    n, m, one = a * a + s * s, a + s, 1 / math.sqrt(a * a + s * s)
    d = getattr(objective, "sigma_data", math.nan)
    D = math.sqrt(a * a * d * d + s * s)
    return {
        "Eps": (0, 1, 1 / a, -s / a, one),
        "X0": (1, 0, 0, 1, one),
        "V": (-s, a, a / n, -s / n, one),
        "Flow": (-1, 1, 1 / m, -s / m, 1),
        "Edm": (s / (d * D), -a * d * d / (d * D), a * d * d / D**2, s * d / D, 1 / D),
    }[name(objective)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
@given(angle=angles, scale=scales)
def test_the_table(objective, angle, scale):
    a, s = scale * math.cos(angle), scale * math.sin(angle)
    alpha, sigma = tensors(a, s)
    x0, eps = torch.tensor([[3.0, -1.0]]).double(), torch.tensor([[0.5, 2.0]]).double()
    on_x0, on_eps, c_skip, c_out, c_in = row(objective, a, s)
    torch.testing.assert_close(objective.target(x0, eps, alpha, sigma), on_x0 * x0 + on_eps * eps)
    torch.testing.assert_close(objective.c_skip(alpha, sigma).item(), float(c_skip))
    torch.testing.assert_close(objective.c_out(alpha, sigma).item(), float(c_out))
    torch.testing.assert_close(objective.c_in(alpha, sigma).item(), float(c_in))
    torch.testing.assert_close(objective.c_eps(alpha, sigma).item(), float(c_out) * a / s)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
@given(angle=angles, scale=scales, seed=st.integers(0, 2**31))
def test_the_target_leads_back_to_x0(objective, angle, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64)
    alpha, sigma = (c.expand(3) for c in tensors(scale * math.cos(angle), scale * math.sin(angle)))
    x_t = add_noise(x0, eps, alpha, sigma)
    back = objective.to_x0(x_t, objective.target(x0, eps, alpha, sigma), alpha, sigma)
    torch.testing.assert_close(back, x0, rtol=1e-9, atol=1e-9)


@given(angle=st.floats(0, math.pi / 2))
def test_edm_is_minus_v_on_unit_data_when_variance_is_preserved(angle):
    alpha, sigma = tensors(math.cos(angle), math.sin(angle))
    x0, eps = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edm, v = Edm(1.0), V()
    torch.testing.assert_close(edm.target(x0, eps, alpha, sigma), -v.target(x0, eps, alpha, sigma))
    torch.testing.assert_close(edm.to_x0(x0, eps, alpha, sigma), v.to_x0(x0, -eps, alpha, sigma))


def test_v_has_a_minus():
    """At alpha = sigma and eps = x_0 it vanishes; alpha eps + sigma x_0 does not."""
    half = torch.tensor([math.sqrt(0.5)])
    x = torch.tensor([[2.0]])
    assert V().target(x, x, half, half).item() == 0.0


def test_edm_has_unit_variance_inputs_and_targets():
    generator = torch.Generator().manual_seed(0)
    d, alpha, sigma = 0.5, torch.tensor([0.9]), torch.tensor([3.0])
    x0 = d * torch.randn(1, 200_000, generator=generator)
    eps = torch.randn(1, 200_000, generator=generator)
    inputs = Edm(d).c_in(alpha, sigma) * add_noise(x0, eps, alpha, sigma)
    assert inputs.std().item() == pytest.approx(1, abs=0.01)
    assert Edm(d).target(x0, eps, alpha, sigma).std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_both_ends_are_finite_and_right(objective):
    """alpha = 0 and sigma = 0: targets are finite, and lead back to x_0 where x_0 is defined at all."""
    x0, eps = torch.tensor([[2.0], [2.0]]), torch.tensor([[-1.0], [-1.0]])
    alpha, sigma = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    target = objective.target(x0, eps, alpha, sigma)
    assert target.isfinite().all()
    x_t = add_noise(x0, eps, alpha, sigma)
    if isinstance(objective, Eps):
        alpha, sigma, x0, x_t, target = (c[1:] for c in (alpha, sigma, x0, x_t, target))
    torch.testing.assert_close(objective.to_x0(x_t, target, alpha, sigma), x0)


@pytest.mark.parametrize("alpha", [torch.tensor(0.0), torch.tensor([0.5, 0.0])])
def test_eps_at_alpha_0_says_why_it_cannot(alpha):
    x = torch.ones(2, 3)
    with pytest.raises(
        ValueError, match=r"eps at alpha = 0: x_t is pure noise.*divides by zero.*x0, v, flow"
    ):
        Eps().to_x0(x, x, alpha, torch.ones_like(alpha))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_coefficients_do_not_narrow_to_the_datas_dtype(objective):
    """bfloat16 inputs: coefficients and result are float32."""
    alpha, sigma = torch.tensor([0.6, 0.8]).double(), torch.tensor([0.8, 0.6]).double()
    x, out = torch.randn(2, 2, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    got = objective.to_x0(x, out, alpha, sigma)
    assert got.dtype == objective.target(x, out, alpha, sigma).dtype == torch.float32
    torch.testing.assert_close(got, objective.to_x0(x.float(), out.float(), alpha, sigma))


def test_impossible_sigma_data_is_refused():
    with pytest.raises(ValueError, match="sigma_data = 0: must satisfy sigma_data > 0"):
        Edm(0)
