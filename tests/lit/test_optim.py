"""The optimizer's learning rate, step by step, and which parameters decay."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from unclip.lit.optim import adamw


def rates(steps: int = 100, **settings) -> list[float]:
    optimizer, scheduler = adamw(nn.Linear(2, 2), steps, **{"lr": 1.0, **settings})
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_warm_up_climbs_linearly_to_the_rate():
    found = rates(warmup=0.1)
    assert found[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(found) == pytest.approx(1)


@pytest.mark.parametrize(("decay", "middle"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)])
def test_decay_ends_near_the_floor(decay, middle):
    found = rates(min_lr=0.1, decay=decay)
    assert found[50] == pytest.approx(middle, abs=1e-6)
    assert found[-1] == pytest.approx(1.0 if decay == "constant" else 0.1, abs=0.01)
    assert all(a >= b for a, b in pairwise(found))


def test_a_floor_above_the_rate_does_not_raise_it():
    assert rates(lr=0.1, min_lr=1.0) == pytest.approx([0.1] * 100)


def test_vectors_do_not_decay():
    net = nn.Linear(3, 3)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer, _ = adamw(net, 10, lr=0.1, weight_decay=0.5, decay="constant")
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(net.weight.detach(), 0.95 * before["weight"])
    torch.testing.assert_close(net.bias.detach(), before["bias"])


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"warmup": 1.0}, {"weight_decay": -1.0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        adamw(nn.Linear(2, 2), 10, **{"lr": 1.0, **wrong})


@pytest.mark.parametrize("betas", [[0.9], [0.9, 0.99, 0.999], [0.9, 1.0], [-0.1, 0.9]])
def test_betas_are_two_numbers_below_1(betas):
    with pytest.raises(ValueError, match=r"betas = .*: must satisfy len\(betas\) == 2 and all"):
        rates(betas=betas)
