"""Feature extractors: fixed functions from stored images to feature vectors, each with a fingerprint of all
that decides its output. Not trained here, and never the network that conditions what is being judged; networks
whose weights come from elsewhere are in pretrained.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

NOT_INDEPENDENT = (
    "extractor = clip: its weights are those of the CLIP that conditions these samples, which cannot judge them; "
    "possible: a CLIP of another seed or data (unclip train stage=clip seed=1), or another extractor"
)


class Extractor(ABC):
    """Images in, features out, the same wherever and however they are batched: eval mode, no gradients, no
    autocast, no TF32; uint8 in on both sides of every comparison, float64 out.

    A subclass gives `net`, `num_features`, `preprocessing` (words that name what `preprocess` does, and the
    version of whatever code is not ours: part of the fingerprint), `preprocess` and `embed`; and raises
    `version` when its code changes what comes out.
    """

    net: nn.Module
    num_features: int
    preprocessing: str
    version: int = 1
    batch: int = 500  # images a forward pass

    @abstractmethod
    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 (n,C,H,W) -> what the network reads. Raises ValueError for images it cannot judge."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Preprocessed images -> (n, num_features)."""

    @property
    def fingerprint(self) -> str:
        """sha256 of weights, architecture, preprocessing and code version."""
        return fingerprint(
            type(self).__qualname__, self.version, self.preprocessing, module_fingerprint(self.net)
        )

    @property
    def weights_fingerprint(self) -> str:
        """sha256 of the weights alone."""
        return weights_fingerprint(self.net)

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
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), _full_precision():
            for part in images.split(self.batch):
                x = self.preprocess(part.to(self.device))
                parts.append(function(x).double().cpu())
        return _finite(torch.cat(parts), type(self).__name__)


def weights_fingerprint(net: nn.Module) -> str:
    """sha256 of a network's parameters and buffers, whatever its settings."""
    return fingerprint(dict(net.state_dict()))


def check_independent(extractor: Extractor, conditioning: nn.Module) -> None:
    """Raises ValueError where the extractor is the very network that conditions the samples it would judge: they
    were made to please it."""
    if extractor.weights_fingerprint == weights_fingerprint(conditioning):
        raise ValueError(NOT_INDEPENDENT)


def with_channels(images: Tensor, wanted: int, judge: str, repeat: bool = True) -> Tensor:
    """(n,C,H,W) -> (n,wanted,H,W): greyscale repeated to three channels, unless told not to. Raises ValueError for
    anything else that does not fit."""
    channels = images.shape[1]
    if channels == wanted:
        return images
    repeat = repeat and wanted == 3
    if channels == 1 and repeat:
        return images.expand(-1, 3, -1, -1)
    possible = "1 or 3 channels" if repeat else f"{wanted} channel{'s' * (wanted > 1)}"
    raise ValueError(
        f"images of {channels} channel{'s' * (channels > 1)}: {judge} judges images of {possible}"
    )


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32, neither in convolutions nor in matrix products; training's own setting is put back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _finite(features: Tensor, extractor: str) -> Tensor:
    wrong = (~features.isfinite().all(1)).nonzero().flatten()
    if len(wrong):
        raise ValueError(
            f"{extractor} gives features that are not finite for {len(wrong)} of {len(features)} images, "
            f"first for image {int(wrong[0])}: its weights are damaged, or it is no judge of such images"
        )
    return features


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
        images = with_channels(images, 1, "the Fashion-MNIST classifier")
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
        self.image_channels, self.num_features = image_channels, num_features
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
        return to_float(with_channels(images, self.image_channels, "this random network", repeat=False))

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x).mean(dim=(2, 3))
