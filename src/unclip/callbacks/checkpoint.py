"""The training state on disk, whole at every moment, and a clean stop on Ctrl-C or the signals of a cluster.

One file, replaced by renaming a finished new one; it goes when the run is finished, for then the weights are there.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from unclip.diffusion.bounds import bounded

ASKED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
AGREE_EVERY = 10  # steps: how often several ranks tell one another that one was asked to stop


class Stopped(BaseException):
    """Training was asked to stop; its state is saved. Not an Exception, so that nothing on the way swallows it."""


class Checkpoint(LightningCheckpoint):
    """Save every n optimizer steps, and when asked to stop. A Lightning `Checkpoint`, and so called after the EMA."""

    @bounded
    def __init__(
        self, every_n_steps: Annotated[int, "every_n_steps >= 1"] = 200, path: str = "checkpoint.ckpt"
    ):
        self.every_n_steps, self.path = every_n_steps, Path(path)
        self.saved_at = -1
        self.asked_to_stop = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_at = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            for number in ASKED_BY:
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked_to_stop and number == signal.SIGINT:
            os._exit(130)  # Ctrl-C twice: at once; the last checkpoint is whole
        self.asked_to_stop = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        stop = self._agreed(trainer)
        due = trainer.global_step % self.every_n_steps == 0 or stop
        if due and trainer.global_step != self.saved_at:
            self.save(trainer)
        if stop:
            raise Stopped

    def _agreed(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self.asked_to_stop
        agrees = trainer.global_step % AGREE_EVERY == 0
        return agrees and trainer.strategy.reduce_boolean_decision(self.asked_to_stop, all=False)

    def save(self, trainer: Trainer) -> None:
        """Write beside, sync, rename: the old file stays until the new one is whole."""
        self.saved_at = trainer.global_step
        temporary = self.path.with_name(f".{self.path.name}.new")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(self.path)


def readable(path: Path) -> bool:
    """Whether a checkpoint is there and loads, without executing anything in it."""
    if not path.is_file():
        return False
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return False
    return True
