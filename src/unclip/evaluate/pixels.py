"""What can be said of images without a network: how bright they are, how far copies are from them.
Works on images as they are stored; features and classes are other files' business."""

from __future__ import annotations

import torch
from torch import Tensor


def brightness(images: Tensor) -> Tensor:
    """uint8 (N,C,H,W) -> (N,) float64, the mean over pixels and channels, 0 black and 1 white."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"images of {images.dtype} {tuple(images.shape)}: must be uint8 (N,C,H,W), at least one"
        )
    return images.flatten(1).sum(1, dtype=torch.int64).double() / (255 * images[0].numel())


def rms(images_a: Tensor, images_b: Tensor) -> Tensor:
    """Root mean square difference of each image from its copy, uint8 (N,C,H,W) both -> (N,) float64, in grey levels."""
    return (images_a.double() - images_b.double()).square().mean((1, 2, 3)).sqrt()


def brightness_distance(images_a: Tensor, images_b: Tensor) -> float:
    """Wasserstein-1 distance between the brightnesses of two sets of images, uint8 (N,C,H,W) and (M,C,H,W), in [0,1]:

        integral of |F_a(v) - F_b(v)| dv        F: the part of the images that are at most as bright as v

    What a schedule that leaves some signal at its last level loses (Lin et al. 2024, sec. 3.1): samples of medium
    brightness only.
    """
    a, b = (brightness(images).sort().values for images in (images_a, images_b))
    levels = torch.cat([a, b]).sort().values
    darker_a, darker_b = (torch.searchsorted(x, levels[:-1], right=True).double() / len(x) for x in (a, b))
    return ((darker_a - darker_b).abs() * levels.diff()).sum().item()
