"""The map between unit-norm CLIP embeddings and the space in which the prior's diffusion runs.

It is fixed before training, kept as buffers beside the weights, and never learned.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

PAPER_SCALE = 17.2  # DALL-E 2's released prior multiplies unit embeddings by this


class EmbeddingScaling(nn.Module):
    """z = (e - mean) @ matrix, a fixed affine map; at first e * sqrt(D), so that entries have unit size."""

    mean: Tensor
    matrix: Tensor
    inverse_matrix: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim) * dim**0.5)
        self.register_buffer("inverse_matrix", torch.eye(dim) / dim**0.5)

    def forward(self, embedding: Tensor) -> Tensor:
        return (embedding - self.mean) @ self.matrix  # (B,D)

    def inverse(self, z: Tensor) -> Tensor:
        return z @ self.inverse_matrix + self.mean  # (B,D)

    @torch.no_grad()
    def set(self, kind: Literal["unit", "paper", "whiten", "none"], embeddings: Tensor) -> None:
        """kind: unit (x sqrt(D)), paper (x 17.2), none, or whiten (zero mean and unit covariance over `embeddings`
        (N,D), N >= 2). Raises ValueError for any other, or for fewer embeddings."""
        dim = len(self.mean)
        if kind == "whiten":
            self._whiten(embeddings)
            return
        factors = {"unit": dim**0.5, "paper": PAPER_SCALE, "none": 1.0}
        if kind not in factors:
            raise ValueError(f"embedding_scale = {kind!r}; possible: unit, paper, whiten, none")
        self.mean.zero_()
        self.matrix.copy_(torch.eye(dim) * factors[kind])
        self.inverse_matrix.copy_(torch.eye(dim) / factors[kind])

    def _whiten(self, embeddings: Tensor) -> None:
        if len(embeddings) < 2:
            raise ValueError(
                f"embedding_scale = whiten: {len(embeddings)} embeddings have no covariance; unit needs none"
            )
        mean = embeddings.double().mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(embeddings.double().T))  # (D,) ascending, columns (D,D)
        # Directions in which embeddings hardly vary would be blown up to pure noise: a floor on the spread.
        spread = values.clamp(min=1e-4 * values.max().item()).sqrt()  # (D,)
        self.mean.copy_(mean)
        self.matrix.copy_((vectors / spread) @ vectors.T)
        self.inverse_matrix.copy_((vectors * spread) @ vectors.T)
