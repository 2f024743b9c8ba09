"""How a condition is dropped: the `keep_*` flags of a condition's mapping, and the learned stand-ins.

A condition is a mapping of tensors whose first axis is the batch; `keep_x` (B,) bool says whether x may be
seen.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn


def null(cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same condition with everything dropped: what classifier-free guidance compares with."""
    return {name: torch.zeros_like(v) if name.startswith("keep_") else v for name, v in cond.items()}


class TextReader(nn.Module):
    """What the priors' networks share: the caption's token features and the text embedding, dropped together and
    projected to the network's width. Subclasses add positions and their other inputs."""

    def __init__(self, embedding_dim: int, token_width: int, width: int):
        super().__init__()
        self.embedding_dim = embedding_dim
        self.null_text, self.null_tokens = NullVector(embedding_dim), NullTokens(token_width)
        self.from_tokens = nn.Linear(token_width, width)
        self.from_text = nn.Linear(embedding_dim, width)

    def read_text(self, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """tokens (B,L,token_width), token_mask (B,L), text_embedding (B,D) of unit norm, keep_text (B,) -> caption
        (B,L,W), its mask (B,L), and text (B,W)."""
        keep = cond["keep_text"]
        tokens, mask = self.null_tokens(cond["tokens"], cond["token_mask"], keep)  # (B,L,token_width), (B,L)
        text = self.null_text(cond["text_embedding"] * self.embedding_dim**0.5, keep)  # (B,D)
        return self.from_tokens(tokens), mask, self.from_text(text)


class NullVector(nn.Module):
    """Replaces the vectors (B,D) that are not kept by a learned one."""

    def __init__(self, width: int):
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return torch.where(keep.unsqueeze(-1), x, self.vector.to(x.dtype))  # (B,D)


class NullTokens(nn.Module):
    """Replaces the token sequences (B,L,W) that are not kept by one learned token, the only one then seen."""

    def __init__(self, width: int):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor, mask: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B,L,W), mask (B,L), keep (B,) -> tokens (B,L,W), mask (B,L)."""
        keep = rearrange(keep, "b -> b 1")
        first = torch.arange(mask.shape[1], device=mask.device) == 0  # (L,)
        tokens = torch.where(keep.unsqueeze(-1), tokens, self.token.to(tokens.dtype))
        return tokens, torch.where(keep, mask, first)
