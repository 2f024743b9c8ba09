"""Wrappers: guidance in one pass, clipping after it, and a denoiser of one schedule walked along another."""

from __future__ import annotations

import pytest
import torch

from unclip.diffusion import (
    Cosine,
    Discrete,
    Gaussian,
    Linear,
    clipped,
    guided,
    linear_betas,
    log_snr,
    retimed,
)
from unclip.diffusion.schedule import Edm, Flow

X = torch.linspace(-2, 2, 12).reshape(4, 3)
T = torch.tensor([1.0, 2.0, 3.0, 4.0])
COND = {"embedding": torch.arange(4.0).reshape(4, 1), "keep": torch.ones(4, dtype=torch.bool)}
NULL = {**COND, "keep": torch.zeros(4, dtype=torch.bool)}


class Spy:
    """A denoiser that reads x_t, t and, where it is kept, the condition; it remembers its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, x_t, t, cond=None):
        self.calls.append((x_t, t, cond))
        return (
            0.5 * x_t
            + t.reshape(-1, 1)
            + torch.where(cond["keep"], 1.0, 0.0).reshape(-1, 1) * cond["embedding"]
        )


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_guidance_extrapolates_from_the_null_branch(scale):
    c, u = Spy()(X, T, COND), Spy()(X, T, NULL)
    torch.testing.assert_close(guided(Spy(), scale, NULL)(X, T, COND), u + scale * (c - u))


def test_guidance_is_one_pass_over_the_batch_twice():
    spy = Spy()
    guided(spy, 3.0, NULL)(X, T, COND)
    ((x_t, t, cond),) = spy.calls
    assert len(x_t) == len(t) == 8
    assert cond["keep"].tolist() == [True] * 4 + [False] * 4


def test_scale_1_is_off_and_costs_nothing():
    spy = Spy()
    guided(spy, 1, NULL)(X, T, COND)
    ((x_t, _, cond),) = spy.calls
    assert len(x_t) == 4
    assert cond is COND


def test_the_null_branch_keeps_x_t_and_t():
    """A null branch that drops x_t as well guides away from x_t, not towards the condition: what both
    branches share must cancel, so that the difference is the condition's alone."""
    spy = Spy()
    guided_x0 = guided(spy, 3.0, NULL)(X, T, COND)
    ((x_t, t, _),) = spy.calls
    assert torch.equal(x_t[4:], X)
    assert torch.equal(t[4:], T)
    torch.testing.assert_close(guided_x0 - Spy()(X, T, COND), 2.0 * COND["embedding"].expand(4, 3))


def test_guidance_of_x0_is_guidance_of_eps():
    alpha, sigma = 0.6, 0.8
    c, u = Spy()(X, T, COND), Spy()(X, T, NULL)
    eps_c, eps_u = (X - alpha * c) / sigma, (X - alpha * u) / sigma
    eps = eps_u + 2.5 * (eps_c - eps_u)
    torch.testing.assert_close(guided(Spy(), 2.5, NULL)(X, T, COND), (X - sigma * eps) / alpha)


def test_clipping_after_guidance_bounds_what_clipping_before_does_not():
    after = clipped(guided(Spy(), 3.0, NULL), 1)(X, T, COND)
    before = guided(clipped(Spy(), 1), 3.0, NULL)(X - T.reshape(-1, 1) * 2, T, COND)
    assert after.abs().max() == 1
    assert before.abs().max() > 1
    torch.testing.assert_close(after, guided(Spy(), 3.0, NULL)(X, T, COND).clamp(-1, 1))


@pytest.mark.parametrize(
    ("trained", "sampling"),
    [
        (Cosine(), Linear()),
        (Discrete(linear_betas(1000)), Cosine()),
        (Cosine(), Flow()),
        (Flow(), Edm()),
        (Edm(), Cosine()),
    ],
    ids=lambda s: type(s).__name__,
)
def test_retimed_is_exact_for_an_exact_denoiser(trained, sampling):
    """The posterior mean depends on x_t / alpha and the log-SNR alone, so the two must agree wherever both
    reach."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.2, 0.3, 0.5, 0.6, 0.7], dtype=torch.float64)
    exact = Gaussian(sampling, 0.7, 0.4)(x, t)
    torch.testing.assert_close(retimed(Gaussian(trained, 0.7, 0.4), trained, sampling)(x, t), exact)


def test_retimed_reaches_alpha_0():
    trained, t = Discrete(linear_betas(1000)), torch.tensor([1.0], dtype=torch.float64)
    assert log_snr(Cosine(), t).item() == -torch.inf
    x = torch.tensor([[0.3]], dtype=torch.float64)
    expected = Gaussian(trained, 0.7, 0.4)(x, torch.tensor([999.0]).double())
    torch.testing.assert_close(retimed(Gaussian(trained, 0.7, 0.4), trained, Cosine())(x, t), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guided(Spy(), -0.5, NULL), "scale = -0.5: must satisfy scale >= 0"),
        (lambda: clipped(Spy(), 0), "limit = 0: must satisfy limit > 0"),
        (lambda: guided(Spy(), 2.0, None)(X, T, COND), "same keys"),
        (lambda: guided(Spy(), 2.0, NULL)(X, T, None), "same keys"),
        (
            lambda: guided(Spy(), 2.0, {"keep": NULL["keep"]})(X, T, COND),
            r"\['embedding', 'keep'\] and \['keep'\]",
        ),
    ],
)
def test_impossible_guidance_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
