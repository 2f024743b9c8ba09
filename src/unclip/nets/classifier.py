"""A small residual network that names the class of an image; its pooled features are what Frechet distances are measured in.
Not a state of the art: group normalisation keeps it independent of the batch, so that one image always has one set of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, pre-activated (He et al. 2016, identity mappings), the second one starting at zero."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(in_channels, out_channels, 1, bias=False))
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        h = F.relu(self.norm2(self.conv1(h)))
        return self.shortcut(x) + self.conv2(h)


class Classifier(nn.Module):
    """A strided stem, then one stage of residual blocks a width (each after the first halves the resolution), a pooled feature vector
    and one linear layer.

    `widths[-1]` is the number of features; `num_classes` and `image_channels` come from the data.
    """

    def __init__(
        self,
        image_channels: Annotated[int, "image_channels >= 1"],
        num_classes: Annotated[int, "num_classes >= 2"],
        widths: Sequence[int] = (32, 64, 112),
        blocks: Annotated[int, "blocks >= 1"] = 1,
        groups: Annotated[int, "groups >= 1"] = 8,
        dropout: Annotated[float, "0 <= dropout < 1"] = 0.1,
    ) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.stem = nn.Conv2d(image_channels, widths[0], 4, 2, 1, bias=False)
        stages: list[nn.Module] = []
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            for j in range(blocks):
                first = j == 0
                stages.append(ResidualBlock(before if first else width, width, 2 if first and i else 1, groups))
        self.stages = nn.Sequential(*stages)
        self.norm = nn.GroupNorm(groups, widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)

    def features(self, images: Tensor) -> Tensor:
        """images (B,C,H,W) in [-1,1] -> pooled features (B,F), not negative."""
        h = self.stages(self.stem(images))  # (B,F,h,w)
        return F.relu(self.norm(h)).mean(dim=(2, 3))  # (B,F)

    def forward(self, images: Tensor) -> Tensor:
        """images (B,C,H,W) in [-1,1] -> logits (B, num_classes)."""
        return self.head(self.dropout(self.features(images)))
