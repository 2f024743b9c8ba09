"""The U-Net: images in, images out, steered by one vector and a few tokens per sample.

It does not know what the vector and the tokens mean (decoder.py does), nor anything of noise levels.
B batch, C channels, Y X pixels, E conditioning width, M condition tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.nets.cpu import Dropout, GroupNorm, aligned, arranged
from unclip.nets.layers import Attention, require_heads, zeroed


class UNet(nn.Module):
    """Residual blocks on ever coarser grids and back, each block's output passed across (Ho et al. 2020).

    A level has `blocks` residual blocks on each way and then, if its number is in `attention` (0 = finest),
    attention once; a convolution takes it to the next level's grid and width.  `unshuffle` folds squares of
    pixels into channels first, so that the whole net works at 1/unshuffle of the resolution.  `out_channels`:
    None for as many as the image has.

    The switches of ADM (Dhariwal & Nichol 2021, section 3 and table 1): head_channels, a head's width instead of
    their number; resampling `residual`, BigGAN's blocks between levels; rescale, blocks by 1/sqrt(2); modulation
    `add`, the condition added instead of scaling and shifting (their table 3).
    """

    @bounded
    def __init__(
        self,
        image_size: int,
        image_channels: int,
        cond_width: Annotated[int, "cond_width >= 1"] = 128,
        channels: Annotated[int, "channels >= 1"] = 32,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        blocks: Annotated[int, "blocks >= 1"] = 2,
        attention: Sequence[int] = (1, 2),
        middle_attention: bool = True,
        heads: Annotated[int, "heads >= 1"] = 8,
        groups: Annotated[int, "groups >= 1"] = 8,
        dropout: Annotated[float, "0 <= dropout < 1"] = 0.1,
        unshuffle: Annotated[int, "unshuffle >= 1"] = 1,
        out_channels: Annotated[int | None, "out_channels >= 1"] = None,
        head_channels: Annotated[int | None, "head_channels >= 1"] = None,
        resampling: Literal["convolution", "residual"] = "convolution",
        rescale: bool = False,
        modulation: Literal["scale_shift", "add"] = "scale_shift",
    ):
        super().__init__()
        widths = [channels * m for m in multipliers]
        check_shape(image_size, unshuffle, widths, attention, middle_attention, heads, groups, head_channels)
        block = partial(
            ResidualBlock,
            cond_width=cond_width,
            groups=groups,
            dropout=dropout,
            modulation=modulation,
            rescale=rescale,
        )
        down, up = (
            (Downsample, Upsample)
            if resampling == "convolution"
            else (partial(block, resample="down"), partial(block, resample="up"))
        )

        def level(c_in: int, c: int, n: int, attend: bool, resample: nn.Module | None = None) -> Level:
            residual = [block(c_in, c) for _ in range(n)]
            number = heads if head_channels is None else c // head_channels
            return Level(
                residual, ImageAttention(c, number, cond_width, groups) if attend else None, resample
            )

        folded = image_channels * unshuffle**2
        self.unshuffle = unshuffle
        self.first = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, w in enumerate(widths):
            coarser = down(w, widths[i + 1]) if i + 1 < len(widths) else None
            self.down.append(level(w, w, blocks, i in attention, coarser))
        self.middle = nn.ModuleList([level(w, w, 1, middle_attention), level(w, w, 1, False)])
        for i, w in reversed(list(enumerate(widths))):
            finer = up(w, widths[i - 1]) if i > 0 else None
            self.up.append(level(2 * w, w, blocks, i in attention, finer))
        out = (out_channels or image_channels) * unshuffle**2
        to_pixels = zeroed(nn.Conv2d(widths[0], out, 3, padding=1))
        self.last = nn.Sequential(GroupNorm(groups, widths[0]), nn.SiLU(), to_pixels)

    def forward(
        self, x: Tensor, vector: Tensor, tokens: Tensor | None = None, token_mask: Tensor | None = None
    ) -> Tensor:
        """x (B,C,Y,X), vector (B,E), tokens (B,M,E), token_mask (B,M) True where one may look ->
        (B,out_channels,Y,X)."""
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)
        h = self.first(arranged(x))
        if tokens is not None:
            tokens, token_mask = aligned(tokens, token_mask)
        condition = F.silu(vector), tokens, token_mask
        stored: list[Tensor] = []
        for level in self.down:
            h = level(h, *condition, store=stored)
        for level in self.middle:
            h = level(h, *condition)
        for level in self.up:
            h = level(h, *condition, fetch=stored)
        y = self.last(h)
        return F.pixel_shuffle(y, self.unshuffle) if self.unshuffle > 1 else y


class Level(nn.Module):
    """Residual blocks, then attention, then a change of resolution; the latter two are optional.

    On the way down each block's output is appended to `store`; on the way up the last one left in `fetch`
    joins each block's input.
    """

    def __init__(self, blocks: Sequence[nn.Module], attention: nn.Module | None, resample: nn.Module | None):
        super().__init__()
        self.blocks, self.attention, self.resample = nn.ModuleList(blocks), attention, resample

    def forward(
        self,
        h: Tensor,
        vector: Tensor,
        tokens: Tensor | None,
        token_mask: Tensor | None,
        store: list[Tensor] | None = None,
        fetch: list[Tensor] | None = None,
    ) -> Tensor:
        h = arranged(h)
        for block in self.blocks:
            h = block(h if fetch is None else torch.cat([h, fetch.pop()], dim=1), vector)
            if store is not None:
                store.append(h)
        if self.attention is not None:
            h = self.attention(h, tokens, token_mask)
        return h if self.resample is None else self.resample(h, vector)


class ResidualBlock(nn.Module):
    """Two normalised convolutions around a scale and shift by the conditioning vector, added to the input.

    The second convolution starts at zero, and so do scale and shift: a fresh block passes its input on
    (through a 1x1 convolution where the number of channels changes). modulation `add`: the vector is added before
    the second norm instead. resample `down`, `up`: half or twice the resolution, in both branches, as in BigGAN
    (Brock et al. 2019). rescale: the sum by 1/sqrt(2), as of two branches of unit variance.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        cond_width: int,
        groups: int,
        dropout: float,
        modulation: Literal["scale_shift", "add"] = "scale_shift",
        rescale: bool = False,
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        self.adds, self.rescale, self.resample = modulation == "add", rescale, resample
        self.norm_in, self.norm_out = GroupNorm(groups, c_in), GroupNorm(groups, c_out)
        self.conv_in = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv_out = zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        if self.adds:
            self.shift = zeroed(nn.Linear(cond_width, c_out))
        else:
            self.scale_shift = zeroed(nn.Linear(cond_width, 2 * c_out))
        self.dropout = Dropout(dropout)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = F.silu(self.norm_in(x))  # (B,C,Y,X)
        if self.resample is not None:
            h, x = resampled(h, self.resample), resampled(x, self.resample)
        h = self.conv_in(h)
        if self.adds:
            h = self.norm_out(h + rearrange(self.shift(vector), "b c -> b c 1 1"))
        else:
            scale, shift = rearrange(self.scale_shift(vector), "b (two c) -> two b c", two=2)
            h = self.norm_out(h, scale, shift)
        y = self.skip(x) + self.conv_out(self.dropout(F.silu(h)))
        return y / 2**0.5 if self.rescale else y


