"""Training and sampling the diffusion prior: caption -> CLIP image embedding (Ramesh et al. 2022, section
2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.data.embeddings import Embeddings
from unclip.data.image_text import Split
from unclip.diffusion import add_noise
from unclip.diffusion.bounds import bounded
from unclip.diffusion.self_conditioning import ESTIMATE
from unclip.diffusion.times import Draw
from unclip.lit.base import Batch, DiffusionStage, keep
from unclip.lit.candidates import Candidates, Prior, text_condition
from unclip.nets.conditions import null
from unclip.nets.prior import PriorTransformer
from unclip.randomness import KeyedNoise, key

CALIBRATION = 1024  # training pairs that a sampler looks at


class PriorModule(Prior, DiffusionStage):
    """x0 is the scaled CLIP image embedding (B,D); captions are dropped whole with probability `drop_text`.

    embedding_scale: unit (unit norm x sqrt(D)), paper (x 17.2), whiten, none; fixed before training, kept
    with the weights. rerank: candidates an embedding, of which the one nearest to the text embedding is kept.
    self_conditioning: the net also gets its own estimate, for half of the samples of a batch; see sampling.py.
    """

    net: PriorTransformer

    @bounded
    def __init__(
        self,
        drop_text: Annotated[float, "0 <= drop_text < 1"] = 0.1,
        embedding_scale: Literal["unit", "paper", "whiten", "none"] = "unit",
        rerank: Annotated[int, "rerank >= 1"] = 2,
        time: Literal["t", "log_snr"] = "t",
        self_conditioning: bool = False,
        **stage: Any,
    ):
        super().__init__(time=time, **stage)
        self.drop_text, self.rerank = drop_text, rerank
        if self_conditioning != self.net.self_conditioning:
            raise ValueError(
                f"self_conditioning = {self_conditioning}: the net was made with {not self_conditioning}"
            )
        if self.embeddings is not None:
            self.net.scaling.set(embedding_scale, self.embeddings.image["train"])

    def example(
        self, batch: Batch, split: Split, uniform: Callable[[], Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.embeddings is not None, "a prior without embeddings can only sample"
        x0 = self.net.scaling(self.embeddings.image[split][batch["index"]])  # (B,D)
        cond = text_condition(self.embeddings.captions(batch["caption"]))
        cond["keep_text"] = keep(self.drop_text, uniform, x0)
        if self.net.self_conditioning:
            cond["keep_estimate"] = keep(0.5, uniform, x0)
        return x0, cond

    def losses(self, x0: Tensor, draw: Draw, eps: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        if self.net.self_conditioning:
            with torch.no_grad():
                x_t = add_noise(x0, eps, *self.schedule(draw.t))
                estimate = self.denoiser(x_t, draw.t, cond)
            cond = {**cond, ESTIMATE: torch.where(cond["keep_estimate"].unsqueeze(-1), estimate, 0)}
        return super().losses(x0, draw, eps, cond)

    @property
    def calibrates(self) -> bool:
        return self.sampler.calibrates

    @torch.no_grad()
    def calibrate(self, embeddings: Embeddings, caption_ids: Tensor) -> None:
        """On CALIBRATION training pairs, the same ones every time."""
        generator = torch.Generator().manual_seed(key(self.seed, "calibration"))
        chosen = torch.randperm(len(caption_ids), generator=generator)[:CALIBRATION]
        x0 = self.net.scaling(embeddings.image["train"][chosen].to(self.device))
        text = text_condition(embeddings.captions(caption_ids[chosen]))
        cond = {name: x.to(self.device) for name, x in text.items()} | {"keep_text": keep(0.0, None, x0)}
        noise = KeyedNoise(key(self.seed, "calibration noise"), chosen)
        self.sampler = self.sampler.calibrated(self.denoiser, x0, cond, noise)

    @property
    def guidance(self) -> float:
        return self.sampler.guidance

    @property
    def settings(self) -> dict[str, Any]:
        return {"prior_steps": self.sampler.steps}

    def candidates(self, cond: dict[str, Tensor], noise: Candidates, guidance: float) -> Tensor:
        """By the whole reverse process from noise. A caption is read once for all of its candidates, and one dropped
        caption for all, since they are alike."""
        read = noise.each(self.net.prepared(cond))
        dropped = self.net.prepared({name: x[:1] for name, x in null(cond).items()})
        like = cond["text_embedding"].repeat(len(noise.noises), 1)  # (k B,D)
        against = {name: x.expand(len(like), *x.shape[1:]) for name, x in dropped.items()}
        z = self.sampler.but(guidance=guidance)(self.denoiser, like, read, noise, against=against)  # (k B,D)
        return F.normalize(self.net.scaling.inverse(z), dim=-1)
