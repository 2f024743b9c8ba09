"""The learned schedule: monotone whatever its weights, inverted, and reached by gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.diffusion import Denoiser, Eps, Learned, ddim, diffusion_loss, log_snr, make_grid

T = torch.linspace(0, 1, 101, dtype=torch.float64)


def randomised(seed, spread=2.0, hidden=24):
    one, generator = Learned(hidden), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return one


@given(seed=st.integers(0, 2**31), spread=st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_it_is_monotone_and_inverted_whatever_its_weights(seed, spread):
    one = randomised(seed, spread).requires_grad_(False)
    level = log_snr(one, T)
    assert (level.diff() < 0).all()
    torch.testing.assert_close(one.t_at(level), T, rtol=0, atol=1e-9)
    alpha, sigma = one(T)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(T), rtol=1e-12, atol=0)


def test_it_begins_near_a_line_between_its_ends():
    level = log_snr(Learned(gamma_min=-10.0, gamma_max=6.0).requires_grad_(False), T)
    torch.testing.assert_close(level, 10 - 16 * T, rtol=0, atol=1.6)
    torch.testing.assert_close(level[[0, -1]], torch.tensor([10.0, -6.0]).double(), rtol=1e-6, atol=0)


def test_its_ends_are_what_its_parameters_say_and_keep_their_order():
    one = randomised(0)
    low, high = log_snr(one, torch.tensor([1.0, 0.0]))
    (high.backward(retain_graph=True), low.backward())
    assert one.gamma_min.grad.item() == pytest.approx(-2, rel=1e-5)  # both ends move with it
    assert one.width.grad.item() < 0  # and one of them with the width
    with torch.no_grad():
        one.width.fill_(-50.0)
    assert log_snr(one, torch.tensor(0.0)) >= log_snr(one, torch.tensor(1.0))


def test_gradients_reach_every_parameter_through_the_loss():
    class Net(torch.nn.Linear):
        def forward(self, x, t, cond):
            return super().forward(torch.cat([x, t.unsqueeze(1)], 1))

    torch.manual_seed(0)
    denoiser = Denoiser(Net(3, 2), Learned(8), Eps(), time="log_snr")
    t = torch.rand(64)
    diffusion_loss(denoiser, torch.randn(64, 2), t, torch.randn(64, 2)).mean().backward()
    parameters = dict(denoiser.schedule.named_parameters())
    assert set(parameters) <= {key.removeprefix("schedule.") for key, _ in denoiser.named_parameters()}
    for parameter in parameters.values():
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).all()


def test_it_learns_another_schedule():
    """A parabola of log-SNR, of other ends than its own: within 0.3 of its 12."""
    t = torch.linspace(0, 1, 65)
    wanted = 8 - 12 * t**2
    one = Learned(32)
    optimizer = torch.optim.Adam(one.parameters(), lr=0.1)
    for _ in range(250):
        loss = (one.level(t) - wanted).square().mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    assert (one.level(t) - wanted).abs().max() < 0.3


def test_samplers_walk_it_while_it_is_trained():
    """Gradients stay out of grids."""
    one = randomised(3)
    grid = make_grid(one, 10, "karras")
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert not grid.alpha.requires_grad
    assert torch.equal(ddim(lambda x, t, cond: torch.zeros_like(x), x, grid), torch.zeros_like(x))
