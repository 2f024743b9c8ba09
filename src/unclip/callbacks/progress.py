"""Progress on the terminal: loss, images a second and time to go; a line now and then where output is no terminal."""

from __future__ import annotations

import time
from typing import Annotated, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from unclip.diffusion.bounds import bounded
from unclip.progress import Bar


class Progress(ProgressBar):
    """One bar over the whole training, whatever its epochs, and the run's heartbeat in status.json."""

    @bounded
    def __init__(
        self,
        refresh_seconds: Annotated[float, "refresh_seconds > 0"] = 0.5,
        heartbeat_seconds: Annotated[float, "heartbeat_seconds > 0"] = 10.0,
    ):
        super().__init__()
        self.refresh_seconds, self.heartbeat_seconds = refresh_seconds, heartbeat_seconds
        self.heartbeat: Any = lambda **fields: None  # the job sets it: called with step and loss
        self.bar: Bar | None = None

    def disable(self) -> None:
        """Lightning calls it on every rank but the first."""
        self.refresh_seconds = self.heartbeat_seconds = float("inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        stage = type(pl_module).__name__.removesuffix("Module").lower()
        self.bar = Bar(f"training {stage}", int(trainer.estimated_stepping_batches), trainer.global_step)
        self.bar.start()
        self.started, self.first = time.monotonic(), trainer.global_step
        self.shown = self.beaten = self.started

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if self.bar is None:
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # its logger connector sets it
        if every > 0 and trainer.global_step % every == 0:  # for curves over wall time
            pl_module.log("train/seconds", now - self.started)
        if now - self.shown < self.refresh_seconds:
            return
        logged = trainer.callback_metrics.get("train/loss")  # a stage of somebody's own may log none
        loss = {} if logged is None else {"loss": float(logged)}
        images = len(batch["index"]) * trainer.world_size * trainer.accumulate_grad_batches
        rate = images * (trainer.global_step - self.first) / (now - self.started)
        words = [
            *(f"loss {value:.4f}" for value in loss.values()),
            f"{rate:,.{0 if rate >= 10 else 2}f} images/s",
        ]
        self.bar.update(trainer.global_step, "  ".join(words))
        self.shown = now
        pl_module.log("train/images_per_second", rate)
        if now - self.beaten > self.heartbeat_seconds:
            self.heartbeat(step=trainer.global_step, **loss)
            self.beaten = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step)
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
