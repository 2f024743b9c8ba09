"""Images as an extractor sees them, and the real ones that others are measured against. No metric of its own: those are
in judge.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unclip.evaluate.distances import Moments, StreamedMoments, moments
from unclip.evaluate.extractors import Extractor

PART = 1000  # images whose features are held at once where only moments are wanted


class Seen:
    """uint8 images (N,C,H,W) through an extractor, each thing computed when first asked for.

    keep: whether all features may be held at once; else moments are streamed, and 50,000 images at 2048 features take
    no more memory than 1,000. known: features or moments that are there already.
    """

    def __init__(
        self, images: Tensor, extractor: Extractor, keep: bool = True, known: Tensor | Moments | None = None
    ) -> None:
        self.images, self.extractor, self.keep = images, extractor, keep
        if isinstance(known, Moments):
            self.moments = known
        elif known is not None:
            self.features = known

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def features(self) -> Tensor:
        """(N,F) float64."""
        return self.extractor.features(self.images)

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance of the features."""
        if self.keep:
            return moments(self.features)
        streamed = StreamedMoments()
        for part in self.images.split(PART):
            streamed.update(self.extractor.features(part))
        return streamed.moments

    @cached_property
    def logits(self) -> Tensor:
        """(N,classes) float64, of an extractor that is a classifier."""
        classifier: Any = self.extractor
        return classifier.logits(self.images)

    def drawn(self, count: int) -> Tensor:
        """(count,F) features of as many images, by a permutation of its own: files may be sorted by class."""
        if count >= len(self):
            return self.features
        return self.features[torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count]]


@dataclass(frozen=True)
class Reference:
    """Real images, by what they are for.

    real: what distances are measured against. held_out: others of the same kind, whose distance is the floor, to `real`
    or to `against`; None where there are too few. everything: all that a model may have memorised, uint8 (N,C,H,W);
    others: `everything` without the held-out images, where it contains them.
    says, held_out_says: `real` and `held_out` in words.
    """

    real: Seen
    held_out: Seen | None
    everything: Tensor
    says: str
    held_out_says: str
    against: Seen | None = None
    others: Tensor | None = None

    def floored(self, metric: Callable[[Seen, Seen], Any]) -> dict[str, Any]:
        """`metric` of the held-out images as floor, with their number."""
        if self.held_out is None:
            return {"floor": None, "floor_n": 0}
        value = metric(self.held_out, self.against or self.real)
        return {"floor": value, "floor_n": len(self.held_out), "floor_of": self.held_out_says}

    @property
    def settings(self) -> dict[str, Any]:
        """What a distance to it depends on, for metrics.json."""
        extractor = self.real.extractor
        return {
            "reference": self.says,
            "reference_n": len(self.real),
            "extractor": type(extractor).__name__,
            "extractor_fingerprint": extractor.fingerprint[:16],
        }
