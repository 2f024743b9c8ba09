"""Drawn shapes with captions: a data set that needs no files and no network, and that a tiny model learns in
seconds. For tests and for trying things out; nothing measured on it says anything about real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from unclip.data.image_text import ImageText, Split
from unclip.data.module import ImageTextData
from unclip.diffusion.bounds import bounded
from unclip.randomness import key

# the shapes of radius 1, as distances from their edge: negative inside; x to the right, y down
SHAPES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": lambda x, y: torch.hypot(x, y) - 1,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) - 0.85,
    "triangle": lambda x, y: torch.maximum(0.866 * x.abs() - 0.5 * y - 0.45, y - 0.8),
    "cross": lambda x, y: torch.maximum(
        torch.minimum(x.abs(), y.abs()) - 0.3, torch.maximum(x.abs(), y.abs()) - 1
    ),
}
KINDS = ("solid", "hollow")


class Synthetic(ImageTextData):
    """`size` training images, a quarter as many for validation and for testing, of 4 classes (shapes) and 8
    captions ("a hollow square"); position, size and brightness vary. The same arguments always give the same
    images, whatever the seed of the loader.
    """

    licence: str = "none needed: drawn on the spot"
    classes: ClassVar[tuple[str, ...]] = tuple(SHAPES)

    @bounded
    def __init__(
        self,
        size: Annotated[int, "size >= 32"] = 512,
        image_size: Annotated[int, "image_size >= 8"] = 32,
        channels: Annotated[int, "channels >= 1"] = 1,
        **loader: Any,
    ) -> None:
        super().__init__(image_size, **loader)
        self.size = size
        self.channels = channels

    def load(self, split: Split) -> ImageText:
        count = self.size if split == "train" else self.size // 4
        generator = torch.Generator().manual_seed(key(0, "synthetic", split))
        caption_ids = torch.arange(count) % (len(SHAPES) * len(KINDS))  # every caption equally often
        labels, hollow = caption_ids // len(KINDS), caption_ids % len(KINDS) == 1

        x, y, radius = torch.rand(3, count, 1, 1, generator=generator)  # (N,1,1) each
        radius = 0.35 + 0.25 * radius  # of half the image
        grid = (torch.arange(self.image_size) + 0.5) * 2 / self.image_size - 1
        across = (grid - 0.6 * (x - 0.5)) / radius  # (N,1,S)
        down = (rearrange(grid, "s -> s 1") - 0.6 * (y - 0.5)) / radius  # (N,S,1)
        edge = torch.empty(count, self.image_size, self.image_size)
        for label, distance in enumerate(SHAPES.values()):
            mine = labels == label
            edge[mine] = distance(across[mine], down[mine])
        edge[hollow] = torch.maximum(edge[hollow], -edge[hollow] - 0.2)  # what is left is a line of width 0.2
        covered = (0.5 - edge * radius * self.image_size / 2).clamp(
            0, 1
        )  # antialiased: the part of a pixel that is inside

        colour = 0.55 + 0.45 * torch.rand(count, self.channels, 1, 1, generator=generator)
        images = (255 * colour * rearrange(covered, "n h w -> n 1 h w")).round().to(torch.uint8)  # (N,C,S,S)
        return ImageText(
            images=images,
            caption_ids=caption_ids,
            captions=tuple(f"a {kind} {shape}" for shape in SHAPES for kind in KINDS),
            labels=labels,
            class_names=self.classes,
        )
