"""Frozen CLIP embeddings of a data set, computed once for a CLIP and read from disk ever after: what prior
and decoder train on. Of the images as stored: augmentation would need the CLIP at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from unclip.data.cache import DamagedFile, load_tensors, save_tensors, say
from unclip.data.fingerprint import fingerprint, module_fingerprint
from unclip.data.image_text import Split
from unclip.data.images import to_float
from unclip.data.module import ImageTextData
from unclip.data.tokenizer import Tokenizer
from unclip.progress import Bar
from unclip.randomness import key

BATCH = 500  # images a forward pass
PER_CAPTION = 256  # different samples of a prior for one caption, at most


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
        tokenizer: Tokenizer,
        data: ImageTextData,
        folder: str | Path,
        splits: Sequence[Split] = ("train", "validation"),
    ) -> Embeddings:
        """From `folder` where it holds them for just this CLIP and these data, else computed and written
        there.

        A file's name is the hash of all that its content depends on: the CLIP's weights and settings, the
        images of the split, the captions and the tokenizer. A damaged file is named and replaced.
        """
        folder = Path(folder)
        weights = module_fingerprint(clip)
        image: dict[str, Tensor] = {}
        for split in splits:
            name = fingerprint("image embeddings", weights, data.split(split).fingerprint)
            images = data.split(split).images
            tensors = cached(
                folder / f"image-{name[:24]}.safetensors",
                f"CLIP embeddings of {len(images)} {split} images",
                partial(image_features, clip, images, f"embedding {split}"),
            )
            image[split] = tensors["image"]
        words = [tokenizer.length, *([tokenizer.saved] if tokenizer.saved else [])]
        name = fingerprint("text features", weights, data.captions, *words)
        text = cached(
            folder / f"text-{name[:24]}.safetensors",
            f"CLIP features of {len(data.captions)} captions",
            lambda: text_features(clip, tokenizer, data.captions),
        )
        return cls(image, text["text"], text["tokens"], text["token_mask"])

    def imagined(
        self,
        sample: Callable[[dict[str, Tensor], Tensor, int], Tensor],
        prior: str,
        data: ImageTextData,
        folder: str | Path,
    ) -> Embeddings:
        """The same with a prior's samples for the captions in the place of the images' own embeddings, from
        `folder` where it holds them.

        sample: text features (B, ...), numbers (B,), seed -> (B,D) on any device. prior: a fingerprint of all
        that decides what it gives. The images of a caption share PER_CAPTION samples, in turns.
        """
        image: dict[str, Tensor] = {}
        for split in cast("list[Split]", list(self.image)):
            captions = data.split(split).caption_ids
            turn = _occurrence(captions) % PER_CAPTION  # (N,)
            pairs, which = torch.unique(captions * PER_CAPTION + turn, return_inverse=True)
            name = fingerprint("prior samples", prior, split, self.text, captions, PER_CAPTION)
            compute = partial(self._samples, sample, pairs // PER_CAPTION, key(0, "prior samples", split))
            tensors = cached(
                Path(folder) / f"prior-{name[:24]}.safetensors",
                f"the prior's samples for {len(captions)} {split} captions",
                compute,
            )
            image[split] = tensors["image"][which]
        return replace(self, image=image)

    def _samples(
        self,
        sample: Callable[[dict[str, Tensor], Tensor, int], Tensor],
        captions: Tensor,
        seed: int,
    ) -> dict[str, Tensor]:
        done = []
        with Bar("sampling the prior", len(captions)) as bar:
            for numbers in torch.arange(len(captions)).split(BATCH):
                done.append(sample(self.captions(captions[numbers]), numbers, seed).float().cpu())
                bar.update(sum(map(len, done)))
        return {"image": torch.cat(done)}


def _occurrence(ids: Tensor) -> Tensor:
    """(N,) of (N,): how many of the same id stand before each."""
    order = ids.argsort(stable=True)
    counts = ids.bincount()
    first = counts.cumsum(0) - counts  # where each id's run begins in that order
    found = torch.empty_like(ids)
    found[order] = torch.arange(len(ids)) - first[ids[order]]
    return found


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

    return {"image": torch.cat(frozen(clip, encode))}


def text_features(clip: Any, tokenizer: Tokenizer, captions: Sequence[str]) -> dict[str, Tensor]:
    """-> text (n,D) float32, tokens (n,L,W) float32, token_mask (n,L) bool, on the CPU, by the CLIP in eval
    mode on its own device."""
    device = next(clip.parameters()).device
    done: list[tuple[Tensor, Tensor, Tensor]] = []
    for ids in tokenizer.encode_short(captions).split(BATCH):
        features = frozen(clip, partial(clip.encode_text, ids.to(device)))
        done.append((features.embedding.float().cpu(), features.tokens.float().cpu(), features.mask.cpu()))
    names = ("text", "tokens", "token_mask")
    return {name: torch.cat(parts) for name, parts in zip(names, zip(*done, strict=True), strict=True)}


def frozen(module: nn.Module, compute: Callable[[], Any]) -> Any:
    """Without gradients, dropout or reduced precision; the module's mode is put back."""
    training = module.training
    device = next(module.parameters()).device.type
    try:
        module.eval()
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return compute()
    finally:
        module.train(training)


def cached(path: Path, what: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of a file, else computed and written there, which a line says; a damaged file is named and replaced."""
    try:
        return load_tensors(path)[0]
    except FileNotFoundError:
        say(f"{what}: computing")
    except DamagedFile as error:
        say(f"{what}: computing again, {error}")
    tensors = compute()
    save_tensors(path, tensors, {"what": what})
    return tensors
