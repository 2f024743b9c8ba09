"""A distance between pictures by what a fixed network sees in them, with gradients: a loss. What is trained to please a
network is not to be judged by it: measure with another extractor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.evaluate.extractors import FashionMnistClassifier, with_channels
from unclip.evaluate.pretrained import IMAGENET_MEAN, IMAGENET_STD, WeightsUnavailable

DOWNLOAD = "download"


class Perceptual(ABC):
    """LPIPS without its learned weights (Zhang et al. 2018, eq. 1 with w = 1): at each of several layers, features of
    unit length at every place, their squared difference, its mean over places; summed over layers.

    A subclass gives the frozen `net` and `layers`. No module: whoever holds one neither trains nor saves it.
    """

    net: nn.Module

    @abstractmethod
    def layers(self, x: Tensor) -> list[Tensor]:
        """Pictures (B,C,Y,X) in [-1,1] -> features (B,W,y,x) of several layers."""

    def to(self, device: torch.device | str) -> Self:
        self.net.to(device)
        return self

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,): how different pictures (B,C,Y,X) in [-1,1] look."""
        total = x.new_zeros(len(x))
        for a, b in zip(self.layers(x), self.layers(y), strict=True):
            difference = F.normalize(a, dim=1, eps=1e-8) - F.normalize(b, dim=1, eps=1e-8)
            total = total + difference.pow(2).sum(1).mean((1, 2))
        return total


class ClassifierFeatures(Perceptual):
    """The Fashion-MNIST classifier that ships with the package, after its stem and each of its blocks.

    weights: another file of the same kind.
    """

    def __init__(self, weights: str | None = None):
        self.net = FashionMnistClassifier(weights).net.eval().requires_grad_(False)

    def layers(self, x: Tensor) -> list[Tensor]:
        net: Any = self.net
        h = net.stem(with_channels(x, 1, "the Fashion-MNIST classifier"))
        found = [h]
        for block in net.blocks:
            h = block(F.max_pool2d(h, 2))
            found.append(h)
        return found


class Vgg16Features(Perceptual):
    """torchvision's VGG16, the last activations before each pooling: the network of LPIPS.

    weights: the path of vgg16-397923af.pth; `download`: as torchvision fetches it, once. Grey is repeated to RGB.
    """

    AFTER = (3, 8, 15, 22, 29)  # layers of `features`: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3

    def __init__(self, weights: str):
        from torchvision.models import VGG16_Weights, vgg16  # here: it takes a second to import

        try:
            if weights == DOWNLOAD:
                state = VGG16_Weights.IMAGENET1K_V1.get_state_dict(weights_only=True)
            else:
                state = torch.load(Path(weights).expanduser(), map_location="cpu", weights_only=True)
            with torch.device("meta"):
                self.net: nn.Module = vgg16().features[: self.AFTER[-1] + 1]
            kept = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
            self.net.load_state_dict(kept, assign=True)
        except Exception as error:  # no network, no file, or whatever torch.load raises on a damaged one
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise WeightsUnavailable(
                f"perceptual.weights = {weights}: {why}; give the path of vgg16-397923af.pth, or {DOWNLOAD}"
            ) from error
        self.net.eval().requires_grad_(False)

    def layers(self, x: Tensor) -> list[Tensor]:
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        h = (with_channels((x + 1) / 2, 3, "VGG16") - mean) / std
        found = []
        for number, layer in enumerate(self.net.children()):
            h = layer(h)
            if number in self.AFTER:
                found.append(h)
        return found
