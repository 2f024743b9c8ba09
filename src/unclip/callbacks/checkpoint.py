"""The training state on disk, whole at every moment, and a clean stop on Ctrl-C or the signals of a cluster.

A new file is renamed to its place once it is whole, and the one before it is kept; both go when the run is finished,
for then the weights are there.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import zipfile
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from unclip.diffusion.bounds import bounded
from unclip.files import earlier, put
from unclip.runs.process import ASKED_BY

AGREE_SECONDS = 1.0  # about how often several ranks tell one another that one was asked to stop
HOLDS = {"state_dict", "optimizer_states", "loops", "callbacks"}  # keys that a training resumes from


class Stopped(BaseException):
    """Training was asked to stop; its state is saved. Not an Exception, so that nothing on the way swallows it."""


class OneFile(TorchCheckpointIO):
    """torch.save into the very file: Lightning's own goes by way of memory and of a temporary folder, where a killed
    run would leave it. Raises OSError where the file cannot be written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        try:
            with open(path, "wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch may raise its own, of an unfinished file, over the reason
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


class Checkpoint(LightningCheckpoint):
    """Save every n optimizer steps, before the last one, and when asked to stop. A Lightning `Checkpoint`, and so
    called after the EMA.

    Never after the last step: a resumed run always has a step left, and so reaches what follows training, such as its
    final metrics.
    """

    @bounded
    def __init__(
        self, every_n_steps: Annotated[int, "every_n_steps >= 1"] = 200, path: str = "checkpoint.ckpt"
    ):
        self.every_n_steps, self.path = every_n_steps, Path(path)
        self.stepped_at = self.agree_at = 0
        self.agreed_at = (0, 0.0)  # step, time
        self.asked_to_stop = self.trained = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = OneFile()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stepped_at = self.agree_at = trainer.global_step
        self.agreed_at = trainer.global_step, time.monotonic()
        self.rank, self.trained = trainer.global_rank, False
        if threading.current_thread() is threading.main_thread():
            for number in ASKED_BY:
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked_to_stop and number == signal.SIGINT:
            os._exit(130)  # Ctrl-C twice: at once; the last checkpoint is whole
        self.asked_to_stop = True
        if self.trained and self.rank == 0:  # nothing is left but to measure, which may take long
            raise Stopped

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step, last = trainer.global_step, trainer.estimated_stepping_batches
        if step == self.stepped_at:
            return  # gradients are being accumulated: no state to go on from
        self.stepped_at = step
        stop = self._agreed(trainer)
        if step < last and (step % self.every_n_steps == 0 or step == last - 1 or stop):
            self.save(trainer)
        if stop:
            raise Stopped
        self.trained = step >= last

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether any rank was asked to stop; they ask one another at the same steps, about AGREE_SECONDS apart."""
        if trainer.world_size == 1:
            return self.asked_to_stop
        step, (before, then) = trainer.global_step, self.agreed_at
        if step < self.agree_at:
            return False
        pace = (time.monotonic() - then) / max(step - before, 1)  # seconds a step
        mine = torch.tensor([float(self.asked_to_stop), pace], device=trainer.strategy.root_device)
        asked, pace = trainer.strategy.reduce(mine, reduce_op="max").tolist()  # type: ignore[union-attr]
        self.agreed_at = step, time.monotonic()
        self.agree_at = step + max(1, int(AGREE_SECONDS / max(pace, 1e-6)))
        return bool(asked)

    def save(self, trainer: Trainer) -> None:
        """Write beside, sync, rename: at every moment there is a whole file, the last one or the one before it."""
        temporary = unfinished(self.path)
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                if self.path.is_file():
                    self.path.replace(earlier(self.path))
                put(temporary, self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def unfinished(path: Path) -> Path:
    """What a checkpoint is called while it is written."""
    return path.with_name(f".{path.name}.new")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole. Each part's checksum is compared, which torch writes and
    does not read, and nothing that the file may hold is executed."""
    try:
        with zipfile.ZipFile(path) as parts:
            if (part := parts.testzip()) is not None:
                return f"has a part, {part}, whose checksum is not the one written with it"
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except pickle.UnpicklingError:
        return "holds more than tensors and plain values, and is not loaded"
    except Exception as error:  # whatever a reader may stumble over in bytes that nobody wrote
        return f"is not whole: {(str(error) or type(error).__name__).splitlines()[0]}"
    return None if isinstance(found, dict) and found.keys() >= HOLDS else "is no state of a training"
