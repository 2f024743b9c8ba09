"""What is done to the low-resolution pictures that an upsampler is trained on, so that it forgives those a decoder
draws, by a strength an image, 0 (nothing) to 1. Cold diffusion's degradations are in diffusion/degradation.py.

B images, C channels, Y X pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unclip.data.images import to_float, to_uint8
from unclip.randomness import KeyedNoise

RESAMPLINGS: tuple[Literal["area", "bilinear", "bicubic"], ...] = ("area", "bilinear", "bicubic")


class Corruption(Protocol):
    """What conf/corruption/ targets. strongest: the largest strength that training draws."""

    strongest: float

    def __call__(self, images: Tensor, strength: Tensor, noise: KeyedNoise) -> Tensor:
        """images (B,C,Y,X) in [-1,1], strength (B,) in [0,1] -> (B,C,Y,X). Each image's draws are its own generator's:
        they depend on no other image."""
        ...


@dataclass(frozen=True)
class Untouched:
    """No corruption: the pictures as they are."""

    strongest = 0.0

    def __call__(self, images: Tensor, strength: Tensor, noise: KeyedNoise) -> Tensor:
        return images


@dataclass(frozen=True)
class GaussianBlur:
    """A blur of standard deviation strength x `pixels` (Ho et al. 2021, Cascaded diffusion models, section 4.3)."""

    pixels: Annotated[float, "pixels > 0"] = 1.0
    strongest = 1.0

    def __call__(self, images: Tensor, strength: Tensor, noise: KeyedNoise) -> Tensor:
        width = strength * self.pixels
        return blurred(images, width, width)


@dataclass(frozen=True)
class Degradation:
    """Blur, resizing, noise and JPEG in random order, each by a random part of strength x its largest amount: as in
    BSRGAN (Zhang et al. 2021, section 3), one pass of it, as for latent diffusion's upsampler.

    blur: standard deviation in pixels, of rows and columns apart. resize: the part of its side that a picture loses on
    the way down and back. noise: standard deviation on the scale of [-1,1]; of all channels alike for every second
    picture. jpeg: what the quality of 100 loses. On the CPU, image by image.
    """

    blur: Annotated[float, "blur >= 0"] = 1.5
    resize: Annotated[float, "0 <= resize < 1"] = 0.5
    noise: Annotated[float, "noise >= 0"] = 0.1
    jpeg: Annotated[float, "0 <= jpeg <= 95"] = 60.0
    strongest = 1.0

    def __call__(self, images: Tensor, strength: Tensor, noise: KeyedNoise) -> Tensor:
        degraded = [
            self.one(image, s, generator)
            for image, s, generator in zip(images.cpu(), strength.tolist(), noise.generators, strict=True)
        ]
        return torch.stack(degraded).to(images)

    def one(self, image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        """One image (C,Y,X)."""
        steps = (self._blur, self._resize, self._noise, self._jpeg)
        for number in torch.randperm(len(steps), generator=generator).tolist():
            image = steps[number](image, strength, generator).clamp(-1, 1)
        return image

    def _blur(self, image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        down, across = strength * self.blur * torch.rand(2, 1, generator=generator)
        return blurred(image.unsqueeze(0), down, across).squeeze(0)

    def _resize(self, image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        part, which = torch.rand(2, generator=generator).tolist()
        size = image.shape[-2:]
        small = [max(1, round(n * (1 - strength * self.resize * part))) for n in size]
        way = RESAMPLINGS[int(which * len(RESAMPLINGS))]
        if small == list(size):
            return image
        reduced = F.interpolate(image.unsqueeze(0), small, mode=way)
        return F.interpolate(reduced, tuple(size), mode="bilinear").squeeze(0)

    def _noise(self, image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        spread, grey = torch.rand(2, generator=generator).tolist()
        drawn = torch.randn(image.shape, generator=generator)
        drawn = drawn[:1] if grey < 0.5 else drawn
        return image + strength * self.noise * spread * drawn

    def _jpeg(self, image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
        lost = strength * self.jpeg * float(torch.rand(1, generator=generator))
        return image if lost == 0 else compressed(image, round(100 - lost))


def blurred(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """(B,C,Y,X) by Gaussians of standard deviations (B,) in pixels, each the mean of what is inside the picture;
    0 leaves it as it is."""
    rows, columns = images.shape[-2:]
    of_rows, of_columns = _gaussian(rows, down.to(images)), _gaussian(columns, across.to(images))
    return torch.einsum("byi,bcij,bxj->bcyx", of_rows, images, of_columns)


def _gaussian(count: int, spread: Tensor) -> Tensor:
    """(B,count,count): what each pixel is made of."""
    place = torch.arange(count, device=spread.device, dtype=spread.dtype)
    squared = (rearrange(place, "i -> i 1") - place) ** 2  # (count,count)
    spread = rearrange(spread.clamp(min=1e-3), "b -> b 1 1")
    return (-squared / (2 * spread**2)).softmax(-1)


def compressed(image: Tensor, quality: int) -> Tensor:
    """(C,Y,X) in [-1,1] through JPEG: colours together where there are three channels, else each as grey."""
    stored = to_uint8(image)
    parts = [stored] if len(stored) == 3 else list(stored.unsqueeze(1))
    found = []
    for part in parts:
        array = rearrange(part, "c y x -> y x c").numpy()
        file = io.BytesIO()
        Image.fromarray(array if len(part) == 3 else array[..., 0]).save(file, "JPEG", quality=quality)
        read = torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8)
        found.append(rearrange(read, "(y x c) -> c y x", x=part.shape[2], c=len(part)))
    return to_float(torch.cat(found))
