"""Steps whose loss or gradients are not finite: training stops there, or skips and counts them. Knows neither nets nor
losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from unclip.config.problems import Failure
from unclip.data.cache import say

if TYPE_CHECKING:
    from unclip.lit.base import Stage

IN_A_ROW = 100  # consecutive skipped steps, after which nothing is being trained
SAID = 10  # skipped steps that are reported one by one


class NonFinite(Failure):
    """A loss or gradients that are infinite or NaN. All ranks raise it, at the same step."""


class Finite:
    """Watches the steps of one stage.

    on_nan: `stop` raises NonFinite; `skip` leaves weights and moments as they are, and raises it after IN_A_ROW
    skipped steps in a row.
    late: whether reading the verdict would wait for a GPU; then `stop` reads it only at the steps that are logged and
    before a checkpoint, so weights may be spoilt meanwhile, but never saved ones. None: wherever the device is no CPU.
    """

    def __init__(self, on_nan: Literal["stop", "skip"] = "stop", late: bool | None = None):
        self.on_nan, self.late = on_nan, late
        self.skipped = self.in_a_row = 0
        self._loss: Tensor | None = None  # sum over the pieces so far
        self._step: Tensor | None = None  # the first step that was not finite, or -1
        self._seen: Tensor | None = None  # (2,) loss and gradient norm of that step

    def saw(self, loss: Tensor) -> None:
        """The loss of a piece, before its backward pass."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def check(self, stage: Stage, optimizer: Optimizer, norm: Tensor) -> None:
        """Before a step, with the norm of the gradients on all ranks. Raises NonFinite."""
        loss, self._loss = norm.new_zeros(()) if self._loss is None else self._loss, None
        trainer = stage.trainer
        alone = trainer.world_size == 1
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            # infinite gradients are what a scaler of float16 learns from
            watched = loss if alone else trainer.strategy.reduce(loss, reduce_op="sum")
        else:
            watched = norm + loss if alone else norm  # the norm is the same on all ranks
        bad = ~torch.isfinite(watched)
        if self.on_nan == "skip":
            if bool(bad):
                self._skip(stage, optimizer, float(loss), float(norm))
            else:
                self.in_a_row = 0
            return
        step = stage.global_step
        self._note(bad, step, torch.stack([loss.float(), norm.float()]))
        late = bad.device.type != "cpu" if self.late is None else self.late
        if not late or stage.logs_step or step + 1 >= trainer.estimated_stepping_batches:
            self.demand(stage)

    def demand(self, stage: Stage) -> None:
        """Check that all steps so far were finite. Raises NonFinite, naming the first that was not."""
        if self._step is not None and self._seen is not None and (step := int(self._step)) >= 0:
            raise NonFinite(f"{_what(stage, step, *self._seen.tolist())}: {_advice()}")

    def _note(self, bad: Tensor, step: int, seen: Tensor) -> None:
        if self._step is None or self._seen is None:
            self._step, self._seen = torch.full_like(bad, -1, dtype=torch.long), torch.zeros_like(seen)
        first = bad & (self._step < 0)
        self._step, self._seen = torch.where(first, step, self._step), torch.where(first, seen, self._seen)

    def _skip(self, stage: Stage, optimizer: Optimizer, loss: float, norm: float) -> None:
        optimizer.zero_grad()  # without gradients a step changes nothing
        self.skipped += 1
        self.in_a_row += 1
        what = _what(stage, stage.global_step, loss, norm)
        if self.in_a_row == IN_A_ROW:
            raise NonFinite(f"{what}, and so for {IN_A_ROW} steps, all left out: {_advice()}")
        if stage.trainer.is_global_zero and self.skipped <= SAID:
            more = "; more are counted in status.json" if self.skipped == SAID else ""
            say(f"{what}: left out{more}")


def _what(stage: Stage, step: int, loss: float, norm: float) -> str:
    epoch, batch = divmod(step, max(int(stage.trainer.num_training_batches) // stage.pieces, 1))
    where = f"epoch {epoch}, batch {batch}, both counted from 0, seed {stage.seed}"
    return f"the loss is {loss:.6g}, the norm of its gradients {norm:.6g} at step {step + 1} ({where})"


def _advice() -> str:
    return (
        "retry=true comes to it again from the last checkpoint, with on_nan=skip it leaves such steps out; "
        "a smaller optim.lr or trainer.precision=32-true may avoid them"
    )
