"""Training and sampling the unCLIP decoder: CLIP image embedding (and caption) -> image (Ramesh et al.
2022, 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from unclip.data.image_text import Split
from unclip.data.images import to_float
from unclip.data.latents import Latents
from unclip.diffusion import (
    Bound,
    LearnedVariance,
    bits_per_dim,
    clipped,
    hybrid_loss,
    make_grid,
    variational_loss,
)
from unclip.diffusion.bounds import bounded
from unclip.diffusion.sample import Callback
from unclip.diffusion.times import Draw
from unclip.lit.base import Batch, DiffusionStage, keep
from unclip.nets.autoencoder import LatentScale
from unclip.nets.decoder import DecoderNet
from unclip.randomness import KeyedNoise, key
from unclip.sampling import Sampler


class DecoderModule(DiffusionStage):
    """x0 is the image (B,C,H,W) in [-1,1]; what it is conditioned on is the net's `conditioning`.

    Embedding and caption are dropped independently, for classifier-free guidance. loss: simple, L_simple with
    the weighting; hybrid, with the bound for the variance that the net then predicts; vlb, the bound itself.

    latents: with them x0 is the image's encoding by a frozen autoencoder, its mean or a sample (`latent`), scaled to
    unit variance over the training set by a factor that is kept with the net, `net.latent_scale`.
    """

    net: DecoderNet

    @bounded
    def __init__(
        self,
        drop_embedding: Annotated[float, "0 <= drop_embedding < 1"] = 0.1,
        drop_caption: Annotated[float, "0 <= drop_caption < 1"] = 0.5,
        loss_norm: Literal["l2", "l1", "huber"] = "l2",
        time: Literal["t", "log_snr"] = "t",
        loss: Literal["simple", "hybrid", "vlb"] = "simple",
        latent: Literal["mean", "sample"] = "mean",
        latents: Latents | None = None,
        **stage: Any,
    ):
        super().__init__(loss_norm=loss_norm, time=time, **stage)
        self.loss = loss
        self.drop_embedding, self.drop_caption = drop_embedding, drop_caption
        self.latent, self.latents = latent, latents
        if latents is not None and latents.spread is not None:
            self.latent_scale.set(latents.spread)

    def example(
        self, batch: Batch, split: Split, uniform: Callable[[], Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x0 = self.originals(batch, split, training=uniform is not None)
        if not (self.net.uses_embedding or self.net.uses_caption):
            return x0, {}
        assert self.embeddings is not None, "a conditional decoder without embeddings can only sample"
        text = self.embeddings.captions(batch["caption"])
        return x0, self.condition(self.embeddings.image[split][batch["index"]], text, uniform)

    def originals(self, batch: Batch, split: Split, training: bool) -> Tensor:
        """x0 of a batch: its images, or their scaled latents; in training a sample has other noise in each epoch."""
        if self.latents is None:
            x0 = to_float(batch["image"])
        else:
            known = self.latents.encodings.get(split)
            found = known.at(batch["index"]) if known else self.latents.encode(to_float(batch["image"]))
            z = found.mean
            if self.latent == "sample":
                epoch = self.current_epoch if training else None
                noise = KeyedNoise(key(self.seed, "latents", split, epoch), batch["index"])
                z = found.sample(noise(z))
            x0 = self.latent_scale(z)
        return x0.contiguous(memory_format=torch.channels_last)

    @property
    def latent_scale(self) -> LatentScale:
        scale = self.net.latent_scale
        assert isinstance(scale, LatentScale), (
            "the builder puts one into the net of a decoder in latent space"
        )
        return scale

    def encoded(self, images: Tensor) -> Tensor:
        """The x0 that stands for images (B,C,H,W) in [-1,1]: themselves, or their mean latents, scaled."""
        return images if self.latents is None else self.latent_scale(self.latents.encode(images).mean)

    def pixels(self, x0: Tensor) -> Tensor:
        """Images (B,C,H,W) in [-1,1], or a little beyond, of x0."""
        return x0 if self.latents is None else self.latents.decode(self.latent_scale.inverse(x0))

    def condition(
        self, image: Tensor | None, text: Mapping[str, Tensor], uniform: Callable[[], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """What the net is told, from image embeddings (B,D) and text features (as `Embeddings.captions`
        gives them)."""
        cond: dict[str, Tensor] = {}
        if self.net.uses_embedding:
            embedding = text["text"] if self.net.conditioning == "text_embedding" else image
            assert embedding is not None, "this decoder is conditioned on image embeddings"
            cond |= {"embedding": embedding, "keep_embedding": keep(self.drop_embedding, uniform, embedding)}
        if self.net.uses_caption:
            cond |= {"tokens": text["tokens"], "token_mask": text["token_mask"]}
            cond["keep_tokens"] = keep(self.drop_caption, uniform, text["tokens"])
        return cond

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.latents is not None:
            self.latents = self.latents.to(self.device)

    def losses(self, x0: Tensor, draw: Draw, eps: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        if self.loss == "vlb":
            return variational_loss(self.denoiser, x0, draw.t, eps, cond)
        if self.loss == "hybrid":
            weighting, norm = self.weighting, self.loss_norm
            return hybrid_loss(self.denoiser, x0, draw.t, eps, cond, weighting, norm, draw.density)
        return super().losses(x0, draw, eps, cond)

    @torch.no_grad()
    def sample(
        self,
        cond: Mapping[str, Tensor],
        indices: Tensor,
        seed: int,
        sampler: Sampler | None = None,
        callback: Callback | None = None,
        against: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Images (B,C,H,W) in [-1,1]. indices (B,): which samples these are; with the seed they fix the
        noise. against: see Sampler."""
        size, device = self.net.image_size, next(self.net.parameters()).device
        like = torch.empty(len(indices), self.net.image_channels, size, size, device=device)
        like = like.contiguous(memory_format=torch.channels_last)
        noise = KeyedNoise(key(seed, "decoder"), indices)
        return self.pixels((sampler or self.sampler)(self.denoiser, like, cond, noise, callback, against))

    def bits_per_dim(
        self,
        images: Tensor,
        cond: Mapping[str, Tensor],
        indices: Tensor,
        seed: int,
        steps: int = 1000,
        mask: Tensor | None = None,
        u: Tensor | None = None,
    ) -> Bound:
        """The bound on -log p(image | condition), in bits per dimension, of images (B,C,H,W) uint8: over a
        table's every entry, over `steps` of continuous time. mask, u: see diffusion.likelihood.

        Raises ValueError in a latent space, where x0 is not the image.
        """
        if self.latents is not None:
            raise ValueError(
                "nll is a bound for pixels, and this decoder works in an autoencoder's latent space"
            )
        denoiser = self.denoiser
        learned = LearnedVariance(denoiser) if denoiser.learned_variance else None
        return bits_per_dim(
            clipped(learned or denoiser, 1.0),
            images,
            make_grid(self.schedule, self.schedule.T or steps),
            cond,
            noise=KeyedNoise(key(seed, "likelihood"), indices),
            variance=learned or "small",
            mask=mask,
            u=u,
        )
