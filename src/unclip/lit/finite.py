"""Steps whose loss or gradients are no numbers: the training stops at them, or leaves them out and counts them. Knows
neither nets nor losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from unclip.config.problems import Failure
from unclip.data.cache import say

if TYPE_CHECKING:
    from unclip.lit.base import Stage

IN_A_ROW = 100  # steps left out one after the other, after which nothing is being trained
SAID = 10  # of them one by one


class NonFinite(Failure):
    """A loss or gradients that are infinite or no number. All ranks raise it, at the same step."""


class Finite:
    """Watches the steps of one stage.

    on_nan: `stop` raises NonFinite; `skip` leaves weights and moments as they are, and raises it after IN_A_ROW steps.
    late: whether to ask for a verdict is to wait for a GPU; then `stop` asks every `log_every_n_steps` steps. Weights
    may be spoilt by then, but never those of a checkpoint, before which it asks too. None: on whatever is no CPU.
    """

    def __init__(self, on_nan: Literal["stop", "skip"] = "stop", late: bool | None = None):
        self.on_nan, self.late = on_nan, late
        self.skipped = self.in_a_row = 0
        self._loss: Tensor | None = None  # of the pieces so far
        self._step: Tensor | None = None  # the first bad one, -1 before there is one
        self._seen: Tensor | None = None  # (2,) its loss and norm

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
        """That all steps so far were finite. Raises NonFinite, which names the first that was not."""
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
