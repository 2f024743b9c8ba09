"""Between stored images (uint8, 0..255) and what networks see (float32, -1..1), and between sizes of stored
images. The only place where that scale is written down. No augmentation: that is the loader's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def to_float(images: Tensor) -> Tensor:
    """uint8 (..., C, H, W) in 0..255 -> float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> Tensor:
    """Float (..., C, H, W) -> uint8, rounded to the nearest level; what lies outside [-1, 1] is clamped.
    Inverse of `to_float`."""
    return x.to(torch.float32).add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def resized(images: Tensor, size: int, how: Literal["pad", "bilinear", "area"]) -> Tensor:
    """uint8 (N, C, H, W) -> uint8 (N, C, size, size).

    `pad` centres the image on black (0) and leaves its pixels as they are; `bilinear` interpolates, with
    antialiasing; `area` pads to the next multiple of `size`, then takes the means of squares: a reduced copy of what
    `pad` gives there. Raises ValueError where `pad` would have to shrink.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    if how == "bilinear":
        x = F.interpolate(images.to(torch.float32), (size, size), mode="bilinear", antialias=True)
        return x.round_().clamp_(0, 255).to(torch.uint8)
    if how == "area":
        times = -(-max(height, width) // size)
        x = F.avg_pool2d(resized(images, times * size, "pad").to(torch.float32), times)
        return x.round_().to(torch.uint8)
    if size < max(height, width):
        raise ValueError(
            f"image_size = {size}: padding cannot shrink {height}x{width} images; use resize=bilinear"
        )
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(images, (left, size - width - left, top, size - height - top))
