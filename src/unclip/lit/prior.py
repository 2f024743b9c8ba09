"""Training and sampling the diffusion prior: caption -> CLIP image embedding (Ramesh et al. 2022, section
2.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.data.image_text import Split
from unclip.diffusion.bounds import bounded
from unclip.lit.base import Batch, DiffusionStage, keep
from unclip.lit.candidates import Candidates, Prior, text_condition
from unclip.nets.prior import PriorTransformer


class PriorModule(Prior, DiffusionStage):
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
        cond = text_condition(self.embeddings.captions(batch["caption"]))
        return x0, {**cond, "keep_text": keep(self.drop_text, uniform, x0)}

    @property
    def guidance(self) -> float:
        return self.sampler.guidance

    @property
    def settings(self) -> dict[str, Any]:
        return {"prior_steps": self.sampler.steps}

    def candidates(self, cond: dict[str, Tensor], noise: Candidates, guidance: float) -> Tensor:
        """By the whole reverse process from noise."""
        like = torch.empty_like(cond["text_embedding"])  # (n,D)
        z = self.sampler.but(guidance=guidance)(self.denoiser, like, cond, noise)  # (n,D)
        return F.normalize(self.net.scaling.inverse(z), dim=-1)
