"""An upsampler's network: a U-Net that is told the time, a low-resolution picture and how much that was corrupted.

It neither corrupts nor samples; noise levels and losses are the caller's. B batch, C channels, Y X pixels, E
conditioning width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from unclip.diffusion.bounds import bounded
from unclip.nets.layers import TimeEmbedding
from unclip.nets.unet import UNet

STRENGTHS = 1000.0  # a strength of 1, on the scale of times


class UpsamplerNet(nn.Module):
    """Convolutions alone (Ramesh et al. 2022, section 2.1), so that it is trained on crops and runs at any size that is
    a multiple of `multiple`.

    Conditions: low (B,C,Y,X), the low-resolution picture enlarged to the size of x_t, beside which it enters as further
    channels (Saharia et al. 2021, section 2.4), and strength (B,), 0 ... 1, of its corruption, added to the time.
    factor: how much larger pictures become; image_size: how large. The last four: see UNet.
    """

    @bounded
    def __init__(
        self,
        image_size: int,
        image_channels: int,
        factor: Literal[2, 4] = 2,
        channels: Annotated[int, "channels >= 1"] = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: Annotated[int, "blocks >= 1"] = 2,
        groups: Annotated[int, "groups >= 1"] = 8,
        dropout: Annotated[float, "0 <= dropout < 1"] = 0.0,
        unshuffle: Annotated[int, "unshuffle >= 1"] = 1,
        cond_width: Annotated[int, "cond_width >= 2"] = 128,
        resampling: Literal["convolution", "residual"] = "convolution",
        rescale: bool = False,
        modulation: Literal["scale_shift", "add"] = "scale_shift",
    ):
        if factor not in (2, 4) or image_size % factor:
            raise ValueError(
                f"factor = {factor}: must be 2 or 4 and divide the size of the pictures, {image_size}"
            )
        super().__init__()
        self.image_size, self.image_channels, self.factor = image_size, image_channels, factor
        self.multiple = unshuffle * 2 ** (len(multipliers) - 1)
        self.time, self.strength = TimeEmbedding(cond_width), TimeEmbedding(cond_width)
        self.unet = UNet(
            image_size,
            2 * image_channels,
            cond_width,
            channels,
            multipliers,
            blocks,
            attention=(),
            middle_attention=False,
            groups=groups,
            dropout=dropout,
            unshuffle=unshuffle,
            out_channels=image_channels,
            resampling=resampling,
            rescale=rescale,
            modulation=modulation,
        )

    def forward(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x_t (B,C,Y,X), t (B,) -> (B,C,Y,X)."""
        vector = self.time(t) + self.strength(STRENGTHS * cond["strength"])  # (B,E)
        return self.unet(torch.cat([x_t, cond["low"].to(x_t.dtype)], dim=1), vector)
