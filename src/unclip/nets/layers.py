"""Parts that more than one network is made of: time features, attention, the transformer block.

Nothing here knows what is generated or how it is trained.  B batch, N tokens, M context tokens, W width, H
heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.nets.cpu import Dropout

MAX_PERIOD = 10_000.0  # of the slowest of the time features


def time_features(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t (B,) at geometrically spaced frequencies, (B, width) (Vaswani et al. 2017)."""
    half = width // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=t.device) / half)  # (width/2,)
    angles = t.float().unsqueeze(-1) * frequencies  # (B, width/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # (B, width)


class TimeEmbedding(nn.Sequential):
    """Time (B,) to a vector (B, width): sinusoidal features through two linear layers."""

    def __init__(self, width: int):
        require_even(width, "the width of a time embedding")
        super().__init__(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        features = time_features(t, self.width)
        return super().forward(features.to(next(self.parameters()).dtype))  # (B, W)


class KeyValues:
    """A key-value cache: those of an attention's earlier tokens, (B,H,N,W/H) each, so that each is computed once."""

    def __init__(self, key: Tensor | None = None, value: Tensor | None = None):
        self.key, self.value = key, value

    def both(self) -> Tensor:
        """(B,2,H,N,W/H)."""
        assert self.key is not None, "nothing is remembered yet"
        assert self.value is not None
        return torch.stack([self.key, self.value], dim=1)

    def joined(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Those of earlier tokens, then these; remembered for the tokens to come."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)
        self.key, self.value = key, value
        return key, value


class Attention(nn.Module):
    """Multi-head self-attention whose keys and values may be joined by context tokens of another width.

    The context enters as in GLIDE and DALL-E 2: by its own key and value projections, before those of x.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        require_heads(width, heads)
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.context_key_value = (
            None if context_width is None else nn.Linear(context_width, 2 * width, bias=False)
        )
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:
        """x (B,N,W), context (B,M,context_width) -> (B,N,W).

        mask, broadcastable to (B,1,N,N), and context_mask (B,M) are True where one may look. past: of P earlier
        tokens, to which these N are added; the mask's columns are then P+N.
        """
        query, key, value = self._split(self.query_key_value(x), 3)  # (B,H,N,W/H) each
        if past is not None:
            key, value = past.joined(key, value)  # (B,H,P+N,W/H)
        if context is not None:
            if self.context_key_value is None:
                raise ValueError("this attention was built without context_width, but given context tokens")
            context_key, context_value = self._split(self.context_key_value(context), 2)  # (B,H,M,W/H)
            key = torch.cat([context_key, key], dim=2)  # (B,H,M+N,W/H)
            value = torch.cat([context_value, value], dim=2)  # (B,H,M+N,W/H)
            mask = _joined_mask(mask, context_mask, x.shape[1], context.shape[1])
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (B,H,N,W/H)
        return self.out(rearrange(y, "b h n w -> b n (h w)"))  # (B,N,W)

    def _split(self, joined: Tensor, parts: int) -> list[Tensor]:
        return list(rearrange(joined, "b n (parts h w) -> parts b h n w", parts=parts, h=self.heads))


def _joined_mask(mask: Tensor | None, context_mask: Tensor | None, n: int, m: int) -> Tensor | None:
    """The mask over m context tokens and n own ones, (B,1,1 or N,M+N), or None where all may be seen."""
    if context_mask is None:
        return None if mask is None else F.pad(mask, (m, 0), value=True)
    seen = F.pad(rearrange(context_mask, "b m -> b 1 1 m"), (0, n), value=True)  # (B,1,1,M+N)
    return seen if mask is None else seen & F.pad(mask, (m, 0), value=True)


class TransformerBlock(nn.Module):
    """Attention and MLP, each on a normalised copy and added back (pre-norm)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4, dropout: float = 0.0):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, width)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, past: KeyValues | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, past=past))  # (B,N,W)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))  # (B,N,W)


class Transformer(nn.Module):
    """Transformer blocks in a row, then a layer norm."""

    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float = 4, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, mlp_ratio, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        # keeps the residual stream's variance independent of depth (GPT-2)
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.3.weight")):
                nn.init.normal_(weight, std=0.5 / math.sqrt(width * layers))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, past: Sequence[KeyValues] | None = None
    ) -> Tensor:
        """past: of each block, for tokens that come after those it has seen."""
        for i, block in enumerate(self.blocks):
            x = block(x, mask, past[i] if past else None)  # (B,N,W)
        return self.norm(x)


def causal_mask(tokens: int, device: torch.device | None = None) -> Tensor:
    """(N,N), True where row i may look at column j <= i."""
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to zero, so that the branch it ends starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def require_heads(width: int, heads: int) -> None:
    """ValueError unless the heads divide the width; names the numbers of heads that would."""
    if heads < 1 or width % heads:
        possible = [n for n in range(1, min(width, 32) + 1) if width % n == 0]
        raise ValueError(f"heads = {heads} does not divide the width {width}; possible: {possible}")


def require_even(width: int, what: str) -> None:
    """ValueError that names `what` unless its width is even and at least 2."""
    if width < 2 or width % 2:
        raise ValueError(f"{what} is {width}; it must be even and at least 2")
