"""Frechet distance while the decoder trains: averaged weights, keyed noise, N in the metric's name.

The extractor lives here, not in the module: it is in no checkpoint and in no precision but its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from unclip.callbacks.samples import decoded
from unclip.data.module import ImageTextData
from unclip.diffusion.bounds import bounded
from unclip.evaluate.distances import frechet_distance, moments
from unclip.evaluate.extractors import Extractor
from unclip.evaluate.statistics import real_statistics
from unclip.lit.decoder import DecoderModule


class FID(Callback):
    """val/fd_n<N>: N samples from validation embeddings against all validation images; every n steps, and at the end
    on `n_final` samples (0: not at all)."""

    @bounded
    def __init__(
        self,
        every_n_steps: Annotated[int, "every_n_steps >= 1"] = 500,
        n: Annotated[int, "n >= 2"] = 200,
        n_final: Annotated[int, "n_final >= 0"] = 500,
        extractor: Extractor | None = None,
        source: ImageTextData | None = None,
        cache: str = "outputs/cache",
    ):
        self.every_n_steps, self.n, self.n_final = every_n_steps, n, n_final
        self.extractor, self.source, self.cache = extractor, source, Path(cache)
        self.measured_at = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        due = trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self.measured_at
        if due and trainer.global_step < trainer.estimated_stepping_batches:
            self.measured_at = trainer.global_step
            self._report(trainer, self.measure(trainer, pl_module, self.n), self.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.n_final:
            self._report(trainer, self.measure(trainer, pl_module, self.n_final), self.n_final)

    def measure(self, trainer: Trainer, pl_module: LightningModule, n: int) -> float:
        """The distance of n samples, drawn and embedded in parts by the ranks, the same on any number of them."""
        assert isinstance(pl_module, DecoderModule)
        assert self.extractor is not None
        assert self.source is not None
        if trainer.is_global_zero:
            self._real()  # one rank computes and writes it, the others read it
        trainer.strategy.barrier()
        count = min(n, len(self.source.split("validation")))
        mine = range(trainer.global_rank, count, trainer.world_size)
        images = decoded(trainer, pl_module, self.source, mine)
        features = self._together(trainer, self.extractor.to(pl_module.device).features(images), count)
        return float(frechet_distance(*moments(features), *self._real()))

    def _real(self) -> tuple[Tensor, Tensor]:
        assert self.extractor is not None
        assert self.source is not None
        return real_statistics(self.extractor, self.source, "validation", self.cache).moments

    def _together(self, trainer: Trainer, features: Tensor, count: int) -> Tensor:
        """All ranks' features (n,F) in the order of samples, of which rank r has r, r + ranks, r + 2 ranks, ..."""
        ranks = trainer.world_size
        if ranks == 1:
            return features
        rows = -(-count // ranks)
        padded = torch.nn.functional.pad(features, (0, 0, 0, rows - len(features)))
        gathered = trainer.strategy.all_gather(padded.to(trainer.strategy.root_device))  # (ranks, rows, F)
        return gathered.transpose(0, 1).flatten(0, 1)[:count].cpu()

    def _report(self, trainer: Trainer, value: float, n: int) -> None:
        name = f"val/fd_n{n}"
        trainer.callback_metrics[name] = torch.tensor(value, dtype=torch.float64)
        for logger in trainer.loggers:
            logger.log_metrics({name: value}, step=trainer.global_step)
