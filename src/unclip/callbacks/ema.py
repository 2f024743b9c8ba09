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
from unclip.lit.sharding import assembled, local, placed, unsharded


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
            own = parameter.detach()
            self.average[name] = own.clone() if kept is None else placed(kept, own)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.steps:
            return  # gradients are being accumulated
        self.steps = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        weights = [local(p) for _, p in _net(pl_module).named_parameters()]
        torch._foreach_lerp_([local(x) for x in self.average.values()], weights, 1 - decay)

    @contextmanager
    def applied(self, pl_module: LightningModule) -> Iterator[None]:
        """Inside, the net's parameters are the average, and whole; afterwards its own again."""
        parameters = dict(_net(pl_module).named_parameters())  # sharded ones, while they are
        self._exchange(parameters)
        try:
            with unsharded(pl_module):
                yield
        finally:
            self._exchange(parameters)

    @torch.no_grad()
    def _exchange(self, parameters: dict[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            mine, average = local(parameter), local(self.average[name])
            if mine is parameter:
                parameter.data, self.average[name] = average, parameter.data
            else:  # what is gathered is what lies in this memory
                kept = mine.clone()
                mine.copy_(average)
                average.copy_(kept)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation = self.applied(pl_module)
        self._validation.__enter__()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation.__exit__(None, None, None)

    def state_dict(self) -> dict[str, Any]:
        return {"average": assembled(self.average), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.steps = dict(state_dict["average"]), state_dict["steps"]


@contextmanager
def averaged(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """The net with averaged weights where the trainer keeps them, whole, and in eval mode. All ranks enter it together,
    also where only one has something to do inside."""
    net = _net(pl_module)
    ema = next((c for c in trainer.callbacks if isinstance(c, EMA)), None)  # type: ignore[attr-defined]
    training = net.training
    net.eval()
    try:
        with ema.applied(pl_module) if ema else unsharded(pl_module):
            yield
    finally:
        net.train(training)


def _net(pl_module: LightningModule) -> nn.Module:
    net = pl_module.net
    assert isinstance(net, nn.Module)
    return net
