"""Feature extractors: fixed functions from stored images to feature vectors, each with a fingerprint of all
that decides its output. Not trained here, and never the network that conditions what is being judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

import torch
from torch import Tensor, nn

from unclip.data.cache import load_tensors
from unclip.data.fingerprint import fingerprint, module_fingerprint
from unclip.data.images import resized, to_float
from unclip.diffusion.bounds import bounded
from unclip.nets.classifier import Classifier

BATCH = 500  # images a forward pass


class Extractor(ABC):
    """Images in, features out, the same wherever and however they are batched: eval mode, no gradients, no
    autocast, no TF32.

    A subclass gives `net`, `num_features`, `preprocessing` (words that name what `preprocess` does: part of
    the fingerprint), `preprocess` and `embed`.
    """

    net: nn.Module
    num_features: int
    preprocessing: str

    @abstractmethod
    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (n,C,H,W) -> what the network reads. Raises ValueError for images it cannot judge."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Preprocessed images -> (n, num_features)."""

    @property
    def fingerprint(self) -> str:
        return fingerprint(type(self).__qualname__, self.preprocessing, module_fingerprint(self.net))

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        self.net.to(device)
        return self

    def features(self, images: Tensor) -> Tensor:
        """uint8 (N,C,H,W) -> float64 (N, num_features), on the CPU."""
        return self._mapped(self.embed, images)

    def _mapped(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images of {images.dtype} {tuple(images.shape)}: must be uint8 (N,C,H,W), as they are stored"
            )
        self.net.eval()
        parts = []
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            for part in images.split(BATCH):
                x = self.preprocess(part.to(self.device))
                parts.append(function(x).double().cpu())
        return torch.cat(parts)


class FashionMnistClassifier(Extractor):
    """The classifier that ships with the package, right on 93% of test images (`metadata`: recipe, number).

    Trained by the recipe `unclip train stage=classifier experiment=fashion_mnist/classifier`. Features: what
    its last layer reads.

    weights: another file of the same kind. Images of 28x28 are padded to 32x32 with black; other sizes are
    interpolated.
    """

    preprocessing = "pad 28 to 32 with 0, else bilinear to 32, to [-1,1]"

    def __init__(self, weights: str | None = None) -> None:
        shipped = resources.files("unclip.evaluate") / "fashion_mnist_classifier.safetensors"
        path = Path(weights) if weights else Path(str(shipped))
        tensors, self.metadata = load_tensors(path)
        self.net: Classifier = Classifier.from_state(tensors)
        self.num_features = self.net.num_features

    def preprocess(self, images: Tensor) -> Tensor:
        if images.shape[1] != 1:
            raise ValueError(
                f"{images.shape[1]} channels: the Fashion-MNIST classifier judges images of one channel"
            )
        return to_float(resized(images, 32, "pad" if images.shape[-2:] == (28, 28) else "bilinear"))

    def embed(self, x: Tensor) -> Tensor:
        return self.net.features(x)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 (N,1,H,W) -> float64 (N, classes), on the CPU."""
        return self._mapped(self.net, images)


class RandomNetwork(Extractor):
    """Random convolutions from a fixed seed: judges any images without weights to fetch. Its distances order
    well and mean little."""

    preprocessing = "to [-1,1]"

    @bounded
    def __init__(
        self,
        image_channels: Annotated[int, "image_channels >= 1"] = 1,
        num_features: Annotated[int, "num_features >= 1"] = 64,
        seed: Annotated[int, "seed >= 0"] = 0,
    ) -> None:
        self.num_features = num_features
        widths = (image_channels, 32, 64, num_features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            convolutions = [nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairwise(widths)]
            for convolution in convolutions:
                nn.init.orthogonal_(convolution.weight, gain=2**0.5)
        self.net = nn.Sequential(
            *(layer for convolution in convolutions for layer in (convolution, nn.ReLU()))
        )

    def preprocess(self, images: Tensor) -> Tensor:
        return to_float(images)

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x).mean(dim=(2, 3))
