"""The numbers of one evaluation, each with what defines it: a dictionary that goes into metrics.json as it is.

Combines extractors, distances and consistency; it neither samples nor reads files of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.data.module import ImageTextData
from unclip.evaluate.consistency import class_kept, prompt_consistency
from unclip.evaluate.distances import frechet, frechet_distance, moments
from unclip.evaluate.extractors import Extractor
from unclip.evaluate.statistics import real_statistics

REFERENCE = 10_000  # training images that distances are measured against


def distance(images: Tensor, extractor: Extractor, data: ImageTextData, cache: Path) -> dict[str, Any]:
    """Frechet distance of N samples, uint8 (N,C,H,W), to training images; the floor is that of N test images."""
    n = len(images)
    reference = real_statistics(extractor, data, "train", cache, min(REFERENCE, len(data.split("train"))))
    held_out = data.split("test").images
    count = min(n, len(held_out))
    floor = real_statistics(extractor, data, "test", cache, count)
    samples = moments(extractor.features(images))
    return {
        "value": float(frechet_distance(*samples, *reference.moments)),
        "n": n,
        "floor": float(frechet(floor.features, reference.features)),
        "floor_n": count,
        "reference": f"first {len(reference.features)} training images",
        "extractor": type(extractor).__name__,
        "extractor_fingerprint": extractor.fingerprint[:16],
    }


def consistency(images: Tensor, caption_ids: Tensor, data: ImageTextData, extractor: Any) -> dict[str, Any]:
    """How often the classifier sees what the caption asked for; its own accuracy on test images is the ceiling."""
    test = data.split("test")
    class_of = _class_of_caption(data)
    result = prompt_consistency(extractor.logits(images), class_of[caption_ids], caption_ids, data.captions)
    verdicts = extractor.logits(test.images).argmax(1)
    return {
        "value": result.overall,
        "n": len(images),
        "per_caption": result.per_caption,
        "real_test_images": float((verdicts == test.labels).double().mean()),
        "classifier": type(extractor).__name__,
        "classifier_fingerprint": extractor.fingerprint[:16],
    }


def round_trip(images: Tensor, decoded: Tensor, extractor: Any) -> dict[str, Any]:
    """How many images, uint8 (N,C,H,W), keep their class through image -> CLIP embedding -> image."""
    kept = class_kept(extractor.logits(images), extractor.logits(decoded))
    return {"value": kept, "n": len(images), "classifier_fingerprint": extractor.fingerprint[:16]}


def prior_alone(
    sample: Callable[[Tensor], Tensor],
    embeddings: Mapping[str, Tensor],
    train_captions: Tensor,
    test_captions: Tensor,
    captions: int,
) -> dict[str, Any]:
    """Cosine of prior samples to the true embeddings of test images, beside what to compare it with.

    sample: caption ids (n,) -> embeddings (n,D). embeddings: train (N,D), test (n,D). The baselines: another real image
    with the same caption, and a prior sample for another caption.
    """
    true, generator = embeddings["test"], torch.Generator().manual_seed(0)
    shuffled = (
        test_captions + torch.randint(1, captions, test_captions.shape, generator=generator)
    ) % captions
    same = embeddings["train"][_another(train_captions, test_captions, generator)]

    def cosine(x: Tensor) -> float:
        return float(F.cosine_similarity(x.double(), true.double()).mean())

    return {
        "value": cosine(sample(test_captions)),
        "n": len(true),
        "same_caption_image": cosine(same),
        "shuffled_caption": cosine(sample(shuffled)),
    }


def _another(train_captions: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) for each wanted caption a random training image that has it."""
    order = torch.randperm(len(train_captions), generator=generator)
    pools = {int(c): order[train_captions[order] == c] for c in wanted.unique()}
    chosen = torch.empty_like(wanted)
    for caption, pool in pools.items():
        places = (wanted == caption).nonzero().flatten()
        chosen[places] = pool[torch.arange(len(places)) % len(pool)]
    return chosen


def _class_of_caption(data: ImageTextData) -> Tensor:
    """(captions,) the class that most images of each caption have."""
    train = data.split("train")
    counts = torch.zeros(len(data.captions), len(data.class_names))
    counts.index_put_((train.caption_ids, train.labels), torch.ones(len(train)), accumulate=True)
    return counts.argmax(1)
