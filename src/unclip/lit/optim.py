"""Optimizers with their learning-rate schedules, a step at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from unclip.diffusion.bounds import bounded

Decay = Literal["cosine", "linear", "constant"]


@bounded
def adamw(
    net: nn.Module,
    total_steps: int,
    lr: Annotated[float, "lr > 0"],
    min_lr: Annotated[float, "min_lr >= 0"] = 0.0,
    betas: Annotated[Sequence[float], "len(betas) == 2 and all(0 <= b < 1 for b in betas)"] = (0.9, 0.999),
    weight_decay: Annotated[float, "weight_decay >= 0"] = 0.01,
    warmup: Annotated[float, "0 <= warmup < 1"] = 0.0,
    decay: Literal["cosine", "linear", "constant"] = "cosine",
    warmup_steps: Annotated[int | None, "warmup_steps >= 0"] = None,
) -> tuple[Optimizer, LRScheduler]:
    """AdamW (Loshchilov & Hutter 2019) over a net's parameters; matrices and filters decay, vectors do not.

    The rate climbs linearly for `warmup` (a fraction) of the steps, or for `warmup_steps` of them at most,
    then falls from lr to min_lr; it stays where it is if that is higher.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    floor = min(min_lr / lr, 1.0)
    optimizer = AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
    if warmup_steps is not None:
        warmup = min(warmup_steps, total_steps) / total_steps
    return optimizer, LambdaLR(optimizer, lambda step: rate(step, total_steps, warmup, decay, floor))


def align(optimizer: Optimizer) -> None:
    """Give the moments the memory format of their parameters: a fused step walks both in memory order, and a
    checkpoint may have been saved in another format."""
    for parameter, state in optimizer.state.items():
        for name, x in state.items():
            if isinstance(x, Tensor) and x.shape == parameter.shape and x.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(x)


def rate(step: int, total: int, warmup: float, decay: Decay, floor: float) -> float:
    """The factor on the learning rate at a step, in [floor, 1] after warm-up."""
    climbing = round(warmup * total)
    if step < climbing:
        return (step + 1) / climbing
    done = min((step - climbing) / max(total - climbing, 1), 1.0)
    falling = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[decay]
    return floor + (1 - floor) * falling
