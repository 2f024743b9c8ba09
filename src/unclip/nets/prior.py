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
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.diffusion.self_conditioning import ESTIMATE
from unclip.nets.conditions import TextReader
from unclip.nets.layers import KeyValues, TimeEmbedding, Transformer, causal_mask, require_heads, zeroed
from unclip.nets.scaling import EmbeddingScaling

EXTRA_TOKENS = 4  # text embedding, time, noised image embedding, query
READ, SEEN = "read", "read_mask"  # the keys of a condition that `prepared` has read


class PriorTransformer(TextReader):
    """A causal transformer over [caption tokens, text embedding, time, noised image embedding, query].

    The query, a learned token, comes last and so sees everything; its output is the answer.  Conditions:
    text_embedding (B,D) of unit norm, tokens (B,L,token_width) with L up to context_length, token_mask (B,L)
    bool, keep_text (B,) bool, or what `prepared` makes of these; with self_conditioning also x0_hat (B,D), an
    earlier estimate of the answer's x0.
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
        image = self.from_image(z_t)  # (B,W)
        if self.self_conditioning and ESTIMATE in cond:
            image = image + self.from_estimate(cond[ESTIMATE].to(z_t.dtype))
        query = self.query.expand(len(z_t), -1)  # (B,W)
        x = torch.stack([self.time(t), image, query], dim=1) + self.extra_positions[1:]  # (B,3,W)
        if READ in cond:
            past = [KeyValues(*layer.unbind(1)) for layer in cond[READ].unbind(1)]  # (B,H,L+1,W/H) each
            y = self.transformer(x, _mask(F.pad(cond[SEEN], (0, 3), value=True))[:, :, -3:], past)  # (B,3,W)
        else:
            text, seen = self._text(cond)  # (B,L+1,W), (B,L+1)
            y = self.transformer(
                torch.cat([text, x], dim=1), _mask(F.pad(seen, (0, 3), value=True))
            )  # (B,L+4,W)
        return self.to_image(y[:, -1])  # (B,D)

    def prepared(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The condition as its tokens' keys and values in every layer, (B,layers,2,H,L+1,W/H), and their mask: they do
        not depend on time or image, so that sampling computes them once and not at each step."""
        text, seen = self._text(cond)
        past = [KeyValues() for _ in self.transformer.blocks]
        self.transformer(text, _mask(seen), past)
        return {READ: torch.stack([layer.both() for layer in past], dim=1), SEEN: seen}

    def _text(self, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The condition as tokens (B,L+1,W), and which of them are there (B,L+1)."""
        caption, mask, text = self.read_text(cond)  # (B,L,W), (B,L), (B,W)
        caption = caption + self.token_positions[: caption.shape[1]]  # (B,L,W)
        text = text + self.extra_positions[0]  # (B,W)
        return torch.cat([caption, rearrange(text, "b w -> b 1 w")], dim=1), F.pad(mask, (0, 1), value=True)


def _mask(seen: Tensor) -> Tensor:
    """(B,1,N,N) for tokens that are there where `seen` (B,N): none looks ahead, none looks at padding; the first token
    is always real."""
    return causal_mask(seen.shape[1], seen.device) & rearrange(seen, "b n -> b 1 1 n")
