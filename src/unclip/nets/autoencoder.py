"""The autoencoder of latent diffusion: a picture to a Gaussian over a small grid of latents, and latents to pictures.

It knows neither losses (lit/autoencoder.py) nor what is generated in its latents.  B batch, C channels, Y X pixels,
Z latent channels, f the factor between the two grids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.nets.layers import Attention, zeroed
from unclip.nets.unet import Downsample, Upsample

LOG_VAR = (-30.0, 20.0)  # variances beyond these are no numbers to train with
FIRST_LOG_VAR = -6.0


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution with a diagonal covariance for each of B samples: mean and log_var (B, *S)."""

    mean: Tensor
    log_var: Tensor

    def at(self, rows: Tensor) -> Gaussian:
        """Those of some of the samples, by index."""
        return Gaussian(self.mean[rows], self.log_var[rows])

    def sample(self, eps: Tensor) -> Tensor:
        """mean + standard deviation x eps, eps (B, *S) standard normal (Kingma & Welling 2014, eq. 10)."""
        return self.mean + (self.log_var / 2).exp() * eps

    def kl(self) -> Tensor:
        """(B,): the divergence from the standard normal in nats, summed over S (Kingma & Welling 2014, appendix B)."""
        terms = self.mean**2 + self.log_var.exp() - 1 - self.log_var
        return terms.flatten(1).sum(1) / 2


class Autoencoder(nn.Module):
    """Residual blocks on ever coarser grids, and back (Rombach et al. 2022, section 3.1, appendix G: KL-regularised).

    factor: pixels a latent, along each axis. channels: of the finest grid, doubled on each coarser one up to
    max_channels. unshuffle: folds squares of pixels into channels first, as the U-Net's, and counts in the factor.
    attention: on the coarsest grid. No block sees a batch as a whole, so a picture's latents are its own.
    """

    @bounded
    def __init__(
        self,
        image_size: int,
        image_channels: int,
        factor: Literal[2, 4, 8] = 4,
        latent_channels: Annotated[int, "latent_channels >= 1"] = 4,
        channels: Annotated[int, "channels >= 1"] = 128,
        max_channels: Annotated[int, "max_channels >= 1"] = 512,
        blocks: Annotated[int, "blocks >= 1"] = 2,
        attention: bool = True,
        groups: Annotated[int, "groups >= 1"] = 8,
        unshuffle: Annotated[int, "unshuffle >= 1"] = 1,
    ):
        super().__init__()
        if unshuffle not in (1, 2, 4, 8) or unshuffle > factor:
            possible = [n for n in (1, 2, 4, 8) if n <= factor]
            raise ValueError(
                f"unshuffle = {unshuffle}: must divide the factor {factor}; possible: {possible}"
            )
        if image_size % factor:
            raise ValueError(f"image size {image_size}: must be a multiple of the factor {factor}")
        self.factor, self.unshuffle = factor, unshuffle
        self.latent_shape = (latent_channels, image_size // factor, image_size // factor)
        grids = (factor // unshuffle).bit_length()
        widths = [min(channels * 2**i, max_channels) for i in range(grids)]
        if wrong := [w for w in widths if w % groups]:
            raise ValueError(
                f"groups = {groups} does not divide the {wrong[0]} channels of a grid ({widths})"
            )
        folded, middle = image_channels * unshuffle**2, widths[-1]
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
        self.encoder.append(nn.Conv2d(folded, widths[0], 3, padding=1))
        for i, width in enumerate(widths):
            self.encoder.extend(Block(width, groups) for _ in range(blocks))
            if i + 1 < grids:
                self.encoder.append(Downsample(width, widths[i + 1]))
        self.encoder.extend(_middle(middle, groups, attention))
        self.encoder.extend([nn.GroupNorm(groups, middle), nn.SiLU()])
        moments = nn.Conv2d(middle, 2 * latent_channels, 3, padding=1)
        self.encoder.append(moments)
        with torch.no_grad():  # little noise at first: a small KL weight asks for none
            cast("Tensor", moments.bias)[latent_channels:] = FIRST_LOG_VAR
        self.decoder.append(nn.Conv2d(latent_channels, middle, 3, padding=1))
        self.decoder.extend(_middle(middle, groups, attention))
        for i, width in reversed(list(enumerate(widths))):
            self.decoder.extend(Block(width, groups) for _ in range(blocks))
            if i > 0:
                self.decoder.append(Upsample(width, widths[i - 1]))
        self.decoder.extend([nn.GroupNorm(groups, widths[0]), nn.SiLU()])
        self.last = nn.Conv2d(widths[0], folded, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, x: Tensor) -> Gaussian:
        """Pictures (B,C,Y,X) in [-1,1] -> a Gaussian over latents (B,Z,Y/f,X/f)."""
        folded = F.pixel_unshuffle(x, self.unshuffle).contiguous(memory_format=torch.channels_last)
        mean, log_var = self.encoder(folded).chunk(2, dim=1)
        return Gaussian(mean, log_var.clamp(*LOG_VAR))

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B,Z,Y/f,X/f) -> pictures (B,C,Y,X), not clamped."""
        return self.to_pixels(self.decoder(z.contiguous(memory_format=torch.channels_last)))

    def to_pixels(self, h: Tensor) -> Tensor:
        """What reaches the last layer (B,W,Y/u,X/u), u being unshuffle -> pictures (B,C,Y,X)."""
        return F.pixel_shuffle(self.last(h), self.unshuffle)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Gaussian]:
        """Pictures (B,C,Y,X) and noise for their latents -> what reaches the last layer, for `to_pixels`, and the
        Gaussian. The last layer is the caller's: training balances losses by their gradients there."""
        posterior = self.encode(x)
        return self.decoder(posterior.sample(eps)), posterior


class Block(nn.Module):
    """Two normalised convolutions, added to the input; the second starts at zero. Channels and grid stay."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)  # (B,W,Y,X)


class GridAttention(nn.Module):
    """Every place of a grid attends to all; what is added starts at zero."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(groups, channels), Attention(channels, heads=1)
        zeroed(self.attention.out)

    def forward(self, h: Tensor) -> Tensor:
        places = rearrange(self.norm(h), "b c y x -> b (y x) c")  # (B,N,W)
        return h + rearrange(self.attention(places), "b (y x) c -> b c y x", y=h.shape[2])


class LatentScale(nn.Module):
    """Latents times one fixed factor, 1 / their standard deviation over the training set, kept as a buffer of the net
    that works on them (Rombach et al. 2022, appendix G): diffusion expects data of unit variance."""

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def set(self, spread: float) -> None:
        """spread: the standard deviation of all entries of all training latents."""
        if not spread > 0:
            raise ValueError(f"latents of standard deviation {spread}: the autoencoder has learned nothing")
        self.factor.fill_(1 / spread)

    def forward(self, z: Tensor) -> Tensor:
        return z * self.factor

    def inverse(self, x: Tensor) -> Tensor:
        return x / self.factor


def _middle(channels: int, groups: int, attention: bool) -> list[nn.Module]:
    attending = [GridAttention(channels, groups)] if attention else []
    return [Block(channels, groups), *attending, Block(channels, groups)]
