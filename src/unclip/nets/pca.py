"""Principal components of embeddings, kept as buffers beside weights: what varies most comes first. Nothing is learned
by gradient here."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from unclip.diffusion.bounds import bounded


class PCA(nn.Module):
    """e = mean + coordinates @ directions, directions (D,D) orthonormal, in decreasing order of variance (D,). All D of
    them, so that the shapes do not depend on the data."""

    mean: Tensor
    directions: Tensor
    variance: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("directions", torch.eye(dim))
        self.register_buffer("variance", torch.ones(dim))

    @classmethod
    def fitted(cls, embeddings: Tensor) -> PCA:
        """To embeddings (N,D), in float64. Raises ValueError where N < 2."""
        if len(embeddings) < 2:
            raise ValueError(f"{len(embeddings)} embeddings: principal components need at least 2")
        dim = embeddings.shape[1]
        found = cls(dim).to(embeddings.device)
        e = embeddings.double()
        values, vectors = torch.linalg.eigh(torch.cov(e.T).reshape(dim, dim))  # ascending
        found.mean.copy_(e.mean(0))
        found.directions.copy_(vectors.T.flip(0))
        found.variance.copy_(values.flip(0).clamp(min=0))
        return found

    def coordinates(self, embedding: Tensor) -> Tensor:
        """(B,D) -> (B,D)."""
        return (embedding - self.mean) @ self.directions.T

    def inverse(self, coordinates: Tensor) -> Tensor:
        """(B,k), the first k <= D coordinates -> (B,D)."""
        return coordinates @ self.directions[: coordinates.shape[-1]] + self.mean

    def project(self, embedding: Tensor, components: int) -> Tensor:
        """(B,D) with only its first `components` coordinates; none leaves the mean. Its error falls with their
        number."""
        if not 0 <= components <= len(self.variance):
            raise ValueError(f"components = {components}: possible are 0 to {len(self.variance)}")
        return self.inverse(self.coordinates(embedding)[:, :components])


@bounded
def components_for(variance: Tensor, share: Annotated[float, "0 < share <= 1"]) -> int:
    """How many of the components, variances (D,) in decreasing order, explain this share of the whole variance."""
    explained = variance.double().cumsum(0) / variance.double().sum()
    return min(int((explained < share - 1e-12).sum()) + 1, len(variance))
