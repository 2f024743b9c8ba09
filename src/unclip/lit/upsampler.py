"""Training and sampling an upsampler of a cascade: low-resolution picture -> the same two or four times as large
(Ramesh et al. 2022, section 2.1; Ho et al. 2021). It knows nothing of captions or embeddings, and is not guided.

B batch, C channels, H W pixels of the large picture, Y X of the small one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.data.corruption import Corruption
from unclip.data.image_text import Split
from unclip.data.images import to_float
from unclip.diffusion.bounds import bounded
from unclip.diffusion.sample import Callback
from unclip.lit.base import Batch, DiffusionStage
from unclip.nets.upsampler import UpsamplerNet
from unclip.randomness import KeyedNoise, key
from unclip.sampling import Sampler


class UpsamplerModule(DiffusionStage):
    """x0 is the image (B,C,H,W) in [-1,1], the condition its area-downsampled copy, corrupted and enlarged bilinearly.

    crop: the part of a side that training sees of each image, somewhere else in each epoch; validation and sampling
    see all of it. strength: of the corruption when sampling; in training it is uniform in 0 ... 1. What is random about
    a training image is keyed by (seed, epoch, sample).
    """

    net: UpsamplerNet

    @bounded
    def __init__(
        self,
        corruption: Corruption,
        crop: Annotated[float, "0 < crop <= 1"] = 0.25,
        strength: Annotated[float, "0 <= strength <= 1"] = 0.0,
        loss_norm: Literal["l2", "l1", "huber"] = "l2",
        time: Literal["t", "log_snr"] = "t",
        **stage: Any,
    ):
        super().__init__(loss_norm=loss_norm, time=time, **stage)
        self.corruption, self.crop, self.strength = corruption, crop, strength
        self.side = round(crop * self.net.image_size)
        if self.side % self.net.factor or self.side % self.net.multiple:
            raise ValueError(
                f"crop = {crop}: {self.side} of {self.net.image_size} pixels must be a multiple of the factor, "
                f"{self.net.factor}, and of {self.net.multiple}, by which the U-Net reduces"
            )

    def example(
        self, batch: Batch, split: Split, uniform: Callable[[], Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = to_float(batch["image"])  # (B,C,H,W)
        training = split == "train"
        drawn = key(self.seed, "corruption", self.current_epoch if training else split)
        noise = KeyedNoise(drawn, batch["index"])
        strength = noise.uniform().to(x0.device) * self.corruption.strongest
        corners = torch.stack([noise.uniform(), noise.uniform()], dim=1)  # (B,2) in [0, 1)
        low = self.enlarged(self.corruption(self.reduced(x0), strength, noise))
        if training and self.side < min(x0.shape[-2:]):
            x0, low = self.cropped(torch.cat([x0, low], dim=1), corners).chunk(2, dim=1)
        x0 = x0.contiguous(memory_format=torch.channels_last)
        return x0, {"low": low, "strength": strength}

    def reduced(self, images: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,Y,X), each pixel the mean of a square."""
        return F.avg_pool2d(images, self.net.factor)

    def enlarged(self, low: Tensor) -> Tensor:
        """(B,C,Y,X) -> (B,C,H,W), bilinearly."""
        return F.interpolate(low, scale_factor=float(self.net.factor), mode="bilinear")

    def cropped(self, images: Tensor, corners: Tensor) -> Tensor:
        """(B,C,side,side) of (B,C,H,W): squares whose corners (B,2), 0 ... 1 of what is possible, are at corners of
        low-resolution pixels."""
        (_, channels, *sides), side, corners = images.shape, self.side, corners.to(images.device)
        along = torch.arange(side, device=images.device)
        rows, columns = (
            (corners[:, i, None] * ((n - side) // self.net.factor + 1)).long() * self.net.factor + along
            for i, n in enumerate(sides)
        )  # (B,side) each
        rows = rearrange(rows, "b y -> b 1 y 1").expand(-1, channels, -1, sides[1])
        columns = rearrange(columns, "b x -> b 1 1 x").expand(-1, channels, side, -1)
        return images.gather(2, rows).gather(3, columns)

    @torch.no_grad()
    def sample(
        self,
        low: Tensor,
        indices: Tensor,
        seed: int,
        sampler: Sampler | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Images (B,C,H,W) in [-1,1] of low (B,C,Y,X) in [-1,1], of any size. indices (B,): which samples these are;
        with the seed they fix corruption and noise."""
        channels, sides = low.shape[1], [self.net.factor * n for n in low.shape[-2:]]
        if channels != self.net.image_channels or any(side % self.net.multiple for side in sides):
            raise ValueError(
                f"low-resolution pictures of {'x'.join(map(str, low.shape[1:]))}: this upsampler takes "
                f"{self.net.image_channels} channels, and draws sides that are multiples of {self.net.multiple}"
            )
        low = low.to(next(self.net.parameters()).device)
        noise = KeyedNoise(key(seed, "upsampler", *sides), indices)
        strength = torch.full((len(low),), self.strength, device=low.device)
        cond = {"low": self.enlarged(self.corruption(low, strength, noise)), "strength": strength}
        like = torch.empty_like(cond["low"], memory_format=torch.channels_last)
        return (sampler or self.sampler)(self.denoiser, like, cond, noise, callback)
