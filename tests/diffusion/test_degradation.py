"""Cold diffusion: exact where the paper says so, and degradations that are what they are called."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional as F

from unclip.diffusion import blur, cold_sample, pixelate

X0 = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
E = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def shifted(x, t):
    """D(x, t) = x + t e, to which every smooth degradation is close for small t."""
    return x + t * E


def wrong(x, t, cond=None):
    return x.flip(-1).square() + t.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_the_improved_update_is_exact_for_a_linear_degradation_whatever_is_restored(steps):
    """Bansal et al. 2022, section 3.3: x_s is degrade(x_0, s) at every step. Algorithm 1 gives what
    `restore` gave last."""
    states = []
    got = cold_sample(
        wrong, shifted, shifted(X0, 1), steps, callback=lambda k, t, x, x0: states.append((t, x))
    )
    for t, x in states:
        torch.testing.assert_close(x, shifted(X0, t))
    assert [t for t, _ in states] == pytest.approx([1 - k / steps for k in range(steps)])
    torch.testing.assert_close(got, X0)
    plain = cold_sample(wrong, shifted, shifted(X0, 1), steps, improved=False)
    assert (plain - X0).abs().max() > 1


@pytest.mark.parametrize("improved", [True, False])
@pytest.mark.parametrize("degrade", [blur, pixelate])
def test_a_perfect_restoration_is_kept(degrade, improved):
    got = cold_sample(lambda x, t, cond: X0, degrade, degrade(X0, 1.0), 7, improved=improved)
    torch.testing.assert_close(got, X0)


def test_the_improved_update_keeps_what_an_imperfect_restoration_loses():
    """The picture from its blur, by a restoration that only scales it back up: every error is carried on by
    algorithm 1, and taken out again by the next step of algorithm 2."""
    smooth = blur(X0, 1.0, pixels=1.5)
    degrade = functools.partial(blur, pixels=0.5)
    errors = [
        (
            cold_sample(lambda x, t, cond: 1.2 * x, degrade, degrade(smooth, 1.0), 10, improved=b) - smooth
        ).norm()
        for b in (True, False)
    ]
    assert errors[0] < 0.1 * errors[1]
    assert errors[0] < (degrade(smooth, 1.0) - smooth).norm()


def test_restore_gets_the_severity_and_the_condition():
    seen = []
    cond = {"label": torch.zeros(3)}
    cold_sample(lambda x, t, c: seen.append((t.tolist(), c)) or x, blur, X0, 2, cond)
    assert seen == [([1.0] * 3, cond), ([0.5] * 3, cond)]


def test_blur_is_gaussian():
    """Widths add in squares, means stay, and a point gets that variance along each axis."""
    torch.testing.assert_close(blur(blur(X0, 0.3), 0.4), blur(X0, 0.5))
    torch.testing.assert_close(blur(X0, 1.0).mean((2, 3)), X0.mean((2, 3)))
    point = torch.zeros(1, 1, 65, 64, dtype=torch.float64)
    point[..., 32, 32] = 1
    spread = blur(point, 0.5, pixels=6.0)[0, 0]
    place = torch.arange(65.0, dtype=torch.float64) - 32
    assert (spread.sum(1) * place**2).sum().item() == pytest.approx(9, rel=1e-6)
    assert (spread.sum(0) * place[:64] ** 2).sum().item() == pytest.approx(9, rel=1e-6)
    assert spread.min() > -1e-9
    assert torch.equal(blur(X0, 0.0), X0)


@pytest.mark.parametrize(("t", "block"), [(0.0, 1), (1 / 3, 2), (2 / 3, 4), (1.0, 8)])
def test_pixelate_is_the_mean_of_blocks(t, block):
    means = F.avg_pool2d(X0, block)
    expected = means.repeat_interleave(block, 2).repeat_interleave(block, 3)
    torch.testing.assert_close(pixelate(X0, t), expected)


@pytest.mark.parametrize("degrade", [blur, pixelate])
def test_degradations_are_linear_lose_more_and_more_and_know_no_batch(degrade):
    torch.testing.assert_close(degrade(2 * X0 + 1, 0.6), 2 * degrade(X0, 0.6) + 1)
    left = [degrade(X0, t).var().item() for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.1 * left[0]
    torch.testing.assert_close(degrade(X0, 0.4)[1:2], degrade(X0[1:2], 0.4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cold_sample(wrong, blur, X0, 0), "steps = 0: must satisfy steps >= 1"),
        (lambda: blur(X0, 1.5), "t = 1.5: must satisfy 0 <= t <= 1"),
        (lambda: blur(X0, 0.5, 0.0), "pixels = 0.0: must satisfy pixels > 0"),
        (lambda: pixelate(X0, -0.1), "t = -0.1: must satisfy 0 <= t <= 1"),
        (lambda: pixelate(X0, 0.5, 0), "coarsest = 0: must satisfy coarsest >= 1"),
    ],
)
def test_impossible_degradations_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
