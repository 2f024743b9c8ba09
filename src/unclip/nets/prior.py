"""The prior's network: a caption and a noised CLIP image embedding in, the clean one out (Ramesh et al.
2022).

Noise levels and objectives are the caller's.  B batch, L caption tokens, D embedding, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from einops import rearrange
from torch import Tensor, nn

from unclip.diffusion.bounds import bounded
from unclip.diffusion.self_conditioning import ESTIMATE
from unclip.nets.conditions import TextReader
from unclip.nets.layers import TimeEmbedding, Transformer, causal_mask, require_heads, zeroed
from unclip.nets.scaling import EmbeddingScaling

EXTRA_TOKENS = 4  # text embedding, time, noised image embedding, query


class PriorTransformer(TextReader):
    """A causal transformer over [caption tokens, text embedding, time, noised image embedding, query].

    The query, a learned token, comes last and so sees everything; its output is the answer.  Conditions:
    text_embedding (B,D) of unit norm, tokens (B,L,token_width) with L up to context_length, token_mask (B,L)
    bool, keep_text (B,) bool; with self_conditioning also x0_hat (B,D), an earlier estimate of the answer's x0.
    `scaling` maps unit embeddings to the space the diffusion runs in; it travels with the weights, and
    forward() does not use it.
    """

    @bounded
    def __init__(
        self,
        embedding_dim: int,
        token_width: int,
        context_length: int,
        width: Annotated[int, "width >= 2"] = 256,
        layers: Annotated[int, "layers >= 1"] = 6,
        heads: Annotated[int, "heads >= 1"] = 8,
        mlp_ratio: Annotated[float, "mlp_ratio > 0"] = 4,
        dropout: Annotated[float, "0 <= dropout < 1"] = 0.2,
        self_conditioning: bool = False,
    ):
        super().__init__(embedding_dim, token_width, width)
        require_heads(width, heads)
        self.from_image = nn.Linear(embedding_dim, width)
        self.self_conditioning = self_conditioning
        if self_conditioning:
            self.from_estimate = zeroed(nn.Linear(embedding_dim, width, bias=False))
        self.time = TimeEmbedding(width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.token_positions = nn.Parameter(torch.randn(context_length, width) * 0.02)
        self.extra_positions = nn.Parameter(torch.randn(EXTRA_TOKENS, width) * 0.02)
        self.transformer = Transformer(width, layers, heads, mlp_ratio, dropout)
        self.to_image = zeroed(nn.Linear(width, embedding_dim))
        self.scaling = EmbeddingScaling(embedding_dim)

    def forward(self, z_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """z_t (B,D), t (B,) -> (B,D)."""
        caption, mask, text = self.read_text(cond)  # (B,L,W), (B,L), (B,W)
        query = self.query.expand(len(z_t), -1)  # (B,W)
        image = self.from_image(z_t)  # (B,W)
        if self.self_conditioning and ESTIMATE in cond:
            image = image + self.from_estimate(cond[ESTIMATE].to(z_t.dtype))
        extra = torch.stack([text, self.time(t), image, query], dim=1)  # (B,4,W)
        caption = caption + self.token_positions[: caption.shape[1]]  # (B,L,W)
        x = torch.cat([caption, extra + self.extra_positions], dim=1)  # (B,L+4,W)
        y = self.transformer(x, self._mask(mask))  # (B,L+4,W)
        return self.to_image(y[:, -1])  # (B,D)

    def _mask(self, token_mask: Tensor) -> Tensor:
        """(B,1,L+4,L+4): no token looks ahead, none looks at padding; the first token is always real."""
        seen = nn.functional.pad(token_mask, (0, EXTRA_TOKENS), value=True)  # (B,L+4)
        return causal_mask(seen.shape[1], seen.device) & rearrange(seen, "b n -> b 1 1 n")
