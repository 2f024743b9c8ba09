"""What every prior is: captions in, CLIP image embeddings out, the best of several candidates. How one candidate
is made, and how that is learned, is each prior's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from unclip.data.embeddings import Embeddings
from unclip.lit.base import Stage
from unclip.randomness import KeyedNoise, key

Text = Mapping[str, Tensor]  # text (B,D), tokens (B,L,W), token_mask (B,L): as `Embeddings` holds them


class Prior(Stage):
    """A stage that is sampled for captions. A subclass says how candidates are made: `candidates`."""

    rerank: int

    @property
    def guidance(self) -> float:
        """As it was configured: s in u + s (c - u), 1 is off."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """What else defines its samples, to be written beside them."""
        raise NotImplementedError

    @property
    def calibrates(self) -> bool:
        """Whether a trained one must see the training embeddings again before it samples: `calibrate`."""
        return False

    def calibrate(self, embeddings: Embeddings, caption_ids: Tensor) -> None:
        """What sampling needs beyond weights; caption_ids (N,) of the training images."""

    def candidates(self, cond: dict[str, Tensor], noise: Candidates, guidance: float) -> Tensor:
        """Unit embeddings (k B,D), one candidate after the other, as many as the noise has: for text_embedding (B,D),
        tokens (B,L,W), token_mask (B,L), keep_text (B,)."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self,
        text: Text,
        indices: Tensor,
        seed: int,
        rerank: int | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """CLIP image embeddings (B,D) of unit norm.

        indices (B,): which samples these are; with the seed they fix the noise. Of `rerank` candidates the
        one with the larger dot product with the text embedding is kept. None: as configured.
        """
        k = rerank or self.rerank
        cond = text_condition(text)
        cond["keep_text"] = torch.ones(len(text["text"]), dtype=torch.bool, device=text["text"].device)
        noise = Candidates([KeyedNoise(key(seed, "prior", candidate), indices) for candidate in range(k)])
        made = self.candidates(cond, noise, self.guidance if guidance is None else guidance)  # (k B,D)
        made = rearrange(made, "(k b) d -> k b d", k=k)
        best = (made * text["text"]).sum(-1).argmax(0)  # (B,)
        return made[best, torch.arange(len(best), device=best.device)]  # (B,D)


class Candidates:
    """The noise of several candidates, each keyed on its own, as one batch (k B, *S)."""

    def __init__(self, noises: list[KeyedNoise]):
        self.noises = noises

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat(
            [noise(part) for noise, part in zip(self.noises, x.chunk(len(self.noises)), strict=True)]
        )

    def each(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A condition (B, ...) for each of the candidates, (k B, ...)."""
        return {name: repeat(x, "b ... -> (k b) ...", k=len(self.noises)) for name, x in cond.items()}


def text_condition(text: Text) -> dict[str, Tensor]:
    """Text features as `Embeddings.captions` gives them, under the names that the priors' networks know."""
    return {"text_embedding": text["text"], "tokens": text["tokens"], "token_mask": text["token_mask"]}
