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
