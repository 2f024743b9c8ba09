"""The decoder and its training as write-ups of the method have them: attention written out, Adam as it comes, the
average by a loop. A yardstick to measure against, of the same function and size as ours; nothing else uses it.

B batch, C channels, Y X pixels, N positions, M condition tokens, E conditioning width.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, einsum, nn
from torch.nn import functional as F

OTHERWISE = {
    "conditioning": "image_embedding",
    "middle_attention": True,
    "learned_variance": False,
    "head_channels": None,
    "resampling": "convolution",
    "rescale": False,
    "modulation": "scale_shift",
}  # the settings of DecoderNet for which this is written


class TutorialDecoder(nn.Module):
    """Takes what DecoderNet takes, except for the switches in OTHERWISE, and has the same parameters."""

    def __init__(
        self,
        image_channels: int,
        channels: int,
        multipliers: list[int],
        blocks: int,
        attention: list[int],
        heads: int,
        groups: int,
        dropout: float,
        cond_width: int,
        unshuffle: int = 1,
        **told: Any,
    ):
        super().__init__()
        self.told = TutorialCondition(cond_width, heads, **told)
        widths = [channels * m for m in multipliers]
        last = len(widths) - 1
        self.unshuffle, folded = unshuffle, image_channels * unshuffle**2

        def block(c_in: int, c: int) -> ResBlock:
            return ResBlock(c_in, c, cond_width, groups, dropout)

        def attend(c: int) -> PixelAttention:
            return PixelAttention(c, heads, cond_width, groups)

        self.first = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()  # of layers in their order
        for i, w in enumerate(widths):
            self.down += [block(w, w) for _ in range(blocks)]
            self.down += [attend(w)] if i in attention else []
            self.down += [nn.Conv2d(w, widths[i + 1], 3, stride=2, padding=1)] if i < last else []
        self.middle = nn.ModuleList([block(w, w), attend(w), block(w, w)])
        for i, w in reversed(list(enumerate(widths))):
            self.up += [block(2 * w, w) for _ in range(blocks)]
            self.up += [attend(w)] if i in attention else []
            finer = nn.Conv2d(w, widths[i - 1], 3, padding=1)
            self.up += [nn.Sequential(nn.Upsample(scale_factor=2), finer)] if i else []
        self.last_norm = nn.GroupNorm(groups, widths[0])
        self.last = nn.Conv2d(widths[0], folded, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        """x (B,C,Y,X), t (B,), then what TutorialCondition takes -> (B,C,Y,X)."""
        vector, context, seen = self.told(t, *condition)

        def through(layer: nn.Module, h: Tensor) -> Tensor:
            if isinstance(layer, ResBlock):
                return layer(h, vector)
            return layer(h, context, seen) if isinstance(layer, PixelAttention) else layer(h)

        h = self.first(F.pixel_unshuffle(x, self.unshuffle))
        stored = []
        for layer in self.down:
            h = through(layer, h)
            if isinstance(layer, ResBlock):
                stored.append(h)
        for layer in self.middle:
            h = through(layer, h)
        for layer in self.up:
            h = through(layer, torch.cat([h, stored.pop()], dim=1) if isinstance(layer, ResBlock) else h)
        return F.pixel_shuffle(self.last(F.silu(self.last_norm(h))), self.unshuffle)


class TutorialCondition(nn.Module):
    """Time, embedding and caption as a vector and as tokens."""

    def __init__(
        self,
        width: int,
        heads: int,
        embedding_dim: int,
        token_width: int,
        image_tokens: int,
        caption_layers: int,
        **_: Any,
    ):
        super().__init__()
        self.width, self.image_tokens, self.embedding_dim = width, image_tokens, embedding_dim
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.null_embedding = nn.Parameter(torch.zeros(embedding_dim))
        self.to_vector = nn.Linear(embedding_dim, width)
        self.to_tokens = nn.Linear(embedding_dim, image_tokens * width)
        self.encoder = nn.ModuleList([EncoderBlock(width, heads) for _ in range(caption_layers)])
        if caption_layers:
            self.null_token = nn.Parameter(torch.zeros(width))
            self.project = nn.Linear(token_width, width)
            self.encoder_norm = nn.LayerNorm(width)

    def forward(
        self, t: Tensor, embedding: Tensor, tokens: Tensor, mask: Tensor, keep: Tensor, keep_text: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """t (B,), embedding (B,D), tokens (B,L,W), mask (B,L), keep and keep_text (B,) -> (B,E), (B,M,E), (B,M)."""
        half = self.width // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
        angles = t[:, None].float() * frequencies[None]
        vector = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))  # (B,E)
        known = torch.where(keep[:, None], embedding * self.embedding_dim**0.5, self.null_embedding)
        vector = F.silu(vector + self.to_vector(known))
        image_tokens = rearrange(self.to_tokens(known), "b (m e) -> b m e", m=self.image_tokens)
        seen = torch.ones_like(image_tokens[..., 0], dtype=torch.bool)
        if not len(self.encoder):
            return vector, image_tokens, seen
        text = torch.where(keep_text[:, None, None], self.project(tokens), self.null_token)
        only_first = torch.arange(mask.shape[1], device=t.device) == 0
        mask = torch.where(keep_text[:, None], mask, only_first)
        for layer in self.encoder:
            text = layer(text, mask)
        context = torch.cat([self.encoder_norm(text), image_tokens], dim=1)  # (B,M,E)
        return vector, context, torch.cat([mask, seen], dim=1)


class ResBlock(nn.Module):
    """Two convolutions around a scale and shift by the condition."""

    def __init__(self, c_in: int, c: int, width: int, groups: int, dropout: float):
        super().__init__()
        self.norm_in, self.norm_out = nn.GroupNorm(groups, c_in), nn.GroupNorm(groups, c)
        self.conv_in, self.conv_out = nn.Conv2d(c_in, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.scale_shift = nn.Linear(width, 2 * c)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(c_in, c, 1) if c_in != c else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.scale_shift(vector)[:, :, None, None].chunk(2, dim=1)
        h = self.norm_out(h) * (1 + scale) + shift
        return self.skip(x) + self.conv_out(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """softmax(q k / sqrt(d)) v, as the formula stands."""

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_context = None if context_width is None else nn.Linear(context_width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B,N,W), mask (B,N) over the tokens, or (B,M) over the context, which comes before them."""
        q, k, v = (rearrange(y, "b n (h d) -> b h n d", h=self.heads) for y in self.to_qkv(x).chunk(3, -1))
        if context is not None and self.to_context is not None:
            before = self.to_context(context).chunk(2, -1)
            more_k, more_v = (rearrange(y, "b n (h d) -> b h n d", h=self.heads) for y in before)
            k, v = torch.cat([more_k, k], dim=2), torch.cat([more_v, v], dim=2)
            mask = F.pad(mask, (0, x.shape[1]), value=True)
        scores = einsum("b h i d, b h j d -> b h i j", q, k) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~rearrange(mask, "b j -> b 1 1 j"), -torch.finfo(scores.dtype).max)
        out = einsum("b h i j, b h j d -> b h i d", scores.softmax(dim=-1), v)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class PixelAttention(nn.Module):
    """Every pixel looks at all pixels and at the condition's tokens."""

    def __init__(self, channels: int, heads: int, width: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.attention = Attention(channels, heads, width)

    def forward(self, h: Tensor, context: Tensor, seen: Tensor) -> Tensor:
        pixels = rearrange(self.norm(h), "b c y x -> b (y x) c")
        pixels = self.attention(pixels, seen, context)
        return h + rearrange(pixels, "b (y x) c -> b c y x", y=h.shape[2])


class EncoderBlock(nn.Module):
    """Of the caption's transformer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class TutorialTraining:
    """The loop's body: noise, loss, backward, clipping, Adam, and an average kept in a deep copy."""

    def __init__(self, net: nn.Module, alphas_bar: Tensor, lr: float = 5e-4, decay: float = 0.9999):
        self.net, self.average, self.decay = net, copy.deepcopy(net), decay
        self.optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        self.alphas_bar = alphas_bar.float().to(next(net.parameters()).device)

    def step(self, x0: Tensor, *condition: Tensor) -> float:
        """x0 (B,C,Y,X) in [-1,1] and the condition without its flags -> the loss."""
        batch = len(x0)
        t = torch.randint(0, len(self.alphas_bar), (batch,), device=x0.device)
        noise = torch.randn_like(x0)
        alpha_bar = self.alphas_bar[t][:, None, None, None]
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        keep, keep_text = (torch.rand(batch, device=x0.device) >= p for p in (0.1, 0.5))
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.mixed):
            loss = F.mse_loss(self.net(x_t, t, *condition, keep, keep_text).float(), noise)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            for kept, p in zip(self.average.parameters(), self.net.parameters(), strict=True):
                kept.mul_(self.decay).add_(p, alpha=1 - self.decay)
        return loss.item()

    mixed = False  # whether the net runs in bfloat16


