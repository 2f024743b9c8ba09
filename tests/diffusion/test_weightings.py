"""Loss weights against each paper's formula by hand, in every objective, and at both ends."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn

from unclip.diffusion import (
    X0,
    Cosine,
    Denoiser,
    Discrete,
    Eps,
    Linear,
    V,
    cosine_betas,
    diffusion_loss,
    jsd_betas,
    log_snr,
    min_snr,
    p2,
    schedule,
    truncated_snr,
    uniform,
    vlb,
    weighting,
)
from unclip.diffusion.objective import Edm, Flow
from unclip.diffusion.schedule import variance_preserving
from unclip.diffusion.times import Uniform

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


# ---- every weighting with every objective on every kind of schedule ------------------------------------

SCHEDULES = [
    Linear(),
    Cosine(),
    schedule.Flow(),
    schedule.Edm(),
    Discrete(cosine_betas(1000)),
    Discrete(jsd_betas(1000)),  # ends at alpha = 0
]
WEIGHTINGS = {**{case: weigh for case, (weigh, _) in X0_SPACE.items()}, "vlb": vlb, "uniform": uniform}


class Wrong(nn.Module):
    """A network that is off by `error` in x_0, said in any objective."""

    def __init__(self, objective, x0, eps, alpha, sigma, error):
        super().__init__()
        right, off = objective.target(x0, eps, alpha, sigma), error / objective.c_out(alpha, sigma)
        self.out = right + off.unsqueeze(1)

    def forward(self, x, time, cond):
        return self.out


@pytest.mark.parametrize("one", SCHEDULES, ids=name)
@pytest.mark.parametrize("case", sorted(set(WEIGHTINGS) - {"uniform"}))
def test_an_error_of_x0_costs_the_same_in_every_objective(case, one):
    """By the loss itself, at alpha and sigma of the schedule's own scale: variance exploding included."""
    u = torch.linspace(0.02, 0.97, 12).double()
    draw = Uniform()(u, one)
    alpha, sigma = one(draw.t)
    x0, eps = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = []
    for objective in OBJECTIVES:
        denoiser = Denoiser(Wrong(objective, x0, eps, alpha, sigma, 0.1), one, objective)
        weigh = WEIGHTINGS[case]
        losses.append(diffusion_loss(denoiser, x0, draw.t, eps, None, weigh, "l2", draw.density))
    if case in X0_SPACE:
        snr = log_snr(one, draw.t).exp()
        w = weighting_on_x0(case, snr)
        torch.testing.assert_close(losses[0], 0.01 * w, rtol=1e-5, atol=0)
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-5, atol=0)


def weighting_on_x0(case, snr):
    """The papers' formulas again, as functions of SNR."""
    return {
        "min_snr": snr.clamp(max=5),
        "truncated_snr": snr.clamp(min=1),
        "edm": snr + 4,
        "p2": snr / (2 + snr) ** 0.5,
        "p2 steep": snr / (1 + snr) ** 2,
        "sigmoid": math.exp(2) * snr / (snr + math.exp(2)),
    }[case]


@pytest.mark.parametrize("one", SCHEDULES, ids=name)
@pytest.mark.parametrize("case", WEIGHTINGS)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_no_draw_has_an_infinite_loss(objective, case, one):
    """At the first and the last float32 draw, loss and gradient."""
    u = torch.tensor([0.0, 2**-24, 1 - 2**-24])
    draw = Uniform()(u, one)
    x0, eps = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Linear(4, 4)
    denoiser = Denoiser(Plain(net), one, objective)
    loss = diffusion_loss(denoiser, x0, draw.t, eps, None, WEIGHTINGS[case], "l2", draw.density)
    assert loss.isfinite().all()
    assert (loss >= 0).all()
    loss.sum().backward()
    assert net.weight.grad.isfinite().all()


class Plain(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, time, cond):
        return self.layer(x)
