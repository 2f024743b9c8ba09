"""Training CLIP: batches of images and their captions through a contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image = self.net.encode_image(to_float(batch["image"]))  # (B,D)
        present, which = torch.unique(batch["caption"], return_inverse=True)
        text = self.net.encode_text(self.token_ids[present]).embedding[which]  # (B,D)
        loss = self.objective(
            self.all_ranks(image),
            self.all_ranks(text),
            self.all_ranks(batch["caption"]),
            self.net.logit_scale,
        )
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        image = self.net.encode_image(to_float(batch["image"]))
        caption, candidates = batch["caption"], torch.arange(len(self.token_ids), device=self.device)
        if len(candidates) > FEW:  # of many, those of the batch
            candidates, caption = torch.unique(caption, return_inverse=True)
        text = self.net.encode_text(self.token_ids[candidates]).embedding  # (candidates,D)
        loss = self.objective(image, text[caption], caption, self.net.logit_scale)
        nearest = (image @ text.T).argmax(1) == caption
        size = len(image)
        self.log("val/loss", loss, sync_dist=True, batch_size=size)
        self.log("val/caption_accuracy", nearest.float().mean(), sync_dist=True, batch_size=size)