class TutorialSampling:
    """The loop of a thousand steps: the prior's answer anew at each, the net twice for guidance, the ancestral step."""

    def __init__(self, net: nn.Module, prior: nn.Module, alphas_bar: Tensor, scale: float):
        self.net, self.prior, self.scale = net.eval(), prior, scale
        self.alphas_bar = alphas_bar.float().to(next(net.parameters()).device)

    @torch.no_grad()
    def __call__(self, text: dict[str, Tensor], shape: tuple[int, ...], steps: int) -> Tensor:
        """The first `steps` of the loop for text features `text`, from noise of this shape (B,C,Y,X)."""
        device, total = self.alphas_bar.device, len(self.alphas_bar)
        x, yes = torch.randn(shape, device=device), torch.ones(shape[0], dtype=torch.bool, device=device)
        said = {"text_embedding": text["text"], "keep_text": yes}
        said |= {name: text[name] for name in ("tokens", "token_mask")}
        for i in reversed(range(total - steps, total)):
            t = torch.full((shape[0],), i, device=device)
            last = torch.full_like(t, total - 1)
            image = F.normalize(self.prior(torch.randn_like(text["text"]), last, said), dim=-1)
            told = self.net(x, t, image, text["tokens"], text["token_mask"], yes, yes)
            untold = self.net(x, t, image, text["tokens"], text["token_mask"], ~yes, ~yes)
            noise = untold + self.scale * (told - untold)
            now = self.alphas_bar[i]
            before = self.alphas_bar[i - 1] if i > 0 else torch.ones_like(now)
            x0 = ((x - (1 - now).sqrt() * noise) / now.sqrt()).clamp(-1, 1)
            beta = 1 - now / before
            mean = (before.sqrt() * beta * x0 + (now / before).sqrt() * (1 - before) * x) / (1 - now)
            spread = (beta * (1 - before) / (1 - now)).clamp(min=1e-20).sqrt()
            x = mean + spread * torch.randn_like(x) if i > 0 else mean
        return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
