"""Exponential moving average of the trained net's parameters; validation, pictures and export use it.

Only parameters are averaged: buffers hold schedules and statistics, and frozen parts are not in the net.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from unclip.diffusion.bounds import bounded


class EMA(Callback):
    """average <- d average + (1 - d) weights after each optimizer step, d = min(decay, (1 + n) / (10 + n)) at step n.

    The ramp lets the average forget the random start in short runs.
    """

    @bounded
    def __init__(self, decay: Annotated[float, "0 <= decay < 1"] = 0.9999):
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.steps = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in _net(pl_module).named_parameters():
            kept = self.average.get(name)
            self.average[name] = (parameter.detach().clone() if kept is None else kept).to(parameter.device)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.steps:
            return  # gradients are being accumulated
        self.steps = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        weights: list[Tensor] = [p for _, p in _net(pl_module).named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    @contextmanager
    def applied(self, net: nn.Module) -> Iterator[None]:
        """Inside, the net's parameters are the average; afterwards its own again."""
        own = {name: p.data for name, p in net.named_parameters()}
        try:
            for name, parameter in net.named_parameters():
                parameter.data = self.average[name]
            yield
        finally:
            for name, parameter in net.named_parameters():
                parameter.data = own[name]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation = self.applied(_net(pl_module))
        self._validation.__enter__()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation.__exit__(None, None, None)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.steps = dict(state_dict["average"]), state_dict["steps"]


@contextmanager
def averaged(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """The net with averaged weights where the trainer keeps them, and in eval mode."""
    net = _net(pl_module)
    ema = next((c for c in trainer.callbacks if isinstance(c, EMA)), None)  # type: ignore[attr-defined]
    training = net.training
    net.eval()
    try:
        if ema is None:
            yield
        else:
            with ema.applied(net):
                yield
    finally:
        net.train(training)


def _net(pl_module: LightningModule) -> nn.Module:
    net = pl_module.net
    assert isinstance(net, nn.Module)
    return net
