"""The autoregressive prior's network: a caption in, the tokens of a CLIP image embedding out, one after the
other (Ramesh et al. 2022, section 2.2). What the tokens stand for is component_tokens.py's.

B batch, L caption tokens, K image tokens, D embedding, W width, V buckets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.nets.component_tokens import ComponentTokens
from unclip.nets.conditions import NullVector, TextReader, null
from unclip.nets.layers import (
    KeyValues,
    TimeEmbedding,
    Transformer,
    causal_mask,
    require_heads,
    time_features,
)

FEATURE_RANGE = 1000.0  # a bucket's place in its range, on the scale that sinusoidal features are made for


@dataclass
class Past:
    """The key-value cache of a sequence so far: of each layer, and which of its tokens may be looked at."""

    layers: list[KeyValues]
    seen: Tensor | None = None  # (B,N) bool
    tokens: int = field(default=0)  # of the image, among the N


class AutoregressivePrior(TextReader):
    """A causal transformer over [caption tokens, text embedding, dot product, component 1, component 2, ...].

    Conditions: text_embedding (B,D) of unit norm, tokens (B,L,token_width) with L up to context_length,
    token_mask (B,L) bool, level (B,) int, keep_text (B,) bool, which drops all of these. Buckets are read by
    sinusoidal features of their place, and the logits start as such, so that neighbours are alike.
    `tokens` maps embeddings to tokens and back; it travels with the weights.
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
        buckets: Annotated[int, "buckets >= 2"] = 1024,
    ):
        super().__init__(embedding_dim, token_width, width)
        require_heads(width, heads)
        self.buckets = buckets
        self.null_level = NullVector(width)
        self.from_level, self.from_bucket = TimeEmbedding(width), TimeEmbedding(width)
        self.token_positions = nn.Parameter(torch.randn(context_length, width) * 0.02)
        self.extra_positions = nn.Parameter(torch.randn(2, width) * 0.02)  # text embedding, dot product
        self.component_positions = nn.Parameter(torch.randn(embedding_dim, width) * 0.02)
        self.transformer = Transformer(width, layers, heads, mlp_ratio, dropout)
        self.to_logits = nn.Linear(width, buckets)
        nn.init.zeros_(self.to_logits.bias)
        with torch.no_grad():
            self.to_logits.weight.copy_(time_features(self._place(torch.arange(buckets)), width) / width)
        self.tokens = ComponentTokens(embedding_dim, buckets)

    def forward(self, tokens: Tensor, cond: Mapping[str, Tensor], past: Past | None = None) -> Tensor:
        """Image tokens (B,k), k < D -> logits (B,k+1,V): of each of them, and of the one after.

        past: of the same sequence's earlier tokens; then `tokens` are those that follow, and the logits (B,k,V)
        those of what comes after each of them. An empty one is filled with the condition as well.
        """
        layers = None if past is None else past.layers  # a block that is computed again would remember twice
        past = past or self.past()
        start, x, answers = past.tokens, self._components(tokens, past.tokens), tokens.shape[1]  # (B,k,W)
        if past.seen is None:
            answers += 1  # the last place of the prefix, the dot product's, predicts the first token
            prefix, past.seen = self._prefix(cond)  # (B,L+2,W), (B,L+2)
            x = torch.cat([prefix, x], dim=1)  # (B,L+2+k,W)
        past.tokens = start + tokens.shape[1]
        past.seen = F.pad(past.seen, (0, tokens.shape[1]), value=True)  # (B,N)
        causal = causal_mask(past.seen.shape[1], x.device)[-x.shape[1] :]
        y = self.transformer(x, causal & rearrange(past.seen, "b n -> b 1 1 n"), layers)
        return self.to_logits(y[:, -answers:])  # (B,k+1,V), or (B,k,V)

    def past(self) -> Past:
        """Of a sequence that begins."""
        return Past([KeyValues() for _ in self.transformer.blocks])

    @torch.no_grad()
    def generate(
        self, cond: Mapping[str, Tensor], u: Tensor, guidance: float = 1.0, temperature: float = 1.0
    ) -> Tensor:
        """Image tokens (B,K), token j drawn with u[:, j], u (B,K) in [0, 1).

        guidance: s in logits u + s (c - u), u without the text; 1 is off. temperature: divides the logits; 0
        takes the likeliest.
        """
        both = cond if guidance == 1 else {k: torch.cat([v, null(cond)[k]]) for k, v in cond.items()}
        past, tokens = self.past(), u.new_zeros(len(u), 0, dtype=torch.int64)
        for j in range(u.shape[1]):
            latest = tokens[:, -1:]
            logits = self(latest if guidance == 1 else torch.cat([latest, latest]), both, past)[:, -1]
            if guidance != 1:
                c, without = logits.chunk(2)
                logits = without + guidance * (c - without)
            tokens = torch.cat([tokens, drawn(logits, u[:, j], temperature)[:, None]], dim=1)
        return tokens

    def _prefix(self, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The condition as tokens (B,L+2,W), and which are there (B,L+2)."""
        caption, mask, text = self.read_text(cond)  # (B,L,W), (B,L), (B,W)
        level = self.null_level(self.from_level(self._place(cond["level"])), cond["keep_text"])  # (B,W)
        caption = caption + self.token_positions[: caption.shape[1]]  # (B,L,W)
        extra = torch.stack([text, level], dim=1) + self.extra_positions  # (B,2,W)
        return torch.cat([caption, extra], dim=1), F.pad(mask, (0, 2), value=True)

    def _components(self, tokens: Tensor, start: int) -> Tensor:
        """Tokens (B,k) of components start ... start+k-1 -> (B,k,W)."""
        read = self.from_bucket(self._place(tokens.flatten())).unflatten(0, tokens.shape)  # (B,k,W)
        return read + self.component_positions[start : start + tokens.shape[1]]

    def _place(self, bucket: Tensor) -> Tensor:
        return bucket * (FEATURE_RANGE / self.buckets)


def drawn(logits: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """Tokens (B,) from logits (B,V) by inverting the distribution function at u (B,) in [0, 1)."""
    if temperature == 0:
        return logits.argmax(-1)
    rising = (logits.double() / temperature).softmax(-1).cumsum(-1)  # (B,V)
    place = u.double()[:, None] * rising[:, -1:]
    return torch.searchsorted(rising, place, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
