"""A judge of drawn shapes: random convolutions and a linear layer fitted to shapes that it draws itself, in a second.
For the synthetic data set alone; nothing that it measures says anything about real images."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.data.images import resized
from unclip.data.synthetic import SHAPES, Synthetic
from unclip.diffusion.bounds import bounded
from unclip.evaluate.extractors import RandomNetwork

SIZE, FEATURES, DRAWN, RIDGE = 16, 256, 2048, 100.0


class ShapeClassifier(RandomNetwork):
    """Right on 94% of shapes that it has not drawn. Features: those of the random convolutions."""

    preprocessing = f"bilinear to {SIZE}, to [-1,1]"

    @bounded
    def __init__(self, channels: Annotated[int, "channels >= 1"] = 1) -> None:
        super().__init__(image_channels=channels, num_features=FEATURES, seed=0)
        drawn = Synthetic(size=DRAWN, image_size=SIZE, channels=channels).split("train")
        x = self._mapped(self._pooled, drawn.images)  # (N,F) float64
        mean, std = x.mean(0), x.std(0) + 1e-6
        x = (x - mean) / std
        y = F.one_hot(drawn.labels, len(SHAPES)).double() - 1 / len(SHAPES)
        weight = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y).T
        head = nn.utils.skip_init(nn.Linear, x.shape[1], len(SHAPES))  # draws no random numbers
        with torch.no_grad():
            head.weight.copy_(weight / std)
            head.bias.copy_(-(weight / std) @ mean)
        self.net = nn.ModuleDict({"convolutions": self.net, "head": head})

    def preprocess(self, images: Tensor) -> Tensor:
        return super().preprocess(resized(images, SIZE, "bilinear"))

    def embed(self, x: Tensor) -> Tensor:
        return self._convolved(x).mean(dim=(2, 3))

    def logits(self, images: Tensor) -> Tensor:
        """uint8 (N,C,H,W) -> float64 (N, shapes), on the CPU."""
        net: Any = self.net
        return self._mapped(lambda x: net["head"](self._pooled(x)), images)

    def _convolved(self, x: Tensor) -> Tensor:
        net: Any = self.net["convolutions"] if isinstance(self.net, nn.ModuleDict) else self.net
        return net(x)

    def _pooled(self, x: Tensor) -> Tensor:
        """(n,C,S,S) -> (n, 6 x features): the strongest answer anywhere, the mean, and the means of four quarters."""
        x = self._convolved(x)
        quarters = F.adaptive_avg_pool2d(x, 2).flatten(1)
        return torch.cat([x.amax(dim=(2, 3)), x.mean(dim=(2, 3)), quarters], dim=1)
