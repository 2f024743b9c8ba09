"""The numbers of a set of pictures, each with all that defines it: dictionaries that go into metrics.json as they are.

Combines extractors, distances and consistency; it neither samples nor reads files of runs. What a trained model is
judged by beyond its pictures is in stages.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unclip.data.module import FEW, ImageTextData
from unclip.evaluate import distances
from unclip.evaluate.consistency import confusion, inception_style_score
from unclip.evaluate.consistency import prompt_consistency as agreement
from unclip.evaluate.intervals import wilson
from unclip.evaluate.manifold import nearest
from unclip.evaluate.manifold import prdc as manifolds
from unclip.evaluate.pixels import brightness_distance
from unclip.evaluate.seen import Reference, Seen

PAIRS = 10  # closest pairs of a sample and a training image, for a picture
BASELINE = 500  # held-out images whose nearest training images are the baseline, at most
PIXELS = 2**24  # of training images compared at a time: 128 MiB


@dataclass(frozen=True)
class Settings:
    """Those of metrics that have some; as in conf/evaluate.yaml."""

    k: int = 5
    kid_subsets: int = 100
    kid_subset_size: int | None = None


@dataclass(frozen=True)
class Asked:
    """What pictures were asked to show, and how real test images fare with the same judge."""

    caption_ids: Tensor  # (N,) into captions
    captions: Sequence[str]
    class_names: Sequence[str]
    class_of: Tensor  # (captions,) the class each asks for
    test: Seen
    test_labels: Tensor

    @cached_property
    def real(self) -> Tensor:
        """(classes,classes) counts of test images: rows are what they are, columns what the judge sees."""
        return confusion(self.test.logits, self.test_labels)


def pictures(
    names: Sequence[str],
    seen: Seen,
    reference: Reference,
    settings: Settings,
    asked: Asked | None = None,
) -> dict[str, Any]:
    """The metrics among `names` that pictures alone have, by name; others are left out."""
    measured: dict[str, Callable[[], dict[str, Any]]] = {
        "fd": lambda: fd(seen, reference),
        "fd_infinity": lambda: fd_infinity(seen, reference),
        "kid": lambda: kid(seen, reference, settings),
        "cmmd": lambda: cmmd(seen, reference),
        "prdc": lambda: prdc(seen, reference, settings),
        "inception_score": lambda: inception_score(seen, reference),
        "memorisation": lambda: memorisation(seen.images, reference),
        "brightness": lambda: brightness(seen.images, reference),
    }
    if asked is not None:
        measured |= {
            "prompt_consistency": lambda: prompt_consistency(seen, asked),
            "prompt_retrieval": lambda: prompt_retrieval(seen, asked),
        }
    return {name: measure() for name, measure in measured.items() if name in names}


def fd(seen: Seen, reference: Reference) -> dict[str, Any]:
    """Frechet distance of N samples; the floor is that of as many real images that are not in the reference."""
    return _distance(seen, reference, frechet)


def frechet(x: Seen, real: Seen) -> float:
    """Frechet distance of their features."""
    if x.keep and len(x) <= x.extractor.num_features:  # a set of few images is its own root
        return float(distances.frechet(x.features, real.features))
    return float(distances.frechet_distance(*x.moments, *real.moments))


def fd_infinity(seen: Seen, reference: Reference) -> dict[str, Any]:
    """Frechet distance extrapolated to infinitely many samples, with the line it was read from."""

    def fitted(x: Seen, real: Seen) -> distances.Extrapolation:
        return distances.fd_infinity(x.features, real.moments)

    line = fitted(seen, reference.real)
    return {
        "value": line.value,
        "n": len(seen),
        "slope": line.slope,
        "counts": list(line.counts),
        "distances": list(line.distances),
        **reference.floored(lambda x, real: fitted(x, real).value),
        **reference.settings,
    }


def kid(seen: Seen, reference: Reference, settings: Settings) -> dict[str, Any]:
    """Kernel distance over random subsets, on features of equal length."""
    size = settings.kid_subset_size or min(1000, max(_smallest(seen, reference) // 2, 2))

    def distance(x: Seen, real: Seen) -> distances.KernelDistance:
        subsets = settings.kid_subsets
        return distances.kid(x.features, real.features, subsets=subsets, subset_size=size, seed=0)

    return {
        **_distance(seen, reference, lambda x, real: distance(x, real).value),
        "std": distance(seen, reference.real).std,
        "subsets": settings.kid_subsets,
        "subset_size": size,
        "subset_seed": 0,
        "kernel": "(cos + 1)^3",
    }


def cmmd(seen: Seen, reference: Reference) -> dict[str, Any]:
    """Maximum mean discrepancy of CLIP embeddings with a Gaussian kernel."""

    def distance(x: Seen, real: Seen) -> float:
        return float(distances.cmmd(x.features, real.features))

    return {**_distance(seen, reference, distance), "kernel": "Gaussian, sigma 10, x 1000"}


def prdc(seen: Seen, reference: Reference, settings: Settings) -> dict[str, Any]:
    """Precision, recall, density, coverage: as many real images as samples, as all four depend on both counts; one k
    for samples and floor, less than the images of either."""
    count = min(len(seen), len(reference.real))
    k = min(settings.k, _smallest(seen, reference) - 1)

    def four(x: Seen, real: Seen) -> dict[str, float]:
        same = min(len(x), len(real), count)
        return manifolds(real.drawn(same), x.drawn(same), k)._asdict()

    found = {
        **four(seen, reference.real),
        "n": count,
        "k": k,
        **reference.floored(four),
        **reference.settings,
    }
    if count < len(reference.real):
        found |= {"reference": f"{count} of the {reference.says}", "reference_n": count}
    return found


def _smallest(seen: Seen, reference: Reference) -> int:
    """Images of the smallest set that is compared."""
    return min(len(x) for x in (seen, reference.real, reference.held_out) if x is not None)


def inception_score(seen: Seen, reference: Reference) -> dict[str, Any]:
    """The score of the domain's classifier, from 1 to the number of classes: secondary, as it knows nothing of real
    images; theirs is beside it."""
    real = reference.held_out or reference.real
    return {
        "value": float(inception_style_score(seen.logits)),
        "n": len(seen),
        "real_images": float(inception_style_score(real.logits)),
        "real_n": len(real),
        "classes": seen.logits.shape[1],
        **_classifier(seen),
    }


def memorisation(images: Tensor, reference: Reference) -> dict[str, Any]:
    """Distance in pixels of samples to their nearest training images, beside that of held-out real images."""
    held_out = reference.held_out.images[:BASELINE] if reference.held_out else images[:0]
    if reference.others is None:  # one search for both
        distance, index = _nearest(torch.cat([images, held_out]), reference.everything)
        distance, baseline = distance[: len(images)], distance[len(images) :]
    else:
        distance, index = _nearest(images, reference.everything)
        baseline = _nearest(held_out, reference.others)[0]
    result: dict[str, Any] = {
        "value": float(distance.median()),
        "n": len(images),
        "unit": "grey levels of 255, root mean square over pixels; median over pictures",
        "reference_n": len(reference.everything),
        "closest": [
            {"sample": i, "training": int(index[i]), "distance": float(distance[i])}
            for i in distance.argsort()[:PAIRS].tolist()
        ],
    }
    if not len(baseline):
        return {**result, "baseline": None, "baseline_n": 0}
    threshold = baseline.quantile(0.01)
    return {
        **result,
        "baseline": float(baseline.median()),
        "baseline_n": len(baseline),
        "closest_percent_of_baseline": float(threshold),
        "share_closer": float((distance < threshold).double().mean()),
    }


def _nearest(images: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image (N,C,H,W) the root mean square distance to its nearest training image, and which, (N,) both."""
    pixels = images[0].numel()
    rows = max(PIXELS // pixels, 1)  # at a time: in float64 all of a data set may not fit into memory
    found = [nearest(images.flatten(1), part.flatten(1), 1) for part in training.split(rows)]
    distances = torch.cat([distance for distance, _ in found], dim=1)  # (N,parts)
    best = distances.argmin(1)
    index = torch.cat([index for _, index in found], dim=1)[torch.arange(len(images)), best] + best * rows
    return distances.amin(1) / pixels**0.5, index


def brightness(images: Tensor, reference: Reference) -> dict[str, Any]:
    """How far the distribution of the pictures' mean brightness is from that of real ones."""
    pictures = Seen(images, reference.real.extractor)
    measured = _distance(
        pictures, reference, lambda x, real: float(brightness_distance(x.images, real.images))
    )
    return {k: v for k, v in measured.items() if not k.startswith("extractor")}


def _distance(seen: Seen, reference: Reference, metric: Callable[[Seen, Seen], float]) -> dict[str, Any]:
    return {
        "value": metric(seen, reference.real),
        "n": len(seen),
        **reference.floored(metric),
        **reference.settings,
    }


def prompt_consistency(seen: Seen, asked: Asked) -> dict[str, Any]:
    """How often the classifier sees what the caption asked for; its own accuracy on test images is the ceiling. By
    caption, or by class where captions are many."""
    labels = asked.class_of[asked.caption_ids]
    few = len(asked.captions) <= FEW
    groups = (asked.caption_ids, asked.captions) if few else (labels, asked.class_names)
    classes = asked.class_of.tolist() if few else range(len(asked.class_names))
    result = agreement(seen.logits, labels, *groups)
    real, there = asked.real.double(), asked.real.sum(1).tolist()
    accuracy = [right / n if n else None for right, n in zip(real.diagonal().tolist(), there, strict=True)]
    return {
        "value": result.overall,
        "n": len(seen),
        "interval": wilson(result.overall, len(seen)),
        "per_caption": result.per_caption,
        "per_caption_interval": {c: wilson(v, result.counts[c]) for c, v in result.per_caption.items()},
        "real_test_images": float(real.trace() / real.sum()),
        "real_per_caption": {c: accuracy[i] for c, i in zip(groups[1], classes, strict=True)},
        "classes": list(asked.class_names),
        "confusion": confusion(seen.logits, labels).tolist(),
        "real_confusion": asked.real.tolist(),
        **_classifier(seen),
    }


def prompt_retrieval(seen: Seen, asked: Asked) -> dict[str, Any]:
    """How often an evaluation CLIP finds a picture's own caption nearest of all."""
    judge: Any = seen.extractor
    text = judge.text(asked.captions)
    found = (seen.features @ text.T).argmax(1) == asked.caption_ids
    share = float(found.double().mean())
    return {
        "value": share,
        "n": len(seen),
        "interval": wilson(share, len(seen)),
        "captions": len(asked.captions),
        "extractor": type(judge).__name__,
        "extractor_fingerprint": judge.fingerprint[:16],
    }


def class_of_caption(data: ImageTextData) -> Tensor:
    """(captions,) the class that most images of each caption have."""
    counts = torch.zeros(len(data.captions), len(data.class_names))
    for split in (data.split("train"), data.split("validation"), data.split("test")):
        counts.index_put_((split.caption_ids, split.labels), torch.ones(len(split)), accumulate=True)
    return counts.argmax(1)


def _classifier(seen: Seen) -> dict[str, str]:
    extractor = seen.extractor
    return {"classifier": type(extractor).__name__, "classifier_fingerprint": extractor.fingerprint[:16]}
