"""The patch discriminator, which tells pictures from reconstructions piece by piece, and its hinge losses.

It knows nothing of autoencoders.  B batch, C channels.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded


class PatchDiscriminator(nn.Module):
    """A verdict on each of many overlapping patches (Isola et al. 2017, appendix 6.1.2): `layers` strided convolutions,
    each twice as wide up to eight times `channels`, then two that keep the grid.

    A patch is 7, 16, 34 or 70 pixels wide with 0 to 3 layers. Norms are by picture, not by batch: neither the
    other pictures nor the number of devices changes a verdict.
    """

    @bounded
    def __init__(
        self,
        image_channels: int,
        channels: Annotated[int, "channels >= 8 and channels % 8 == 0"] = 64,
        layers: Annotated[int, "layers >= 0"] = 3,
    ):
        super().__init__()
        self.layers = layers
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        self.net = nn.Sequential()
        before = image_channels
        for i, width in enumerate(widths):
            stride = 2 if i < layers else 1
            self.net.append(nn.Conv2d(before, width, 4, stride, padding=1))
            if i > 0:
                self.net.append(nn.GroupNorm(8, width))
            self.net.append(nn.LeakyReLU(0.2))
            before = width
        self.net.append(nn.Conv2d(before, 1, 4, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B,C,Y,X) in [-1,1] -> (B,1,y,x), one number a patch: high for real. Raises ValueError for too small
        ones."""
        if min(x.shape[-2:]) < 3 * 2**self.layers:
            size = "x".join(map(str, x.shape[-2:]))
            raise ValueError(
                f"pictures of {size} pixels: a discriminator of layers = {self.layers} needs {3 * 2**self.layers} or "
                "more a side; fewer layers take less"
            )
        return self.net(x)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises (Lim & Ye 2017, eq. 13, halved): 0 once all verdicts on real patches are above 1
    and those on others below -1."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
