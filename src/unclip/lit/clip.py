"""Training CLIP: batches of images and their captions through a contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unclip.data.images import to_float
from unclip.data.module import FEW
from unclip.data.tokenizer import Tokenizer
from unclip.lit.base import Batch, Optim, Stage
from unclip.nets.clip import CLIP

Contrast = Callable[
    [Tensor, Tensor, Tensor, Tensor], Tensor
]  # image (B,D), text (B,D), caption (B,), scale -> ()


class ClipModule(Stage):
    """A caption is encoded once a batch, however many images share it; on several ranks the loss sees the
    global batch. val/caption_accuracy: of all captions, or of those of the batch where they are many."""

    net: CLIP
    token_ids: Tensor

    def __init__(
        self,
        net: CLIP,
        objective: Contrast,
        optim: Optim,
        tokenizer: Tokenizer,
        captions: Sequence[str],
        seed: int = 0,
    ):
        super().__init__(net, optim, seed)
        self.objective = objective
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ids = tokenizer.encode_short(list(captions))  # (captions,L)
        self.register_buffer("token_ids", ids, persistent=False)
        self._seen: list[
            tuple[Tensor, Tensor, Tensor]
        ] = []  # index, caption, image embedding: for validation

    @property
    def compiled(self) -> list[nn.Module]:
        """The towers: CLIP itself is never called."""
        return [self.net.image, self.net.text]

    @property
    def varying(self) -> list[nn.Module]:
        """A batch has more or fewer distinct captions."""
        return [self.net.text]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.net.limit_logit_scale()
        image = self.net.encode_image(to_float(batch["image"]))  # (B,D)
        present, which = torch.unique(batch["caption"], return_inverse=True)
        text = self.net.encode_text(self.token_ids[present]).embedding[which]  # (B,D)
        loss = self.objective(
            self.all_ranks(image),
            self.all_ranks(text),
            self.all_ranks(batch["caption"]),
            self.net.logit_scale,
        )
        self.log_loss(loss, batch_idx)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """What each batch of the stored order is worth, by itself; on several ranks once all its parts are there."""
        image = self.net.encode_image(to_float(batch["image"]))
        if self.trainer.world_size > 1:
            self._seen.append((batch["index"], batch["caption"], image))
            return
        for name, value in self._judged(image, batch["caption"]).items():
            self.log(name, value, batch_size=len(image))

    def on_validation_epoch_end(self) -> None:
        if self.trainer.world_size == 1:
            return
        loader: Any = self.trainer.val_dataloaders
        images = torch.zeros(len(loader.data), self.net.embedding_dim, device=self.device)
        captions = torch.zeros(len(loader.data), dtype=torch.int64, device=self.device)  # 0: of another rank
        for index, caption, image in self._seen:
            images[index], captions[index] = image.to(images.dtype), caption + 1
        self._seen.clear()
        images, captions = (self.summed(x) for x in (images, captions))
        parts = captions.nonzero().squeeze(1).split(loader.batch_size)
        judged = [self._judged(images[part], captions[part] - 1) for part in parts]
        sizes = torch.tensor([len(part) for part in parts], device=self.device)
        for name in judged[0] if judged else ():
            values = torch.stack([found[name] for found in judged])
            self.log(name, (sizes * values).sum() / sizes.sum())

    def _judged(self, image: Tensor, caption: Tensor) -> dict[str, Tensor]:
        """Metrics of a batch of image embeddings (B,D) and their captions (B,)."""
        candidates = torch.arange(len(self.token_ids), device=self.device)
        if len(candidates) > FEW:  # of many, those of the batch
            candidates, caption = torch.unique(caption, return_inverse=True)
        text = self.net.encode_text(self.token_ids[candidates]).embedding  # (candidates,D)
        loss = self.objective(image, text[caption], caption, self.net.logit_scale)
        right = (image @ text.T).argmax(1) == caption
        return {"val/loss": loss, "val/caption_accuracy": right.float().mean()}
