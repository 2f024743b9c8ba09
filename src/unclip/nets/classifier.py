"""A small residual network that names the class of an image; its pooled features measure sets of images.
Not a state of the art: it is to be small enough to ship, and quick on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded


class ResidualBlock(nn.Module):
    """shortcut(x) + conv(relu(norm(conv(relu(norm(x)))))): pre-activation (He et al. 2016, arXiv:1603.05027).

    Batch normalisation: with group normalisation the same network learns half as fast. A judge is used in
    eval mode, where an image's features do not depend on the others in its batch; in training, each device
    normalises by its own part of the batch.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))  # (B,out,H,W)
        return self.shortcut(x) + self.conv2(F.relu(self.norm2(h)))


class Classifier(nn.Module):
    """A convolution, then a residual block a width, each at half the resolution of what came before, then the
    mean over positions (the features, `widths[-1]` of them) and one linear layer.

    `num_classes` and `image_channels` come from the data.
    """

    @bounded
    def __init__(
        self,
        image_channels: Annotated[int, "image_channels >= 1"],
        num_classes: Annotated[int, "num_classes >= 2"],
        widths: Sequence[int] = (32, 64, 128),
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ValueError(f"widths = {list(widths)}: must be the channels of one block or more")
        self.num_features = widths[-1]
        self.stem = nn.Conv2d(image_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(i, o) for i, o in pairwise((widths[0], *widths)))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)
        # up to twice as fast on a CPU; what it computes is the same
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The network that a saved state belongs to, in float32 whatever it was stored in."""
        stem, head = state["stem.weight"], state["head.weight"]
        blocks = sum(name.endswith(".conv2.weight") for name in state)
        net = cls(
            stem.shape[1], head.shape[0], [len(state[f"blocks.{i}.conv2.weight"]) for i in range(blocks)]
        )
        net.load_state_dict(
            {name: t.to(torch.float32) if t.is_floating_point() else t for name, t in state.items()}
        )
        return net

    def features(self, images: Tensor) -> Tensor:
        """images (B,C,H,W) in [-1,1] -> (B,F), not negative. Raises ValueError for too small ones."""
        if min(images.shape[-2:]) < 2 ** len(self.blocks):
            size = "x".join(map(str, images.shape[-2:]))
            raise ValueError(
                f"images of {size} pixels cannot be halved {len(self.blocks)} times: fewer widths"
            )
        h = self.stem(images)  # (B,W0,H,W)
        for block in self.blocks:
            h = block(F.max_pool2d(h, 2))  # halved by each
        return F.relu(self.norm(h)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """images (B,C,H,W) in [-1,1] -> logits (B, num_classes)."""
        return self.head(self.features(images))
