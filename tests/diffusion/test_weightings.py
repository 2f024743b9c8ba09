"""Loss weights against each paper's formula by hand, in every objective, and at both ends."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from unclip.diffusion import X0, Eps, V, min_snr, p2, truncated_snr, uniform, weighting
from unclip.diffusion.objective import Edm, Flow
from unclip.diffusion.schedule import variance_preserving

LOG_SNR = torch.linspace(-15, 15, 61, dtype=torch.float64)
SNR = LOG_SNR.exp()
OBJECTIVES = [Eps(), X0(), V(), Flow(), Edm(0.5)]
BOTH_ENDS = torch.tensor([-math.inf, math.inf], dtype=torch.float64)


def name(value):
    return type(value).__name__


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_by_hand(gamma):
    weigh = min_snr(gamma=gamma)
    torch.testing.assert_close(weigh(LOG_SNR, Eps()), torch.clamp(gamma / SNR, max=1))
    torch.testing.assert_close(weigh(LOG_SNR, X0()), torch.clamp(SNR, max=gamma))
    torch.testing.assert_close(weigh(LOG_SNR, V()), torch.clamp(SNR, max=gamma) / (SNR + 1))


X0_SPACE = {
    "min_snr": (weighting.min_snr(), torch.clamp(SNR, max=5)),
    "truncated_snr": (truncated_snr, torch.clamp(SNR, min=1)),
    "edm": (weighting.edm(sigma_data=0.5), SNR + 4),
    "p2": (p2(k=2.0, gamma=0.5), SNR / (2 + SNR) ** 0.5),
    "p2 steep": (p2(k=1.0, gamma=2.0), SNR / (1 + SNR) ** 2),
    "sigmoid": (weighting.sigmoid(bias=2.0), math.exp(2) * torch.sigmoid(LOG_SNR - 2)),
}


@pytest.mark.parametrize("case", X0_SPACE)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_a_weight_on_x0_is_w_c_out_squared_on_the_output(objective, case):
    weigh, on_x0 = X0_SPACE[case]
    c_out = objective.c_out(*variance_preserving(LOG_SNR))
    torch.testing.assert_close(weigh(LOG_SNR, objective), on_x0 * c_out**2)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_uniform_is_1_on_the_output_whatever_the_objective(objective):
    assert (uniform(LOG_SNR, objective) == 1).all()


def test_edm_is_uniform_on_its_own_objective():
    torch.testing.assert_close(weighting.edm(LOG_SNR, Edm(0.7), sigma_data=0.7), torch.ones_like(SNR))


@pytest.mark.parametrize("case", X0_SPACE)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_neither_end_is_nan(objective, case):
    """As products these are 0 * inf; written so, they have their limits (infinite where the limit is)."""
    weigh, _ = X0_SPACE[case]
    at_ends, near_ends = weigh(BOTH_ENDS, objective), weigh(torch.tensor([-60.0, 60.0]).double(), objective)
    assert not at_ends.isnan().any()
    finite = at_ends.isfinite()
    torch.testing.assert_close(at_ends[finite], near_ends[finite], rtol=1e-6, atol=1e-10)
    assert (near_ends[~finite] > 1e10).all()


def test_min_snr_on_eps_at_pure_noise_is_1():
    assert min_snr(BOTH_ENDS, Eps(), gamma=5.0).tolist() == [1.0, 0.0]
    assert min_snr(BOTH_ENDS, X0(), gamma=5.0).tolist() == [0.0, 5.0]


def test_parameters_may_come_first_or_with_the_call():
    expected = min_snr(LOG_SNR, V(), None, gamma=2.0)
    for weigh in (min_snr(2.0), min_snr(gamma=2.0), functools.partial(min_snr, gamma=2.0)):
        assert torch.equal(weigh(LOG_SNR, V()), expected)
    assert torch.equal(uniform()(LOG_SNR, V()), uniform(LOG_SNR, V()))


def test_an_impossible_gamma_is_refused():
    with pytest.raises(ValueError, match="gamma = 0: must satisfy gamma > 0"):
        min_snr(LOG_SNR, X0(), gamma=0)
