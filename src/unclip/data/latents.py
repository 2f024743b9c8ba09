"""Pictures as a frozen autoencoder's latents: what a decoder in latent space is trained on and what it is sampled
through. Of the stored pictures they are computed once and read from disk ever after, as CLIP embeddings are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from unclip.data.embeddings import BATCH, cached, frozen
from unclip.data.fingerprint import fingerprint, module_fingerprint
from unclip.data.image_text import Split
from unclip.data.images import to_float
from unclip.data.module import ImageTextData
from unclip.nets.autoencoder import Autoencoder, Gaussian
from unclip.progress import Bar

SPLITS: tuple[Split, ...] = ("train", "validation")  # of which a training needs latents


@dataclass(frozen=True)
class Latents:
    """No module: whoever holds it neither trains nor saves the autoencoder.

    encodings: by split, of the stored pictures; of none where training sees other pictures, flipped and shifted ones.
    spread: the standard deviation of all entries of the training set's latents; None where only sampling asks.
    """

    autoencoder: Autoencoder
    encodings: dict[str, Gaussian] = field(default_factory=dict)
    spread: float | None = None

    def encode(self, images: Tensor) -> Gaussian:
        """Pictures (B,C,Y,X) in [-1,1] -> a Gaussian over latents (B,Z,Y/f,X/f), on their device."""
        net = self.autoencoder.to(images.device)
        return frozen(net, lambda: net.encode(images.float()))

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B,Z,Y/f,X/f) -> pictures (B,C,Y,X), not clamped."""
        net = self.autoencoder.to(z.device)
        return frozen(net, lambda: net.decode(z.float()))

    def to(self, device: torch.device | str) -> Latents:
        """The same on another device."""
        moved = {s: Gaussian(g.mean.to(device), g.log_var.to(device)) for s, g in self.encodings.items()}
        self.autoencoder.to(device)
        return replace(self, encodings=moved)

    @classmethod
    def load(
        cls,
        autoencoder: Autoencoder,
        data: ImageTextData,
        folder: str | Path,
    ) -> Latents:
        """From `folder` where it holds the encodings of these pictures by these weights, else computed and written
        there. Where the data are augmented, training pictures are encoded as they come."""
        weights = module_fingerprint(autoencoder)
        encodings: dict[str, Gaussian] = {}
        for split in SPLITS:
            images = data.split(split).images
            name = fingerprint("latents", weights, data.split(split).fingerprint)
            tensors = cached(
                Path(folder) / f"latents-{name[:24]}.safetensors",
                f"latents of {len(images)} {split} images",
                partial(_encoded, autoencoder, images, f"encoding {split}"),
            )
            encodings[split] = Gaussian(tensors["mean"], tensors["log_var"])
        spread = float(encodings["train"].mean.double().std())
        if data.flip or data.crop_padding:
            del encodings["train"]
        return cls(autoencoder, encodings, spread)


def _encoded(net: Autoencoder, images: Tensor, label: str) -> dict[str, Tensor]:
    """uint8 (N,C,Y,X) -> mean and log_var, float32 (N,Z,Y/f,X/f) each, on the CPU."""
    device = next(net.parameters()).device
    parts: list[Gaussian] = []
    with Bar(label, len(images)) as bar:
        for part in images.split(BATCH):
            found: Gaussian = frozen(net, partial(net.encode, to_float(part.to(device))))
            parts.append(Gaussian(found.mean.float().cpu(), found.log_var.float().cpu()))
            bar.update(sum(len(p.mean) for p in parts))
    return {"mean": torch.cat([p.mean for p in parts]), "log_var": torch.cat([p.log_var for p in parts])}
