"""CLIP: an image tower and a text tower into one space of unit vectors (Radford et al. 2021).

The losses are in contrastive.py.  B batch, L tokens of a caption, N patches, W width, D embedding.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.nets.layers import Transformer, causal_mask, require_heads

PADDING = 0  # the token id that says "nothing here"
MAX_LOGIT_SCALE = 100.0
MAX_LOG_LOGIT_SCALE = (
    math.log(MAX_LOGIT_SCALE) - 1e-6
)  # just below, where clamping still passes a gradient on


class TextFeatures(NamedTuple):
    """What the text tower makes of captions."""

    embedding: Tensor  # (B,D), unit norm
    tokens: Tensor  # (B,L,W), the last layer's features
    mask: Tensor  # (B,L) bool, False at padding


class CLIP(nn.Module):
    """Two transformers, one embedding space, a learned temperature.

    stem: how patches become tokens, by one linear map (ViT) or by strided convolutions (which learn faster).
    `logit_scale` multiplies cosines in the loss; it starts at 1/temperature and never exceeds 100 (paper, 2.5). The
    lower the temperature, the further apart images and captions stay (the modality gap, Liang et al. 2022, sec. 4.3).
    tokenizer: what makes the ids that it was trained on, for those who bring captions; it is set by the builder.
    """

    tokenizer: Any = None

    @bounded
    def __init__(
        self,
        image_size: int,
        image_channels: int,
        vocabulary: int,
        context_length: int,
        embedding_dim: Annotated[int, "embedding_dim >= 1"] = 256,
        patch: Annotated[int, "patch >= 1"] = 4,
        width: Annotated[int, "width >= 1"] = 256,
        image_layers: Annotated[int, "image_layers >= 1"] = 6,
        text_layers: Annotated[int, "text_layers >= 1"] = 6,
        heads: Annotated[int, "heads >= 1"] = 8,
        mlp_ratio: Annotated[float, "mlp_ratio > 0"] = 4,
        dropout: Annotated[float, "0 <= dropout < 1"] = 0.2,
        stem: Literal["linear", "convolutions"] = "linear",
        temperature: Annotated[float, "temperature >= 0.01"] = 0.07,
    ):
        super().__init__()
        require_heads(width, heads)
        to_patches = {"linear": LinearStem, "convolutions": ConvolutionStem}[stem](
            image_channels, width, patch
        )
        self.image = ImageTower(
            to_patches, image_size, embedding_dim, patch, width, image_layers, heads, mlp_ratio, dropout
        )
        self.text = TextTower(
            vocabulary, context_length, embedding_dim, width, text_layers, heads, mlp_ratio, dropout
        )
        self.log_logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.embedding_dim, self.token_width, self.context_length = embedding_dim, width, context_length

    @property
    def logit_scale(self) -> Tensor:
        return self.log_logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    @torch.no_grad()
    def limit_logit_scale(self) -> None:
        """Clip the parameter itself, to be done before each step of training (paper, 2.5): beyond the limit it gets no
        gradient, and would stay there for ever."""
        self.log_logit_scale.clamp_(max=MAX_LOG_LOGIT_SCALE)

    def encode_image(self, x: Tensor) -> Tensor:
        """x (B,C,H,W) in [-1,1] -> (B,D), unit norm."""
        return F.normalize(self.image(x), dim=-1)

    def encode_text(self, ids: Tensor) -> TextFeatures:
        """ids (B,L) int, 0 = padding, L up to context_length -> embedding, token features and mask."""
        return self.text(ids)


class ImageTower(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) read out at a class token."""

    def __init__(
        self,
        to_patches: nn.Module,
        image_size: int,
        embedding_dim: int,
        patch: int,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
    ):
        super().__init__()
        if image_size % patch:
            possible = [p for p in range(1, image_size + 1) if image_size % p == 0]
            raise ValueError(
                f"patch = {patch} does not divide the image size {image_size}; possible: {possible}"
            )
        patches = (image_size // patch) ** 2
        self.to_patches = to_patches  # (B,C,H,W) -> (B,W,H/patch,W/patch)
        self.class_token = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(patches + 1, width) * 0.02)
        self.transformer = Transformer(width, layers, heads, mlp_ratio, dropout)
        self.to_embedding = nn.Linear(width, embedding_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        patches = rearrange(self.to_patches(x), "b w y x -> b (y x) w")  # (B,N,W)
        first = self.class_token.expand(len(x), 1, -1)  # (B,1,W)
        h = self.transformer(torch.cat([first, patches], dim=1) + self.positions)  # (B,1+N,W)
        return self.to_embedding(h[:, 0])  # (B,D)


class LinearStem(nn.Conv2d):
    """Each patch through the same linear map."""

    def __init__(self, image_channels: int, width: int, patch: int):
        super().__init__(image_channels, width, patch, stride=patch)


class ConvolutionStem(nn.Sequential):
    """Strided convolutions down to the grid of patches, each doubling the channels (Xiao et al. 2021)."""

    def __init__(self, image_channels: int, width: int, patch: int):
        halvings = patch.bit_length() - 1
        if patch < 2 or patch != 2**halvings:
            raise ValueError(f"patch = {patch}: a stem of convolutions needs a power of two, such as 4 or 8")
        layers, c_in = [], image_channels
        for i in reversed(range(halvings)):
            c_out = max(width >> i, 8)
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.GroupNorm(1, c_out), nn.GELU()]
            c_in = c_out
        super().__init__(*layers, nn.Conv2d(c_in, width, 1))


class TextTower(nn.Module):
    """A causal transformer over token ids, read out at each caption's last token."""

    def __init__(
        self,
        vocabulary: int,
        context_length: int,
        embedding_dim: int,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
    ):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(context_length, width) * 0.02)
        self.transformer = Transformer(width, layers, heads, mlp_ratio, dropout)
        self.to_embedding = nn.Linear(width, embedding_dim, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, ids: Tensor) -> TextFeatures:
        length, room = ids.shape[1], len(self.positions)
        if length > room:
            raise ValueError(f"captions have {length} tokens, but this text tower reads at most {room}")
        mask = ids != PADDING  # (B,L)
        # Padding comes last, so the causal mask alone hides it from every real token.
        x = self.embed(ids) + self.positions[:length]  # (B,L,W)
        tokens = self.transformer(x, causal_mask(length, ids.device))  # (B,L,W)
        last = mask.sum(1).clamp(min=1) - 1  # (B,)
        at_end = tokens[torch.arange(len(ids), device=ids.device), last]  # (B,W)
        return TextFeatures(F.normalize(self.to_embedding(at_end), dim=-1), tokens, mask)
