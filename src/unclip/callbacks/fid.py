"""Frechet distance and friends while the decoder trains: averaged weights, keyed noise, N in each metric's name.

The extractor lives here, not in the module: it is in no checkpoint and in no precision but its own.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from unclip.callbacks.ema import averaged
from unclip.callbacks.samples import decoded
from unclip.data.module import ImageTextData
from unclip.diffusion.bounds import bounded
from unclip.evaluate.consistency import prompt_consistency
from unclip.evaluate.distances import frechet_distance, kid, moments
from unclip.evaluate.extractors import NOT_INDEPENDENT, Extractor
from unclip.evaluate.statistics import RealImages, moments_of, real_features
from unclip.lit.decoder import DecoderModule

CHUNK = 50  # samples drawn at once, whoever draws them: so the number of ranks changes no rounding
KID_SUBSETS = 20


class FID(Callback):
    """N samples from validation embeddings against all validation images, every n steps, and at the end on `n_final`
    samples (0: not at all): val/fd_n<N>, val/kid_n<N> if asked for, and val/consistency_n<N>, the part that a
    classifier as extractor takes for the class it should be.

    budget: the part of the training time that measuring may take. The first measurement tells what one costs; a later
    one that is due is left out where it would exceed the budget, so slow samplers are measured less often. None:
    always, at just the chosen steps. The one at the end is never left out.
    """

    @bounded
    def __init__(
        self,
        every_n_steps: Annotated[int, "every_n_steps >= 1"] = 500,
        n: Annotated[int, "n >= 2"] = 200,
        n_final: Annotated[int, "n_final >= 0"] = 500,
        kid: bool = False,
        consistency: bool = True,
        budget: Annotated[float | None, "budget > 0"] = 0.1,
        extractor: Extractor | None = None,
        source: ImageTextData | None = None,
        cache: str = "outputs/cache",
    ):
        self.every_n_steps, self.n, self.n_final = every_n_steps, n, n_final
        self.kid, self.consistency, self.budget = kid, consistency, budget
        self.extractor, self.source, self.cache = extractor, source, Path(cache)
        self.measured_at = 0
        self.started = monotonic()
        self.spent = 0.0  # seconds, of all measurements so far
        self.cost: float | None = None  # seconds, of the last one

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tries the extractor on two images: what it cannot judge is said now, not after hours."""
        extractor, source, module = self._parts(pl_module)
        features = extractor.to(module.device).features(source.split("validation").images[:2]).float()
        told = module.embeddings.image["validation"][:2].cpu() if module.embeddings else None
        if told is not None and told.shape == features.shape and torch.allclose(features, told, 1e-2, 1e-3):
            raise ValueError(NOT_INDEPENDENT)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.spent = monotonic(), 0.0
        self.measured_at = trainer.global_step  # a resumed run has been measured here before its checkpoint

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        due = trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self.measured_at
        if due and trainer.global_step < trainer.estimated_stepping_batches:
            self.measured_at = trainer.global_step
            if trainer.strategy.broadcast(self._affordable()):  # by the first rank's clock
                self._report(trainer, self.measure(trainer, pl_module, self.n))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.n_final:
            self._report(trainer, self.measure(trainer, pl_module, self.n_final))

    def measure(self, trainer: Trainer, pl_module: LightningModule, n: int) -> dict[str, float]:
        """The metrics of n samples by name, drawn and embedded in chunks by the ranks, the same on any number of
        them. Real images are embedded, cached and compared with by the first rank alone."""
        extractor, source, module = self._parts(pl_module)
        extractor.to(module.device)
        started = monotonic()
        if trainer.is_global_zero:
            self._real_moments(extractor, source)
        trainer.strategy.barrier()
        ready = monotonic()
        count = min(n, len(source.split("validation")))
        features, logits = self._samples(trainer, module, count)
        found: dict[str, float] = {}
        if trainer.is_global_zero:
            found = self._compared(extractor, source, features, logits)
        found = trainer.strategy.broadcast(found)
        self.cost = monotonic() - ready
        self.spent += monotonic() - started
        return found

    def _parts(self, pl_module: LightningModule) -> tuple[Extractor, ImageTextData, DecoderModule]:
        assert isinstance(pl_module, DecoderModule)
        assert self.extractor is not None
        assert self.source is not None
        return self.extractor, self.source, pl_module

    def _affordable(self) -> bool:
        if self.budget is None or self.cost is None:
            return True
        training = monotonic() - self.started - self.spent
        return self.spent + self.cost <= self.budget * training

    def _real_moments(self, extractor: Extractor, source: ImageTextData) -> tuple[Tensor, Tensor]:
        return moments_of(extractor, RealImages.of_split(source, "validation"), self.cache)

    def _samples(self, trainer: Trainer, module: DecoderModule, count: int) -> tuple[Tensor, Tensor | None]:
        """Features (count,F) of samples, and logits (count,classes) of a classifier, on every rank."""
        extractor, source, _ = self._parts(module)
        classifier: Any = extractor if self.consistency and hasattr(extractor, "logits") else None
        chunks = torch.arange(count).split(CHUNK)
        rows: Tensor | None = None
        width = extractor.num_features
        with averaged(trainer, module):
            for chunk in chunks[trainer.global_rank :: trainer.world_size]:
                images = decoded(module, source, chunk.tolist())
                parts = [extractor.features(images)] + ([classifier.logits(images)] if classifier else [])
                found = torch.cat(parts, dim=1)
                rows = found.new_zeros(count, found.shape[1]) if rows is None else rows
                rows[chunk] = found
        if trainer.world_size > 1:
            rows = self._together(trainer, rows, count)
        assert rows is not None
        return rows[:, :width], rows[:, width:] if classifier else None

    def _together(self, trainer: Trainer, rows: Tensor | None, count: int) -> Tensor:
        """All ranks' rows (count, F [+ classes]): each has its own, zeros elsewhere, so that their sum is exact."""
        columns = trainer.strategy.broadcast(
            0 if rows is None else rows.shape[1]
        )  # the first rank has a chunk
        if rows is None:
            rows = torch.zeros(count, columns, dtype=torch.float64)
        total = trainer.strategy.reduce(rows.to(trainer.strategy.root_device), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.cpu()

    def _compared(
        self, extractor: Extractor, source: ImageTextData, features: Tensor, logits: Tensor | None
    ) -> dict[str, float]:
        count, split = len(features), source.split("validation")
        distance = frechet_distance(*moments(features), *self._real_moments(extractor, source))
        found = {f"val/fd_n{count}": float(distance)}
        if self.kid:
            real = real_features(extractor, source, "validation", self.cache)
            size = min(count, len(real), 1000)
            found[f"val/kid_n{count}"] = kid(features, real, subsets=KID_SUBSETS, subset_size=size).value
        if logits is not None and logits.shape[1] == len(source.class_names):
            asked = split.labels[:count], split.caption_ids[:count], split.captions
            found[f"val/consistency_n{count}"] = prompt_consistency(logits, *asked).overall
        return found

    def _report(self, trainer: Trainer, found: dict[str, float]) -> None:
        for name, value in found.items():
            trainer.callback_metrics[name] = torch.tensor(value, dtype=torch.float64)
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)
