"""The flowers U-Net: unconditional images at 64x64, as a small public model of Oxford Flowers-102 had it.
A net that a decoder stage trains without any CLIP below it; the project's own U-Net, with conditions, is in unet.py.

B batch, C channels, Y X pixels, E width of the time embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.nets.layers import time_features
from unclip.nets.unet import Upsample

GROUPS = 8
HEADS, HEAD_WIDTH = 4, 32


class FlowersUNet(nn.Module):
    """Three grids, each half the last one, and a bottleneck on the third: with widths (128,256,512,1024) 133.42M
    parameters. A grid has two residual blocks on each way; the way down halves it by folding 2x2 pixels into channels,
    the way up doubles it by repeating them. Attention in the last level down (the coarsest grid), the last up (the
    finest) and the bottleneck. The input's features join once more at the end.
    """

    conditioning = "none"
    uses_caption = uses_embedding = learned_variance = False

    @bounded
    def __init__(
        self,
        image_size: Annotated[int, "image_size % 4 == 0"],
        image_channels: int,
        widths: Sequence[int] = (128, 256, 512, 1024),
    ):
        super().__init__()
        if len(widths) != 4 or any(w < GROUPS or w % GROUPS for w in widths):
            raise ValueError(f"widths = {list(widths)}: must be four multiples of {GROUPS}")
        self.image_size, self.image_channels = image_size, image_channels
        a, b, c, d = widths
        self.first_width, time = a, 4 * a
        self.time = nn.Sequential(nn.Linear(a, time), nn.SiLU(), nn.Linear(time, time))
        self.first = nn.Conv2d(image_channels, a, 3, padding=1)
        self.down = nn.ModuleList(
            [
                FlowersLevel(a, a, time, False, Fold(a, b)),
                FlowersLevel(b, b, time, False, Fold(b, c)),
                FlowersLevel(c, c, time, True, nn.Conv2d(c, d, 3, padding=1)),
            ]
        )
        self.middle = nn.ModuleList([FlowersBlock(d, d, time), FlowersAttention(d), FlowersBlock(d, d, time)])
        self.up = nn.ModuleList(
            [
                FlowersLevel(d + c, d, time, False, Upsample(d, c)),
                FlowersLevel(c + b, c, time, False, Upsample(c, b)),
                FlowersLevel(b + a, b, time, True, nn.Conv2d(b, a, 3, padding=1)),
            ]
        )
        self.last = FlowersBlock(2 * a, a, time)
        self.to_pixels = nn.Conv2d(a, image_channels, 1)

    def forward(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        """x_t (B,C,Y,X), t (B,) -> (B,C,Y,X)."""
        features = time_features(t, self.first_width)
        time = self.time(features.to(self.first.weight.dtype))  # (B,E)
        first = h = self.first(x_t)  # (B,C,Y,X)
        stored: list[Tensor] = []
        for level in self.down:
            h = level(h, time, stored, store=True)
        into, attention, out = self.middle
        h = out(attention(into(h, time)), time)
        for level in self.up:
            h = level(h, time, stored, store=False)
        return self.to_pixels(self.last(torch.cat([h, first], dim=1), time))


class FlowersLevel(nn.Module):
    """Two residual blocks, attention, then the way to the next level. On the way down both blocks' outputs are stored;
    on the way up they join the blocks' inputs, last one first."""

    def __init__(self, c_in: int, c: int, time: int, attend: bool, onward: nn.Module):
        super().__init__()
        self.blocks = nn.ModuleList([FlowersBlock(c_in, c, time), FlowersBlock(c_in, c, time)])
        self.attention = FlowersAttention(c) if attend else nn.Identity()
        self.onward = onward

    def forward(self, h: Tensor, time: Tensor, stored: list[Tensor], store: bool) -> Tensor:
        for i, block in enumerate(self.blocks):
            h = block(h if store else torch.cat([h, stored.pop()], dim=1), time)
            h = self.attention(h) if i == 1 else h
            if store:
                stored.append(h)
        return self.onward(h)


class FlowersBlock(nn.Module):
    """Convolution, norm, SiLU, twice, the time added in between, the input added at the end."""

    def __init__(self, c_in: int, c: int, time: int):
        super().__init__()
        self.into, self.out = nn.Conv2d(c_in, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.norm_into, self.norm_out = nn.GroupNorm(GROUPS, c), nn.GroupNorm(GROUPS, c)
        self.time = nn.Linear(time, c)
        self.skip = nn.Conv2d(c_in, c, 1) if c_in != c else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = F.silu(self.norm_into(self.into(x))) + rearrange(self.time(F.silu(time)), "b c -> b c 1 1")
        return self.skip(x) + F.silu(self.norm_out(self.out(h)))  # (B,C,Y,X)


class FlowersAttention(nn.Module):
    """Four heads of width 32 over all pixels, whatever the channels; each pixel's channels are normalised first."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, bias=False)
        self.query_key_value = nn.Linear(channels, 3 * HEADS * HEAD_WIDTH, bias=False)
        self.out = nn.Linear(HEADS * HEAD_WIDTH, channels)

    def forward(self, h: Tensor) -> Tensor:
        pixels = self.query_key_value(self.norm(rearrange(h, "b c y x -> b (y x) c")))
        query, key, value = rearrange(pixels, "b n (three h w) -> three b h n w", three=3, h=HEADS)
        mixed = F.scaled_dot_product_attention(query, key, value)  # (B,H,N,W)
        mixed = self.out(rearrange(mixed, "b h n w -> b n (h w)"))
        return h + rearrange(mixed, "b (y x) c -> b c y x", y=h.shape[2])


class Fold(nn.Module):
    """Half the resolution: 2x2 pixels side by side in the channels, then mixed."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.mix = nn.Conv2d(4 * c_in, c_out, 1)

    def forward(self, h: Tensor) -> Tensor:
        return self.mix(F.pixel_unshuffle(h, 2))
