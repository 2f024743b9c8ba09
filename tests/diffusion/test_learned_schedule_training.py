"""What trains the learned schedule: the gradient of the squared losses, in the pass of the losses' own."""

from __future__ import annotations

import copy

import torch

from unclip.diffusion import Denoiser, Eps, Gaussian, Learned, V, diffusion_loss, vlb
from unclip.diffusion.learned import VarianceGradient
from unclip.diffusion.times import Uniform


class Linear(torch.nn.Module):
    """x_t (B,2) and log_snr (B,) -> (B,2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2).double()

    def forward(self, x, time, cond):
        return self.layer(torch.cat([x, time.to(x).unsqueeze(1)], dim=1))


def losses(net, schedule, through, u, x0, eps):
    draw = Uniform()(u, schedule.schedule if isinstance(schedule, VarianceGradient) else schedule)
    denoiser = Denoiser(net, schedule, V(), time="log_snr")
    return diffusion_loss(denoiser, x0, draw.t, eps, weight=vlb(), density=lambda: through(draw.density()))


def test_the_schedule_gets_the_gradient_of_the_squares_and_the_net_that_of_the_mean() -> None:
    torch.manual_seed(0)
    net, schedule = Linear(), Learned(hidden=16).double()
    batch = torch.rand(8, dtype=torch.float64), *torch.randn(2, 8, 2, dtype=torch.float64)
    plain = losses(net, schedule, lambda x: x, *batch)
    inner = list(schedule.parameters())
    expected_net = torch.autograd.grad(plain.mean(), list(net.parameters()), retain_graph=True)
    expected_schedule = torch.autograd.grad(plain.square().mean(), inner)
    tapped = VarianceGradient(schedule)
    found = losses(net, tapped, tapped.through, *batch)
    assert torch.equal(found, plain)
    tapped.see(found)
    found.mean().backward()
    for p, gradient in zip(net.parameters(), expected_net, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-12)
    for p, gradient in zip(inner, expected_schedule, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-5, atol=1e-5)  # some of the way in float32


def test_a_copy_has_a_schedule_of_its_own() -> None:
    tapped = VarianceGradient(Learned(hidden=4))
    other = copy.deepcopy(tapped)
    other.gamma_min.data -= 1
    assert other.gamma_min == tapped.gamma_min - 1
    assert other.T is None


def test_training_lowers_the_variance_of_the_loss_and_leaves_its_mean() -> None:
    """The exact denoiser of N(0, 0.25): its error of eps depends on the level alone, and the bound's loss on the
    schedule's ends alone (Kingma et al. 2021, section 5.1)."""
    schedule = Learned(hidden=64, gamma_min=-8.0, gamma_max=6.0, train_ends=False).double()
    x0 = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    eps = torch.randn(4096, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = (torch.arange(4096, dtype=torch.float64) + 0.5) / 4096
    u = u[torch.randperm(4096, generator=torch.Generator().manual_seed(2))]

    def at(schedule, rows, through=lambda x: x):
        exact = Gaussian(schedule, std=0.5)
        alpha, sigma = schedule(u[rows])
        x_t = alpha.unsqueeze(1) * x0[rows] + sigma.unsqueeze(1) * eps[rows]
        error = (exact(x_t, u[rows]) - x0[rows]).square().mean(1) * (alpha / sigma) ** 2
        inner = getattr(schedule, "schedule", schedule)
        density = through(Uniform()(u[rows], inner).density())
        return error * vlb()(2 * (alpha / sigma).log(), Eps(), density)

    everything = torch.arange(4096)
    before = at(schedule, everything).detach()
    ends = schedule.gamma_min.item(), schedule.width.item()
    tapped = VarianceGradient(schedule)
    optimizer = torch.optim.Adam([p for p in schedule.parameters() if p.requires_grad], lr=0.02)
    for step in range(200):
        rows = everything[(step * 256) % 4096 :][:256]
        found = at(tapped, rows, tapped.through)
        tapped.see(found)
        optimizer.zero_grad()
        found.mean().backward()
        optimizer.step()
    after = at(schedule, everything).detach()
    assert after.var() < 0.6 * before.var()
    assert abs(after.mean() / before.mean() - 1) < 0.06
    assert ends == (schedule.gamma_min.item(), schedule.width.item())
