"""CLIP image embeddings as tokens and back: principal components, each in buckets (Ramesh et al. 2022,
section 2.2). Fixed before training, kept as buffers beside the weights; the network that predicts them is elsewhere."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from unclip.diffusion.bounds import bounded
from unclip.nets.pca import PCA, components_for


class ComponentTokens(nn.Module):
    """An embedding (D,) is K tokens in 0 ... buckets-1, of the K components that vary most, the first one most.

    A component's buckets divide the range that it has over the training embeddings evenly; what is beyond goes
    to the outermost. The dot product of image and text embedding is a token too, its *level*: its rank among
    those of the training pairs, so that level / buckets is a percentile.
    """

    low: Tensor
    high: Tensor
    kept: Tensor
    dot_quantiles: Tensor

    @bounded
    def __init__(self, dim: int, buckets: Annotated[int, "buckets >= 2"] = 1024):
        super().__init__()
        self.buckets = buckets
        self.pca = PCA(dim)
        self.register_buffer("low", -torch.ones(dim))
        self.register_buffer("high", torch.ones(dim))
        self.register_buffer("kept", torch.tensor(dim))
        self.register_buffer("dot_quantiles", torch.linspace(-1, 1, buckets + 1))

    @property
    def components(self) -> int:
        """K."""
        return int(self.kept)

    @torch.no_grad()
    def fit(self, image: Tensor, text: Tensor, explained_variance: float) -> None:
        """To the unit embeddings of training pairs, (N,D) both; K is the smallest number of components that
        explain this share of the images' variance. Raises ValueError outside 0 < explained_variance <= 1."""
        self.pca.load_state_dict(PCA.fitted(image).state_dict())
        self.kept.fill_(components_for(self.pca.variance, explained_variance))
        coordinates = self.pca.coordinates(image)  # (N,D)
        self.low.copy_(coordinates.amin(0))
        self.high.copy_(coordinates.amax(0))
        ranks = torch.linspace(0, 1, self.buckets + 1, dtype=torch.float64, device=image.device)
        self.dot_quantiles.copy_(torch.quantile((image * text).sum(1).double(), ranks))

    def encode(self, embedding: Tensor) -> Tensor:
        """(B,D) -> int64 (B,K)."""
        k = self.components
        place = (self.pca.coordinates(embedding)[:, :k] - self.low[:k]) / self._width(k)
        return place.floor().long().clamp(0, self.buckets - 1)

    def decode(self, tokens: Tensor) -> Tensor:
        """(B,k) with k <= K -> (B,D): the middles of the buckets, and the mean of every component left out."""
        k = tokens.shape[1]
        return self.pca.inverse(self.low[:k] + (tokens + 0.5) * self._width(k))

    def level(self, dot: Tensor) -> Tensor:
        """The token of a dot product, (B,) -> int64 (B,)."""
        return torch.searchsorted(self.dot_quantiles[1:-1].contiguous(), dot.contiguous(), right=True)

    def level_of(self, percentile: Tensor) -> Tensor:
        """The token at a percentile in [0, 1] of the training pairs' dot products, (B,) -> int64 (B,)."""
        return (percentile * self.buckets).long().clamp(max=self.buckets - 1)

    def _width(self, k: int) -> Tensor:
        """(k,) of one bucket; a component that never varies has some width too."""
        return ((self.high[:k] - self.low[:k]) / self.buckets).clamp(min=1e-9)
