"""Our own training as a way of a benchmark: a stage of an experiment under Lightning's trainer, with the optimizer,
clipping, averaged weights and loader of a real run. Nothing is written, validated or logged."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from unclip import build
from unclip.bench.machine import wait
from unclip.bench.measure import Way
from unclip.config.compose import compose
from unclip.data.embeddings import Embeddings, text_features
from unclip.data.module import ImageTextData
from unclip.lit import policy
from unclip.lit.base import Stage
from unclip.nets.clip import CLIP
from unclip.randomness import key
from unclip.runs.job import trainer_of
from unclip.runs.store import Run
from unclip.runs.upstream import own

SETTLING = {"cpu": 1, "cuda": 10}  # steps of each round before the clock starts


class Training:
    """A stage made from overrides of `unclip train`, on top of an untrained CLIP: a step costs the same.

    The embeddings that it is trained on are drawn, unit vectors like the real ones, unless `embedded` makes others of
    CLIP, data and these. clip: another than the experiment's own.
    """

    def __init__(
        self,
        overrides: list[str],
        clip: CLIP | None = None,
        embedded: Callable[[CLIP, ImageTextData, Embeddings], Any] = lambda clip, source, drawn: drawn,
    ):
        composed = compose("train", overrides)
        self.config = composed.config
        self.source: ImageTextData = build.data(self.config)
        if self.config.get("autoencoder") or self.config.get("prior"):
            raise ValueError("autoencoder, prior: a benchmark measures the stage in itself; leave them out")
        self.source.split("train"), self.source.split("validation")
        self.clip = clip
        self.embeddings: Any = None
        if self.config.get("clip"):
            self.clip = clip or self._clip(composed.experiment, overrides)
            self.embeddings = embedded(self.clip, self.source, drawn(self.clip, self.source))

    def _clip(self, experiment: str, overrides: list[str]) -> CLIP:
        """The experiment's own, untrained."""
        upstream = compose("train", own(experiment, "clip", overrides)).config
        clip = build.net(upstream, self.source).eval().requires_grad_(False)
        assert isinstance(clip, CLIP)
        return clip

    @cached_property
    def module(self) -> Stage:
        net = build.net(self.config, self.source, self.clip)
        captions, ids = self.source.captions, self.source.split("train").caption_ids
        known = {"captions": captions, "caption_ids": ids, "latents": None, "embeddings": self.embeddings}
        return build.module(self.config, net, **known)

    @property
    def device(self) -> torch.device:
        on_gpu = torch.cuda.is_available() and self.config["trainer"]["accelerator"] != "cpu"
        return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the large matrix products of a step."""
        kind = str(self.config["trainer"]["precision"]).partition("-")[0]
        return {"bf16": torch.bfloat16, "16": torch.float16}.get(kind, torch.float32)

    @property
    def batch(self) -> int:
        return self.source.batch_size

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.net.parameters())

    def way(self, name: str = "unclip", note: str = "") -> Way:
        return Way(
            name,
            self.run,
            items=self.batch,
            settling=SETTLING[self.device.type],
            parameters=self.parameters,
            note=note,
            ready=self.compile,
        )

    def compile(self) -> None:
        policy.compile_parts(self.module, self.config["compile"], self.device)

    def run(self, steps: int) -> float:
        """Seconds of so many steps, with the loading of their batches and the averaging of weights."""
        clock = Clock(SETTLING[self.device.type], self.device)
        averaging = {"ema": (self.config.get("callbacks") or {}).get("ema")}
        bounds = {"max_steps": clock.settling + steps, "max_epochs": -1, "limit_val_batches": 0}
        config = {**self.config, "callbacks": averaging, "logger": None, "extractor": None}
        config["trainer"] = {**self.config["trainer"], **bounds}
        policy.multiply(self.config["matmul"])
        self.module.trainer = None  # the last one's moments and average are not to be held beside this one's
        gc.collect()
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(config, Run(Path(folder)), self.module, self.source)
            trainer.callbacks.append(clock)  # type: ignore[attr-defined]
            # Lightning's would move net and moments off a GPU after each round, out of what is held there
            trainer.strategy.teardown = lambda: None  # type: ignore[method-assign]
            trainer.fit(self.module, datamodule=self.source)
        return clock.seconds

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Training batches without end, on the device: for the others."""
        while True:
            for batch in self.source.train_dataloader():
                yield {name: x.to(self.device, non_blocking=True) for name, x in batch.items()}


class Clock(Callback):
    """Reads the time when `settling` steps are done and when all are; it comes after the other callbacks."""

    def __init__(self, settling: int, device: torch.device):
        self.settling, self.device = settling, device
        self.seconds = self.started = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step in (self.settling, trainer.max_steps):
            wait(self.device)
            now = time.perf_counter()
            self.seconds, self.started = now - self.started, now


def drawn(clip: CLIP, source: ImageTextData) -> Embeddings:
    """Unit vectors for images; captions as the CLIP reads them."""
    generator = torch.Generator().manual_seed(key(0, "bench"))
    image = {
        split: F.normalize(torch.randn(len(source.split(split)), clip.embedding_dim, generator=generator))
        for split in ("train", "validation")
    }
    text = text_features(clip, clip.tokenizer, source.captions)
    return Embeddings(image, text["text"], text["tokens"], text["token_mask"])
