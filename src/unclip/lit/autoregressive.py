"""Training and sampling the autoregressive prior: caption -> tokens of a CLIP image embedding, one after the
other (Ramesh et al. 2022, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.data.embeddings import Embeddings
from unclip.data.image_text import Split
from unclip.diffusion.bounds import bounded
from unclip.lit.base import Batch, keep
from unclip.lit.candidates import Candidates, Prior, text_condition
from unclip.nets.autoregressive import AutoregressivePrior


class AutoregressiveModule(Prior):
    """Cross entropy of the tokens, in nats a token; captions are dropped whole with probability `drop_text`.

    explained_variance: the share of the embeddings' variance that the components kept explain; fixed before
    training, with the weights. percentiles: from where among the training pairs' dot products of image and
    text that of a sample is drawn. guidance: s in logits u + s (c - u). rerank: as of the diffusion prior.
    """

    net: AutoregressivePrior

    @bounded
    def __init__(
        self,
        drop_text: Annotated[float, "0 <= drop_text < 1"] = 0.1,
        explained_variance: Annotated[float, "0 < explained_variance <= 1"] = 0.99,
        rerank: Annotated[int, "rerank >= 1"] = 2,
        percentiles: Annotated[Sequence[float], "0 <= percentiles[0] <= percentiles[1] <= 1"] = (0.5, 1.0),
        temperature: Annotated[float, "temperature >= 0"] = 1.0,
        guidance: Annotated[float, "guidance >= 0"] = 1.0,
        embeddings: Embeddings | None = None,
        caption_ids: Tensor | None = None,
        **stage: Any,
    ):
        super().__init__(**stage)
        self.drop_text, self.rerank, self.temperature = drop_text, rerank, temperature
        self.percentiles, self._guidance = tuple(percentiles), guidance
        self.embeddings = embeddings
        if embeddings is not None:
            assert caption_ids is not None, "the tokens are fitted to pairs of images and captions"
            text = embeddings.text[caption_ids]
            self.net.tokens.fit(embeddings.image["train"], text, explained_variance)

    def example(
        self, batch: Batch, split: Split, uniform: Callable[[], Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens (B,K) and condition of a batch; `uniform() -> (B,)` decides what is dropped, None drops
        nothing."""
        assert self.embeddings is not None, "a prior without embeddings can only sample"
        image = self.embeddings.image[split][batch["index"]]  # (B,D)
        cond = text_condition(self.embeddings.captions(batch["caption"]))
        level = self.net.tokens.level((image * cond["text_embedding"]).sum(1))
        keep_text = keep(self.drop_text, uniform, image)
        return self.net.tokens.encode(image), {**cond, "level": level, "keep_text": keep_text}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._losses(batch, "train", self.training_noise(batch, batch_idx).uniform).mean()
        self.log_loss(loss, batch_idx)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        losses = self._losses(batch, "validation", None)
        self.log_validation({"val/loss": losses.mean()}, len(losses))

    def _losses(self, batch: Batch, split: Split, uniform: Callable[[], Tensor] | None) -> Tensor:
        """(B,)"""
        tokens, cond = self.example(batch, split, uniform)
        logits = self.net(tokens[:, :-1], cond)  # (B,K,V)
        return (
            F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens).mean(1)
        )

    @property
    def guidance(self) -> float:
        return self._guidance

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "prior_components": self.net.tokens.components,
            "prior_temperature": self.temperature,
            "prior_percentiles": list(self.percentiles),
        }

    def candidates(self, cond: dict[str, Tensor], noise: Candidates, guidance: float) -> Tensor:
        """Token by token; the first draw of a sample's noise is its percentile."""
        cond, tokens = noise.each(cond), self.net.tokens
        text = cond["text_embedding"]
        u = torch.special.ndtr(noise(text.new_empty(len(text), 1 + tokens.components)))  # uniform
        low, high = self.percentiles
        level = tokens.level_of(low + (high - low) * u[:, 0])
        made = self.net.generate({**cond, "level": level}, u[:, 1:], guidance, self.temperature)
        return F.normalize(tokens.decode(made), dim=-1)
