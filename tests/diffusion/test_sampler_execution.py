"""How samplers run: one graph for the compiler, and no waiting for the device."""

from __future__ import annotations

import pytest
import torch
from sampler_cases import SAMPLERS, churned, name
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from unclip.diffusion import Cosine, Denoiser, Discrete, Eps, V, clipped, cosine_betas, jsd_betas, make_grid

WAITING = {"_local_scalar_dense", "nonzero"}  # what bool(), float(), item() and indexing by a mask come to


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x, time, cond):
        return self.layer(torch.cat([x, time.reshape(-1, 1).to(x.dtype) / 1000], dim=1))


class Waits(TorchDispatchMode):
    """Counts the operations that make the host wait for a device's value."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in WAITING
        return func(*args, **(kwargs or {}))


def test_the_counter_counts():
    with Waits() as waits:
        assert torch.ones(1).sum() > 0
        torch.ones(1).item()
    assert waits.count == 2


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("schedule", [Discrete(cosine_betas(1000)), Cosine()], ids=name)
def test_the_loop_never_waits_for_the_device(sampler, schedule):
    denoise = clipped(Denoiser(Net(), schedule, V()), 1)
    x, grid = torch.zeros(2, 3), make_grid(schedule, 6)
    schedule(grid.t[:1])  # a table is copied to a device once
    with Waits() as waits:
        sampler(denoise, x, grid)
    assert waits.count == 0


def test_only_alpha_0_is_looked_at_once():
    schedule = Discrete(jsd_betas(100))
    grid = make_grid(schedule, 10)
    with Waits() as waits:
        SAMPLERS[0](Denoiser(Net(), schedule, V()), torch.zeros(2, 3), grid)
    assert waits.count == 1


TABLE = Discrete(cosine_betas(1000))
CASES = [(sampler, Cosine()) for sampler in SAMPLERS if sampler is not churned]


@pytest.mark.parametrize(("sampler", "schedule"), [*CASES, (SAMPLERS[0], TABLE)], ids=name)
def test_a_sampler_compiles_to_one_graph(sampler, schedule):
    """Churn does too but for its start, where it asks the schedule for its levels."""
    torch._dynamo.reset()
    denoise, grid = Denoiser(Net(), schedule, V()), make_grid(schedule, 4)
    compiled = torch.compile(
        lambda x: sampler(denoise, x, grid, noise=torch.ones_like), fullgraph=True, backend="eager"
    )
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    torch.testing.assert_close(compiled(x), sampler(denoise, x, grid, noise=torch.ones_like))


@pytest.mark.gpu
@pytest.mark.parametrize("objective", [V(), Eps()], ids=name)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
def test_on_a_gpu_nothing_waits_and_the_result_is_the_cpus(sampler, objective):
    schedule = Discrete(cosine_betas(1000))
    denoise, grid = Denoiser(Net(), schedule, objective), make_grid(schedule, 8)
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    expected = sampler(denoise, x, grid, noise=torch.ones_like)
    denoise, x = denoise.cuda(), x.cuda()
    denoise(x, torch.full((2,), 5.0, device="cuda"))  # the table is copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = sampler(denoise, x, grid, noise=torch.ones_like)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_on_a_gpu_eps_at_alpha_0_is_refused():
    schedule = Discrete(jsd_betas(100))
    denoise = Denoiser(Net(), schedule, Eps()).cuda()
    with pytest.raises(ValueError, match="where alpha = 0: a network of eps"):
        SAMPLERS[0](clipped(denoise, 1), torch.ones(2, 3, device="cuda"), make_grid(schedule, 10))
