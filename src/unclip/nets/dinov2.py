"""DINOv2's vision transformer (Oquab et al. 2023, arXiv:2304.07193) with the names of its published weights.

Only for judging: it is built from a state dict and never trained. Without registers, and without ViT-g's gated MLP.
B batch, N patches, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_WIDTH = 64  # of every published size: 6, 12 and 16 heads for S, B and L
OFFSET = 0.1  # what the published code adds to the target's size when it resizes the positions


class Attention(nn.Module):
    """Self-attention of tokens (B,N,W)."""

    def __init__(self, width: int):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = width // HEAD_WIDTH

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (parts h w) -> parts b h n w", parts=3, h=self.heads)
        return self.proj(
            rearrange(F.scaled_dot_product_attention(q, k, v), "b h n w -> b n (h w)")
        )  # (B,N,W)


class LayerScale(nn.Module):
    """A learned factor of each channel (Touvron et al. 2021, Going deeper with image transformers, eq. 1)."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


class MLP(nn.Module):
    """Two linear maps with a GELU between them, (B,N,W) -> (B,N,W)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block, (B,N,W) -> (B,N,W)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width), MLP(width, hidden)
        self.ls1, self.ls2 = LayerScale(width), LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))  # (B,1+N,W)
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Holds the map of patches to tokens, under the name that the published weights know."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)


class DinoV2ViT(nn.Module):
    """Images (B,3,H,W), normalised, H and W multiples of the patch -> the normalised class token (B,W).

    positions: those of the weights' own grid of patches, and one for the class token.
    """

    def __init__(self, width: int, layers: int, hidden: int, patch: int, positions: int):
        super().__init__()
        self.patch, self.width = patch, width
        self.patch_embed = PatchEmbed(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of training: in the files, never used here
        self.blocks = nn.ModuleList(Block(width, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The network that a published state belongs to. Raises KeyError or RuntimeError for any other."""
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        layers = sum(name.endswith(".attn.qkv.weight") for name in state)
        hidden, positions = len(state["blocks.0.mlp.fc1.weight"]), state["pos_embed"].shape[1]
        net = cls(width, layers, hidden, patch, positions)
        net.load_state_dict({name: tensor.to(torch.float32) for name, tensor in state.items()})
        return net

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed.proj(images)  # (B,W,rows,columns)
        rows, columns = x.shape[-2:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), rearrange(x, "b w y x -> b (y x) w")], dim=1)
        x = x + self.positions(rows, columns)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows columns, W): the weights' own grid, bicubically resized where it is another one."""
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid = rearrange(self.pos_embed[:, 1:], "b (y x) w -> b w y x", y=side)
        # scale factors, not a size: with the offset they sample slightly other places, which the weights expect
        scale = ((rows + OFFSET) / side, (columns + OFFSET) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], rearrange(grid, "b w y x -> b (y x) w")], dim=1)
