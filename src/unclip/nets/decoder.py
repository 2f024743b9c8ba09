"""The unCLIP decoder's network: a U-Net told the time, a CLIP image embedding and, if wanted, the caption.

It turns conditions into the U-Net's vector and tokens; noise levels and losses are the caller's.
B batch, L caption tokens, D embedding, E conditioning width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from unclip.diffusion.bounds import bounded
from unclip.nets.conditions import NullTokens, NullVector
from unclip.nets.layers import TimeEmbedding, Transformer, require_heads
from unclip.nets.unet import UNet


class DecoderNet(nn.Module):
    """U-Net conditioned as in unCLIP, section 2.1.

    The embedding is projected and added to the time embedding, and projected into `image_tokens` extra
    tokens that the attention blocks see after the caption's own encoded tokens.  Conditions: embedding
    (B,D) of unit norm and keep_embedding (B,) bool, unless conditioning is caption_only; tokens
    (B,L,token_width), token_mask (B,L) bool and keep_tokens (B,) bool, if caption_layers > 0.
    `conditioning` says what the net is trained on: the true image's embedding, the prior's samples for its
    caption, the caption's text embedding, or no embedding.  learned_variance: twice the channels come out, the
    second half being about the variance of a step of sampling.  The last four: see UNet.
    """

    @bounded
    def __init__(
        self,
        image_size: int,
        image_channels: int,
        embedding_dim: int,
        token_width: int,
        channels: Annotated[int, "channels >= 1"] = 32,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        blocks: Annotated[int, "blocks >= 1"] = 2,
        attention: Sequence[int] = (1, 2),
        middle_attention: bool = True,
        heads: Annotated[int, "heads >= 1"] = 8,
        groups: Annotated[int, "groups >= 1"] = 8,
        dropout: Annotated[float, "0 <= dropout < 1"] = 0.1,
        unshuffle: Annotated[int, "unshuffle >= 1"] = 1,
        cond_width: Annotated[int, "cond_width >= 2"] = 128,
        image_tokens: Annotated[int, "image_tokens >= 1"] = 4,
        caption_layers: Annotated[int, "caption_layers >= 0"] = 4,
        conditioning: Literal[
            "image_embedding", "text_embedding", "caption_only", "prior_sample"
        ] = "image_embedding",
        learned_variance: bool = False,
        head_channels: Annotated[int | None, "head_channels >= 1"] = None,
        resampling: Literal["convolution", "residual"] = "convolution",
        rescale: bool = False,
        modulation: Literal["scale_shift", "add"] = "scale_shift",
    ):
        super().__init__()
        if conditioning == "caption_only" and caption_layers == 0:
            raise ValueError(
                "conditioning = 'caption_only' needs the caption: caption_layers = 0 leaves it out"
            )
        self.conditioning, self.image_size, self.image_channels = conditioning, image_size, image_channels
        self.learned_variance = learned_variance
        self.time = TimeEmbedding(cond_width)
        self.embedding = (
            None
            if conditioning == "caption_only"
            else EmbeddingCondition(embedding_dim, cond_width, image_tokens)
        )
        self.caption = (
            CaptionEncoder(token_width, cond_width, caption_layers, heads) if caption_layers else None
        )
        self.unet = UNet(
            image_size,
            image_channels,
            cond_width,
            channels,
            multipliers,
            blocks,
            attention,
            middle_attention,
            heads,
            groups,
            dropout,
            unshuffle,
            out_channels=(1 + learned_variance) * image_channels,
            head_channels=head_channels,
            resampling=resampling,
            rescale=rescale,
            modulation=modulation,
        )

    @property
    def uses_caption(self) -> bool:
        return self.caption is not None

    @property
    def uses_embedding(self) -> bool:
        return self.embedding is not None

    def forward(self, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x_t (B,C,Y,X), t (B,) -> (B,C,Y,X), or (B,2C,Y,X) with learned_variance."""
        vector, tokens, masks = self.time(t), [], []  # (B,E)
        if self.caption is not None:
            caption, mask = self.caption(
                cond["tokens"], cond["token_mask"], cond["keep_tokens"]
            )  # (B,L,E), (B,L)
            tokens.append(caption)
            masks.append(mask)
        if self.embedding is not None:
            added, image_tokens = self.embedding(cond["embedding"], cond["keep_embedding"])  # (B,E), (B,M,E)
            vector = vector + added
            tokens.append(image_tokens)
            masks.append(torch.ones_like(image_tokens[..., 0], dtype=torch.bool))  # (B,M)
        # Image tokens alone are always all seen, and attention is faster without a mask.
        mask = torch.cat(masks, dim=1) if self.uses_caption else None  # (B,L+M)
        return self.unet(x_t, vector, torch.cat(tokens, dim=1), mask)


class EmbeddingCondition(nn.Module):
    """A CLIP embedding (B,D) as an addition to the time embedding (B,E) and as tokens (B,M,E)."""

    def __init__(self, embedding_dim: int, cond_width: int, tokens: int):
        super().__init__()
        self.null = NullVector(embedding_dim)
        self.scale, self.tokens = embedding_dim**0.5, tokens
        self.to_vector = nn.Linear(embedding_dim, cond_width)
        self.to_tokens = nn.Linear(embedding_dim, tokens * cond_width)

    def forward(self, embedding: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.null(embedding * self.scale, keep)  # (B,D), entries of unit size
        return self.to_vector(embedding), rearrange(
            self.to_tokens(embedding), "b (m e) -> b m e", m=self.tokens
        )


class CaptionEncoder(nn.Module):
    """The decoder's own transformer over CLIP's token features: (B,L,token_width) -> (B,L,E)."""

    def __init__(self, token_width: int, width: int, layers: int, heads: int):
        require_heads(width, heads)
        super().__init__()
        self.null = NullTokens(width)
        self.project = nn.Linear(token_width, width)
        self.transformer = Transformer(width, layers, heads)

    def forward(self, tokens: Tensor, mask: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        tokens, mask = self.null(self.project(tokens), mask, keep)  # (B,L,E), (B,L)
        return self.transformer(tokens, rearrange(mask, "b l -> b 1 1 l")), mask
