"""Pictures while the decoder trains: always of the same validation embeddings and noise, from the averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from unclip.callbacks.ema import averaged
from unclip.data.images import to_uint8
from unclip.data.module import ImageTextData
from unclip.diffusion.bounds import bounded
from unclip.lit.decoder import DecoderModule
from unclip.randomness import key
from unclip.report.pictures import grid, save

BATCH = 100


def decoded(module: DecoderModule, source: ImageTextData, indices: Sequence[int]) -> Tensor:
    """uint8 (n,C,H,W): validation images by number, through embedding and decoder, with keyed noise. To be called with
    the net `averaged`, which all ranks enter together."""
    split = source.split("validation")
    parts = []
    for chunk in torch.tensor(list(indices)).split(BATCH):
        on_device = chunk.to(module.device)
        cond = {}
        if module.embeddings is not None:  # else the decoder is unconditional
            text = module.embeddings.captions(split.caption_ids[chunk].to(module.device))
            cond = module.condition(module.embeddings.image["validation"][on_device], text)
        parts.append(to_uint8(module.sample(cond, chunk, key(module.seed, "watch"))).cpu())
    return torch.cat(parts)


class SampleGrid(Callback):
    """Every n steps `rows` x `columns` pictures into <folder>/step-<step>.png, and to loggers that show images."""

    @bounded
    def __init__(
        self,
        every_n_steps: Annotated[int, "every_n_steps >= 1"] = 500,
        rows: Annotated[int, "rows >= 1"] = 4,
        columns: Annotated[int, "columns >= 1"] = 8,
        folder: str = "samples",
        source: ImageTextData | None = None,
    ):
        self.every_n_steps, self.rows, self.columns = every_n_steps, rows, columns
        self.folder, self.source = Path(folder), source
        self.drawn_at = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.drawn_at = trainer.global_step  # a resumed run has drawn these before its checkpoint

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self.drawn_at:
            self._together(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self.drawn_at:
            self._together(trainer, pl_module)

    def _together(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.drawn_at = trainer.global_step
        with averaged(trainer, pl_module):
            if trainer.is_global_zero:
                self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DecoderModule)
        assert self.source is not None
        count = min(self.rows * self.columns, len(self.source.split("validation")))
        picture = grid(decoded(pl_module, self.source, range(count)), self.columns)
        save(picture, self.folder / f"step-{trainer.global_step:06d}.png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [picture], step=trainer.global_step)
