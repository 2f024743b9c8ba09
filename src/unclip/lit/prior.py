"""Training and sampling the diffusion prior: caption -> CLIP image embedding (Ramesh et al. 2022, section
2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from unclip.data.image_text import Split
from unclip.diffusion.bounds import bounded
from unclip.lit.base import Batch, DiffusionStage, keep
from unclip.nets.prior import PriorTransformer
from unclip.randomness import KeyedNoise, key
from unclip.sampling import Sampler

Text = Mapping[str, Tensor]  # text (B,D), tokens (B,L,W), token_mask (B,L): as `Embeddings` holds them


class PriorModule(DiffusionStage):
    """x0 is the scaled CLIP image embedding (B,D); captions are dropped whole with probability `drop_text`.

    embedding_scale: unit (unit norm x sqrt(D)), paper (x 17.2), whiten, none; fixed before training, kept
    with the weights. rerank: candidates an embedding, of which the one nearest to the text embedding is kept.
    """

    net: PriorTransformer

    @bounded
    def __init__(
        self,
        drop_text: Annotated[float, "0 <= drop_text < 1"] = 0.1,
        embedding_scale: Literal["unit", "paper", "whiten", "none"] = "unit",
        rerank: Annotated[int, "rerank >= 1"] = 2,
        time: Literal["t", "log_snr"] = "t",
        **stage: Any,
    ):
        super().__init__(time=time, **stage)
        self.drop_text, self.rerank = drop_text, rerank
        if self.embeddings is not None:
            self.net.scaling.set(embedding_scale, self.embeddings.image["train"])

    def example(
        self, batch: Batch, split: Split, uniform: Callable[[], Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.embeddings is not None, "a prior without embeddings can only sample"
        x0 = self.net.scaling(self.embeddings.image[split][batch["index"]])  # (B,D)
        cond = _cond(self.embeddings.captions(batch["caption"]))
        return x0, {**cond, "keep_text": keep(self.drop_text, uniform, x0)}

    @torch.no_grad()
    def sample(
        self,
        text: Text,
        indices: Tensor,
        seed: int,
        sampler: Sampler | None = None,
        rerank: int | None = None,
    ) -> Tensor:
        """CLIP image embeddings (B,D) of unit norm, by the whole reverse process from noise.

        indices (B,): which samples these are; with the seed they fix the noise. Of `rerank` candidates the
        one with the larger dot product with the text embedding is kept.
        """
        k = rerank or self.rerank
        cond = {name: repeat(x, "b ... -> (k b) ...", k=k) for name, x in _cond(text).items()}
        like = torch.empty_like(cond["text_embedding"])  # (k B,D)
        seeds = [key(seed, "prior", candidate) for candidate in range(k)]
        noise = _Candidates([KeyedNoise(s, indices) for s in seeds])
        z = (sampler or self.sampler)(
            self.denoiser, like, {**cond, "keep_text": keep(0.0, None, like)}, noise
        )  # (k B,D)
        candidates = rearrange(F.normalize(self.net.scaling.inverse(z), dim=-1), "(k b) d -> k b d", k=k)
        scores = (candidates * text["text"]).sum(-1)  # (k,B)
        best = scores.argmax(0)  # (B,)
        return candidates[best, torch.arange(len(best), device=best.device)]  # (B,D)


class _Candidates:
    """The noise of several candidates, each keyed on its own, as one batch (k B,D)."""

    def __init__(self, noises: list[KeyedNoise]):
        self.noises = noises

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat(
            [noise(part) for noise, part in zip(self.noises, x.chunk(len(self.noises)), strict=True)]
        )


def _cond(text: Text) -> dict[str, Tensor]:
    return {"text_embedding": text["text"], "tokens": text["tokens"], "token_mask": text["token_mask"]}
