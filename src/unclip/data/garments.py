"""Garments: one or two pieces of Fashion-MNIST on a black canvas, coloured, scaled and placed, with captions such as
"a red sneaker to the left of a blue bag". Made when loaded from the files of fashion_mnist.py; nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.data.attribute_world import AttributeWorld, Part
from unclip.data.fashion_mnist import FashionMNIST
from unclip.diffusion.bounds import bounded

FOREGROUND = 0.15  # of white: what is darker is taken for the background when a garment is cut out
LIFT = 0.6  # exponent of brightness: dark clothes would hide their colour on black
FINER = 4  # samples a pixel and axis when a garment is made smaller


class Garments(AttributeWorld):
    """Four classes that hardly anybody confuses: of all ten, shirts and coats would be judged right half of the time.

    Training garments are Fashion-MNIST's training images, validation its validation images, testing and held-out
    combinations its test images: no garment is in two parts. folder: where its files are kept.
    """

    licence = "MIT (Fashion-MNIST)"
    kinds: ClassVar[Mapping[str, str]] = {"trousers": "", "pullover": "a ", "sneaker": "a ", "bag": "a "}
    exemplars: ClassVar[int] = 1800

    @bounded
    def __init__(self, folder: str, **world: Any) -> None:
        super().__init__(**world)
        self.fashion_mnist = FashionMNIST(folder, image_size=28)
        self._pools: dict[str, list[Tensor]] = {}

    def prepare_data(self) -> None:
        """Fetch and verify what is missing. Raises DataUnavailable."""
        self.fashion_mnist.prepare_data()

    def tiles(self, part: Part, kind: Tensor, pixels: int, own: Tensor) -> Tensor:
        garments = torch.zeros(len(kind), 28, 28)
        for number, pool in enumerate(self._pool(part)):
            mine = kind == number
            garments[mine] = pool[(own[mine, 0] * len(pool)).long()].float() / 255
        return cut_out(garments, pixels)

    def _pool(self, part: Part) -> list[Tensor]:
        """The garments of a part, uint8 (n,28,28) of each kind."""
        split = "test" if part == "held_out" else part
        if split not in self._pools:
            source = self.fashion_mnist.split(split)
            names = list(source.class_names)
            self._pools[split] = [source.images[source.labels == names.index(k), 0] for k in self.kinds]
        return self._pools[split]


def cut_out(garments: Tensor, pixels: int) -> Tensor:
    """(n,28,28) in [0,1] -> (n,pixels,pixels): each garment's bounding box in the middle, its longer side filling the
    tile; the brightest pixel is 1."""
    ends = []  # of the bounding box: first and last column, first and last row, (n,) each
    for axis in (1, 2):
        there = (garments > FOREGROUND).any(axis).float()  # (n,28)
        ends += [there.argmax(1).float(), 27 - there.flip(1).argmax(1).float()]
    left, right, top, bottom = ends
    side = torch.maximum(right - left, bottom - top) + 1  # (n,)
    fine = (torch.arange(pixels * FINER) + 0.5) / (pixels * FINER) - 0.5

    def source(low: Tensor, high: Tensor) -> Tensor:
        """(n,P) where to look, on the scale of grid_sample: -1 and 1 are the image's ends."""
        return (rearrange((low + high + 1) / 2, "n -> n 1") + rearrange(side, "n -> n 1") * fine) / 14 - 1

    across, down = source(left, right), source(top, bottom)
    size = pixels * FINER
    grid = torch.stack(
        [across[:, None, :].expand(-1, size, -1), down[:, :, None].expand(-1, -1, size)], dim=-1
    )  # (n,P,P,2)
    sampled = F.grid_sample(rearrange(garments, "n h w -> n 1 h w"), grid, align_corners=False)
    tiles = F.avg_pool2d(sampled, FINER)[:, 0]
    return (tiles / tiles.amax((1, 2), keepdim=True).clamp(min=1e-6)) ** LIFT
