"""Text -> pictures: CLIP, prior and decoder as one trained model, with the upsamplers of a cascade after them. The
prior is sampled once a picture, then the decoder, then each upsampler. And pictures -> pictures, by upsamplers or an
autoencoder alone.

It knows nothing of files and runs; unclip.runs.trained loads one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.data.embeddings import image_features, text_features
from unclip.data.images import to_float, to_uint8
from unclip.data.latents import Latents
from unclip.data.tokenizer import Tokenizer
from unclip.diffusion.sample import Callback
from unclip.lit.candidates import Prior
from unclip.lit.decoder import DecoderModule
from unclip.lit.upsampler import UpsamplerModule
from unclip.nets.clip import CLIP
from unclip.sampling import Sampler

Progress = Callable[[int], object]  # called with the number of pictures that are done


def distinct(prompts: Sequence[str]) -> tuple[list[str], Tensor]:
    """The distinct prompts in order of first appearance, and the index of each prompt among them, (n,)."""
    number = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    return list(number), torch.tensor([number[prompt] for prompt in prompts])


@dataclass
class UnCLIP:
    """The three stages of one model, in eval mode on one device.

    sampler: the decoder's; None: as it was trained with. rerank: the prior's candidates a picture; None
    likewise, and prior_guidance, its s in u + s (c - u). prior: None for text embeddings in the place of its
    samples (Ramesh et al. 2022, section 5.1). clip, tokenizer: None for an unconditional decoder, which has no prior
    either, and draws for any prompt. upsamplers: each enlarges what the one before drew, with a sampler of
    its own.
    """

    clip: CLIP | None
    prior: Prior | None
    decoder: DecoderModule
    tokenizer: Tokenizer | None
    upsamplers: Sequence[UpsamplerModule] = ()
    sampler: Sampler | None = None
    rerank: int | None = None
    prior_guidance: float | None = None
    batch_size: int = 100

    @property
    def device(self) -> torch.device:
        return next(self.decoder.net.parameters()).device

    def text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Text features of prompts: text (n,D), tokens (n,L,W), token_mask (n,L); without a CLIP, none."""
        if self.clip is None or self.tokenizer is None:
            return {}
        return {k: v.to(self.device) for k, v in text_features(self.clip, self.tokenizer, prompts).items()}

    def sample(
        self,
        prompts: Sequence[str],
        per_prompt: int = 1,
        seed: int = 0,
        progress: Progress = lambda done: None,
        callback: Callback | None = None,
        embeddings: Tensor | None = None,
    ) -> Tensor:
        """uint8 (len(prompts) * per_prompt, C,H,W), prompt by prompt. Sample i is the same in any batch.

        embeddings: what `embed` gave for these prompts and this seed, where it is there already.
        """
        features = self.text(prompts)
        which = torch.arange(len(prompts)).repeat_interleave(per_prompt)  # (n,)

        def pictures(indices: Tensor) -> Tensor:
            text = {name: x[which[indices].to(x.device)] for name, x in features.items()}
            known = None if embeddings is None else embeddings[indices].to(self.device)
            image = self.imagine(text, indices, seed) if known is None else known
            return self.decode(image, text, indices, seed, callback)

        return self._batched(pictures, len(which), progress)

    def embed(self, prompts: Sequence[str], which: Tensor, seed: int = 0) -> Tensor:
        """The prior alone: embeddings (n,D) for prompts[which[i]], on the CPU."""
        used, which = which.unique(return_inverse=True)
        features = self.text([prompts[i] for i in used.tolist()])

        def embeddings(indices: Tensor) -> Tensor:
            text = {name: x[which[indices].to(x.device)] for name, x in features.items()}
            image = self.imagine(text, indices, seed)
            assert image is not None, "an unconditional model has no prior"
            return image.cpu()

        return self._batched(embeddings, len(which), lambda done: None)

    def imagine(self, text: dict[str, Tensor], indices: Tensor, seed: int) -> Tensor | None:
        """One batch of text features to image embeddings (B,D); None for a decoder that takes none."""
        if self.prior is None:
            return text.get("text")
        return self.prior.sample(text, indices, seed, self.rerank, self.prior_guidance)

    def reconstruct(
        self, images: Tensor, prompts: Sequence[str], seed: int = 0, progress: Progress = lambda done: None
    ) -> Tensor:
        """Image -> CLIP embedding -> image, uint8 (n,C,Y,X) of the decoder's size -> (n,C,H,W) of the finished
        pictures'; a decoder that sees captions gets `prompts`, one each."""
        embeddings = image_features(self.clip, images)["image"].to(self.device)
        named, which = distinct(prompts)
        features = self.text(named)

        def pictures(indices: Tensor) -> Tensor:
            text = {name: x[which[indices].to(x.device)] for name, x in features.items()}
            return self.decode(embeddings[indices.to(self.device)], text, indices, seed)

        return self._batched(pictures, len(images), progress)

    def decode(
        self,
        embeddings: Tensor | None,
        text: dict[str, Tensor],
        indices: Tensor,
        seed: int,
        callback: Callback | None = None,
    ) -> Tensor:
        """One batch of embeddings (B,D) and text features through decoder and upsamplers: uint8 (B,C,H,W) on the CPU.
        callback: of the decoder's steps."""
        cond = self.decoder.condition(embeddings, text)
        x = self.decoder.sample(cond, indices, seed, self.sampler, callback)
        for upsampler in self.upsamplers:
            x = upsampler.sample(x.clamp(-1, 1), indices, seed)
        return to_uint8(x).cpu()

    def _batched(self, compute: Callable[[Tensor], Tensor], count: int, progress: Progress) -> Tensor:
        return batched(compute, count, self.batch_size, progress)


def upsampled(
    upsamplers: Sequence[UpsamplerModule],
    images: Tensor,
    seed: int = 0,
    batch_size: int = 100,
    progress: Progress = lambda done: None,
) -> Tensor:
    """uint8 (n,C,Y,X) -> (n,C,H,W), by upsamplers alone: what they make of pictures that are there."""

    def enlarged(indices: Tensor) -> Tensor:
        x = to_float(images[indices])
        for upsampler in upsamplers:
            x = upsampler.sample(x.clamp(-1, 1), indices, seed)
        return to_uint8(x).cpu()

    return batched(enlarged, len(images), batch_size, progress)


def reconstructed(
    latents: Latents, images: Tensor, batch_size: int = 100, progress: Progress = lambda done: None
) -> Tensor:
    """uint8 (n,C,H,W) through an autoencoder's mean latents and back."""
    device = next(latents.autoencoder.parameters()).device

    def back(indices: Tensor) -> Tensor:
        return to_uint8(latents.decode(latents.encode(to_float(images[indices]).to(device)).mean)).cpu()

    return batched(back, len(images), batch_size, progress)


def batched(compute: Callable[[Tensor], Tensor], count: int, batch_size: int, progress: Progress) -> Tensor:
    """compute of all indices 0 ... count - 1, some at a time."""
    parts = []
    for indices in torch.arange(count).split(batch_size):
        parts.append(compute(indices))
        progress(int(indices[-1]) + 1)
    return torch.cat(parts)