class ImageAttention(nn.Module):
    """Every pixel attends to all pixels and to the condition's tokens; what is added starts at zero."""

    def __init__(self, channels: int, heads: int, cond_width: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(groups, channels)
        self.attention = Attention(channels, heads, cond_width)
        zeroed(self.attention.out)

    def forward(self, h: Tensor, tokens: Tensor | None, token_mask: Tensor | None) -> Tensor:
        pixels = rearrange(self.norm(h), "b c y x -> b (y x) c")  # (B,N,C)
        pixels = self.attention(pixels, context=tokens, context_mask=token_mask)  # (B,N,C)
        return h + rearrange(pixels, "b (y x) c -> b c y x", y=h.shape[2])


class Downsample(nn.Conv2d):
    """Half the resolution by a strided convolution; the conditioning vector is not needed."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(c_in, c_out, 3, stride=2, padding=1)

    def forward(self, input: Tensor, vector: Tensor | None = None) -> Tensor:
        return super().forward(input)


class Upsample(nn.Module):
    """Twice the resolution by repeating pixels, then a convolution; the conditioning vector is not needed."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(self, h: Tensor, vector: Tensor | None = None) -> Tensor:
        return self.conv(resampled(arranged(h, 2 * h.shape[-1]), "up"))


def resampled(h: Tensor, way: Literal["down", "up"]) -> Tensor:
    """(B,C,Y,X) at half the resolution by means of 2x2 pixels, or at twice by repeating them."""
    return F.avg_pool2d(h, 2) if way == "down" else F.interpolate(h, scale_factor=2.0, mode="nearest")


def check_shape(
    image_size: int,
    unshuffle: int,
    widths: Sequence[int],
    attention: Sequence[int],
    middle_attention: bool,
    heads: int,
    groups: int,
    head_channels: int | None = None,
) -> None:
    """ValueError, with what was given and what is possible, if no U-Net has this shape."""
    halvings = len(widths) - 1
    factor = unshuffle * 2**halvings
    if not widths or image_size % factor:
        near = sorted({max(1, image_size // factor) * factor, -(-image_size // factor) * factor})
        raise ValueError(
            f"image size {image_size} cannot be folded by unshuffle = {unshuffle} and then halved {halvings} "
            f"times ({len(widths)} multipliers): it must be a multiple of {factor}, such as "
            + " or ".join(map(str, near))
        )
    for width in widths:
        if width < 1 or width % groups:
            raise ValueError(f"groups = {groups} does not divide the {width} channels of a level ({widths})")
    if outside := [level for level in attention if not 0 <= level < len(widths)]:
        raise ValueError(f"attention names the levels {outside}; possible: {list(range(len(widths)))}")
    for width in [widths[level] for level in attention] + [widths[-1]] * middle_attention:
        if head_channels is None:
            require_heads(width, heads)
        elif width % head_channels:
            possible = [n for n in range(1, width + 1) if width % n == 0]
            raise ValueError(
                f"head_channels = {head_channels} does not divide the width {width}; possible: {possible}"
            )
