"""`ImageText`: one split of a data set of captioned images, in memory. Not a torch `Dataset`: batches are
made by the loader."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from unclip.data.fingerprint import fingerprint

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class ImageText:
    """Captions are few and shared by many images, so an image names its own by number."""

    images: Tensor  # uint8 (N,C,H,W)
    caption_ids: Tensor  # int64 (N,) index into captions
    captions: tuple[str, ...]  # the distinct captions of the data set, the same for all splits
    labels: Tensor  # int64 (N,) index into class_names
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the whole content; of images that are not in memory, of what stands for them."""
        images = getattr(self.images, "fingerprint", self.images)
        return fingerprint(images, self.caption_ids, self.captions, self.labels, self.class_names)

    @property
    def own_captions(self) -> list[str]:
        """Each image's caption."""
        return [self.captions[i] for i in self.caption_ids.tolist()]

    def to(self, device: torch.device) -> ImageText:
        """The same on another device."""
        images, ids, labels = (x.to(device) for x in (self.images, self.caption_ids, self.labels))
        return replace(self, images=images, caption_ids=ids, labels=labels)

    def head(self, count: int) -> ImageText:
        """The first `count` samples, as a split of its own."""
        first = slice(count)
        return ImageText(
            self.images[first], self.caption_ids[first], self.captions, self.labels[first], self.class_names
        )
