"""Copies of real test images: made small and enlarged again, or through an autoencoder. Makes them for the numbers of
evaluate/stages.py, and shows the first ones."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.data.images import resized
from unclip.evaluate import stages
from unclip.generate import Progress, reconstructed, upsampled
from unclip.progress import Bar
from unclip.report.judges import Judge, classifies, reference_of
from unclip.report.pictures import png
from unclip.report.samples import cascade, larger
from unclip.runs.trained import Copiers

SHOWN = 10
Picture = tuple[str, str, bytes]  # title, a line about it, PNG


@dataclass(frozen=True)
class Copies:
    """Images and their copies, uint8 (n,C,H,W) each, by their names."""

    title: str
    line: str
    rows: dict[str, Tensor]

    @property
    def picture(self) -> Picture:
        shown = [images[:SHOWN] for images in self.rows.values()]
        return self.title, self.line, png(torch.cat(shown), len(shown[0]), list(self.rows))


def numbers(of: Copiers, names: Container[str], by: Judge, request: dict[str, Any]) -> dict[str, Any]:
    """Those of the named metrics that are of copies, for metrics.json; of the reference's held-out images."""
    found: dict[str, Any] = {}
    if "upsampling" in names:
        with Bar("upsampling", len(_held_out(by))) as bar:
            copies = _enlarged(of, _held_out(by), request["seed"], bar.update)
        measured = stages.upsampling(copies.rows["upsampled"], copies.rows["bicubic"], by.reference)
        sizes = {"from": of.shown.image_size // _factor(of), "to": of.shown.image_size}
        found["upsampling"] = {**measured, **sizes, "seed": request["seed"], **cascade(of.upsamplers)}
    if "reconstruction" in names and of.latents is not None:
        if of.data is not of.shown:  # upsamplers follow: pictures are larger than what was encoded
            by = replace(by, reference=reference_of(of.data, by, request))
        with Bar("reconstruction", len(_held_out(by))) as bar:
            copies = _through_latents(of, _held_out(by), bar.update)
        classes = classifies(by.extractor, of.data)
        measured = stages.reconstruction(copies.rows["reconstructed"], by.reference, classes)
        shape = list(of.latents.autoencoder.latent_shape)
        found["reconstruction"] = {**measured, "latents": shape, "pixels": list(_held_out(by).shape[1:])}
    return found


def pictures(of: Copiers, names: Container[str], seed: int) -> list[Picture]:
    """The first copies that the named metrics are about: drawn anew, and the same."""
    found = []
    if "upsampling" in names:
        found.append(_enlarged(of, of.shown.split("test").head(SHOWN).images, seed))
    if "reconstruction" in names:
        found.append(_through_latents(of, of.data.split("test").head(SHOWN).images))
    return [copies.picture for copies in found]


def bicubic(small: Tensor, size: int) -> Tensor:
    """uint8 (N,C,Y,X) -> (N,C,size,size)."""
    return F.interpolate(small.float(), (size, size), mode="bicubic").round().clamp(0, 255).to(torch.uint8)


def _enlarged(of: Copiers, images: Tensor, seed: int, progress: Progress = lambda done: None) -> Copies:
    """Each small pixel is the mean of a square, as in training; the upsamplers enlarge one after the other, the bicubic
    interpolation at once."""
    size = images.shape[-1]
    small = resized(images, size // _factor(of), "area")
    ours = upsampled(of.upsamplers, small, seed, of.batch_size, progress)
    line = f"The first test images at {small.shape[-1]} pixels, enlarged to {size}, and as they are."
    rows = {"small": larger(small, size), "bicubic": bicubic(small, size), "upsampled": ours, "real": images}
    return Copies("Upsampling", line, rows)


def _through_latents(of: Copiers, images: Tensor, progress: Progress = lambda done: None) -> Copies:
    assert of.latents is not None
    back = reconstructed(of.latents, images, of.batch_size, progress)
    line = "The first test images, and what the autoencoder decodes from their mean latents."
    return Copies("Reconstruction", line, {"real": images, "reconstructed": back})


def _factor(of: Copiers) -> int:
    return math.prod(upsampler.net.factor for upsampler in of.upsamplers)


def _held_out(by: Judge) -> Tensor:
    assert by.reference.held_out is not None, "data have a test split"
    return by.reference.held_out.images
