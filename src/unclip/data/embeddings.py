"""Frozen CLIP embeddings of a data set, computed once for a CLIP and read from disk ever after: what prior
and decoder train on. Of the images as stored: augmentation would need the CLIP at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unclip.data.cache import DamagedFile, load_tensors, save_tensors, say
from unclip.data.fingerprint import fingerprint, module_fingerprint
from unclip.data.image_text import Split
from unclip.data.images import to_float
from unclip.data.module import ImageTextData
from unclip.data.tokenizer import ByteTokenizer
from unclip.progress import Bar

BATCH = 500  # images a forward pass


@dataclass(frozen=True)
class Embeddings:
    """On the CPU as loaded. An image's caption is `text[caption_ids]`, `tokens[caption_ids]`: captions are
    embedded once each."""

    image: dict[str, Tensor]  # split -> (N,D) float32, unit norm
    text: Tensor  # (captions, D) float32, unit norm
    tokens: Tensor  # (captions, L, W) float32, L the longest caption's length
    token_mask: Tensor  # (captions, L) bool

    def to(self, device: torch.device | str) -> Embeddings:
        """The same on another device."""
        image = {split: x.to(device) for split, x in self.image.items()}
        return Embeddings(image, self.text.to(device), self.tokens.to(device), self.token_mask.to(device))

    def captions(self, ids: Tensor) -> dict[str, Tensor]:
        """Text features of captions (B,) by number: text (B,D), tokens (B,L,W), token_mask (B,L)."""
        return {"text": self.text[ids], "tokens": self.tokens[ids], "token_mask": self.token_mask[ids]}

    @classmethod
    def load(
        cls,
        clip: nn.Module,
        tokenizer: ByteTokenizer,
        data: ImageTextData,
        folder: str | Path,
        splits: Sequence[Split] = ("train", "validation"),
    ) -> Embeddings:
        """From `folder` where it holds them for just this CLIP and these data, else computed and written
        there.

        A file's name is the hash of all that its content depends on: the CLIP's weights and settings, the
        images of the split, the captions and the tokenizer's length. A damaged file is named and replaced.
        """
        folder = Path(folder)
        weights = module_fingerprint(clip)
        image: dict[str, Tensor] = {}
        for split in splits:
            name = fingerprint("image embeddings", weights, data.split(split).fingerprint)
            images = data.split(split).images
            tensors = _cached(
                folder / f"image-{name[:24]}.safetensors",
                f"CLIP embeddings of {len(images)} {split} images",
                partial(image_features, clip, images, f"embedding {split}"),
            )
            image[split] = tensors["image"]
        name = fingerprint("text features", weights, data.captions, tokenizer.length)
        text = _cached(
            folder / f"text-{name[:24]}.safetensors",
            f"CLIP features of {len(data.captions)} captions",
            lambda: text_features(clip, tokenizer, data.captions),
        )
        return cls(image, text["text"], text["tokens"], text["token_mask"])


def image_features(clip: Any, images: Tensor, label: str | None = None) -> dict[str, Tensor]:
    """uint8 (N,C,H,W) -> image (N,D) float32 on the CPU, by the CLIP in eval mode on its own device.

    label: that of a progress bar, for those who wait.
    """
    device = next(clip.parameters()).device

    def encode() -> list[Tensor]:
        done: list[Tensor] = []
        with Bar(label, len(images)) if label else nullcontext() as bar:
            for part in images.split(BATCH):
                done.append(clip.encode_image(to_float(part.to(device))).float().cpu())
                if bar:
                    bar.update(sum(map(len, done)))
        return done

    return {"image": torch.cat(_frozen(clip, encode))}


def text_features(clip: Any, tokenizer: ByteTokenizer, captions: Sequence[str]) -> dict[str, Tensor]:
    """-> text (n,D) float32, tokens (n,L,W) float32, token_mask (n,L) bool, on the CPU, by the CLIP in eval
    mode on its own device."""
    ids = tokenizer.encode_short(captions).to(next(clip.parameters()).device)
    features = _frozen(clip, lambda: clip.encode_text(ids))
    return {
        "text": features.embedding.float().cpu(),
        "tokens": features.tokens.float().cpu(),
        "token_mask": features.mask.cpu(),
    }


def _frozen(module: nn.Module, compute: Callable[[], Any]) -> Any:
    """Without gradients, dropout or reduced precision; the module's mode is put back."""
    training = module.training
    device = next(module.parameters()).device.type
    try:
        module.eval()
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return compute()
    finally:
        module.train(training)


def _cached(path: Path, what: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        return load_tensors(path)[0]
    except FileNotFoundError:
        say(f"{what}: computing")
    except DamagedFile as error:
        say(f"{what}: computing again, {error}")
    tensors = compute()
    save_tensors(path, tensors, {"what": what})
    return tensors
