"""The average is of parameters alone, forgets its start, and is what is validated and exported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unclip.callbacks.ema import EMA, averaged


class Net(nn.Module):
    schedule: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("schedule", torch.zeros(3))


def trained(decay: float, values: list[float]) -> tuple[EMA, Any, Any]:
    """The callback after steps that set weight and buffer to the given values."""
    module, ema = nn.Module(), EMA(decay)
    module.net = Net()
    trainer = SimpleNamespace(global_step=0, callbacks=[ema])
    ema.on_fit_start(trainer, module)  # type: ignore[arg-type]
    for value in values:
        trainer.global_step += 1
        with torch.no_grad():
            module.net.weight.fill_(value)
            module.net.schedule.fill_(value)
        ema.on_train_batch_end(trainer, module)  # type: ignore[arg-type]
    return ema, trainer, module


def test_it_is_the_recursion_it_says() -> None:
    values = [1.0, -2.0, 0.5, 3.0]
    expected = 0.0
    for n, value in enumerate(values, 1):
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    ema, _, _ = trained(0.3, values)
    torch.testing.assert_close(ema.average["weight"], torch.full((3,), expected))


def test_buffers_are_not_averaged() -> None:
    ema, trainer, module = trained(0.9, [1.0, 2.0])
    assert set(ema.average) == {"weight"}
    with averaged(trainer, module):
        assert torch.equal(module.net.schedule, torch.full((3,), 2.0))
        assert not torch.equal(module.net.weight, torch.full((3,), 2.0))
    assert torch.equal(module.net.weight, torch.full((3,), 2.0))


def test_steps_that_only_accumulate_gradients_do_not_count() -> None:
    ema, trainer, module = trained(0.9, [1.0])
    before = ema.average["weight"].clone()
    with torch.no_grad():
        module.net.weight.fill_(100.0)
    ema.on_train_batch_end(trainer, module)  # the same global step
    assert torch.equal(ema.average["weight"], before)


def test_an_error_inside_puts_the_weights_and_the_mode_back() -> None:
    _, trainer, module = trained(0.9, [1.0, 5.0])
    module.net.train()

    def fails() -> None:
        with averaged(trainer, module):
            assert not module.net.training
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert torch.equal(module.net.weight, torch.full((3,), 5.0))
    assert module.net.training


def test_it_goes_on_from_its_saved_state() -> None:
    whole, _, _ = trained(0.9, [1.0, 2.0, 3.0])
    first, trainer, module = trained(0.9, [1.0, 2.0])
    second = EMA(0.9)
    second.load_state_dict(first.state_dict())
    second.on_fit_start(trainer, module)
    trainer.global_step += 1
    with torch.no_grad():
        module.net.weight.fill_(3.0)
    second.on_train_batch_end(trainer, module)
    assert torch.equal(second.average["weight"], whole.average["weight"])
