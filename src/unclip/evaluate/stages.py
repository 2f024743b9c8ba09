"""Metrics of single stages, each beside its baselines: dictionaries for metrics.json.

Works on embeddings and images; who makes them is report/metrics.py's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.evaluate import judge
from unclip.evaluate.consistency import class_kept
from unclip.evaluate.distances import frechet
from unclip.evaluate.embedding_metrics import (
    diversity,
    modality_gap,
    recall_at_k,
    retrieval,
    zero_shot_accuracy,
)
from unclip.evaluate.intervals import wilson
from unclip.evaluate.pixels import rms
from unclip.evaluate.seen import Reference, Seen

RECALLS = (1, 5, 10)
TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
)  # of class names, beside the captions
PROMPTS = 20  # captions a class, at most


def round_trip(
    images: Tensor, decoded: Tensor, embeddings: Mapping[str, Tensor], extractor: Any
) -> dict[str, Any]:
    """What images keep on the way image -> CLIP embedding -> image, uint8 (N,C,H,W): their class, and the embedding,
    (N,D) `before` and `after`."""
    kept = class_kept(extractor.logits(images), extractor.logits(decoded))
    before, after = embeddings["before"], embeddings["after"]
    return {
        "value": kept,
        "n": len(images),
        "interval": wilson(kept, len(images)),
        "embedding_cosine": _cosine(before, after),
        "embedding_cosine_of_others": _cosine(before, after.roll(1, 0)),
        "classifier_fingerprint": extractor.fingerprint[:16],
    }


def upsampling(upsampled: Tensor, bicubic: Tensor, reference: Reference) -> dict[str, Any]:
    """The reference's held-out images, made small and enlarged again by upsamplers and by bicubic interpolation, uint8
    (N,C,H,W) both: their Frechet distance to real images, whose floor is that of the images themselves; and how far
    each is from its own image, in grey levels and by the cosine of their features."""
    images = _copied(reference, upsampled)
    made, blurred = (_seen(x, reference) for x in (upsampled, bicubic))
    return {
        **judge.fd(made, reference),
        "bicubic": judge.frechet(blurred, reference.real),
        "rms": _pooled(rms(images.images, upsampled)),
        "bicubic_rms": _pooled(rms(images.images, bicubic)),
        "feature_cosine": _cosine(images.features, made.features),
        "bicubic_feature_cosine": _cosine(images.features, blurred.features),
        "feature_cosine_of_others": _cosine(images.features, made.features.roll(1, 0)),
    }


def reconstruction(reconstructed: Tensor, reference: Reference, classes: bool) -> dict[str, Any]:
    """What an autoencoder keeps of the reference's held-out images, uint8 (N,C,H,W): its error in grey levels (root
    mean square over all pixels; also as PSNR, None where the error is 0), the Frechet distance of the reconstructions,
    and the share whose class is kept, where the extractor is a classifier of these classes."""
    images, made = _copied(reference, reconstructed), _seen(reconstructed, reference)
    off = _pooled(rms(images.images, reconstructed))
    found = {
        "value": off,
        "n": len(images),
        "unit": "grey levels of 255, root mean square over all pixels",
        "psnr": 20 * math.log10(255 / off) if off else None,
        "fd": judge.fd(made, reference),
    }
    if not classes:
        return found
    kept = class_kept(images.logits, made.logits)
    return {**found, "class_kept": {"value": kept, "n": len(images), "interval": wilson(kept, len(images))}}


def _copied(reference: Reference, copies: Tensor) -> Seen:
    """The images that these are copies of."""
    images = reference.held_out
    if images is None or images.images.shape != copies.shape:
        of = None if images is None else tuple(images.images.shape)
        raise ValueError(f"copies {tuple(copies.shape)} of {of} held-out images: one is needed of each")
    return images


def _seen(images: Tensor, reference: Reference) -> Seen:
    return Seen(images, reference.real.extractor, reference.real.keep)


def _pooled(rms: Tensor) -> float:
    """(N,) of images to that of all their pixels."""
    return float(rms.square().mean().sqrt())


def prior(
    sample: Callable[[Tensor], Tensor],
    embeddings: Mapping[str, Tensor],
    train_captions: Tensor,
    test_captions: Tensor,
) -> dict[str, Any]:
    """Prior samples beside the true embeddings of test images: cosine, retrieval, diversity, distance.

    sample: caption ids (n,) -> embeddings (n,D). embeddings: train (N,D), test (n,D), and text (n,D) of the captions
    of `test`. The baselines: another real image with the same caption, a prior sample for another caption, and the
    text embedding as if it were an image's. Retrieval: the nearest training image has the caption; where training
    images do not show all captions, the nearest of the test images themselves.
    """
    true, generator = embeddings["test"], torch.Generator().manual_seed(0)
    pool, which = test_captions.unique(return_inverse=True)
    shuffled = pool[
        (which + torch.randint(1, max(len(pool), 2), which.shape, generator=generator)) % len(pool)
    ]
    samples = sample(test_captions)
    given = {"": samples, "text_embedding_": embeddings["text"], "shuffled_caption_": sample(shuffled)}
    found: dict[str, Any] = {"among": "test"}
    candidates, ids = true, test_captions
    if known := bool(torch.isin(pool, train_captions).all()):
        same = embeddings["train"][_another(train_captions, test_captions, generator)]
        found = {"among": "train", "same_caption_image": _cosine(same, true)}
        candidates, ids = embeddings["train"], train_captions
        found["retrieval_of_real_images"] = float(retrieval(true, candidates, test_captions, ids))
    for name, x in given.items():
        found[f"{name}retrieval"] = float(retrieval(x, candidates, test_captions, ids))
        if not known and len(true) > 10:
            found[f"{name}retrieval_at_10"] = float(retrieval(x, candidates, test_captions, ids, k=10))
    varied = {}
    if test_captions.bincount().max() > 1:  # else no caption has a pair to compare
        varied["diversity"] = float(diversity(samples, test_captions))
        varied["diversity_of_real_images"] = float(diversity(true, test_captions))
    return {
        "value": _cosine(samples, true),
        "n": len(true),
        "shuffled_caption": _cosine(given["shuffled_caption_"], true),
        "text_embedding": _cosine(given["text_embedding_"], true),
        **found,
        **varied,
        "embedding_fd": float(frechet(samples, embeddings["train"])),
        "embedding_fd_floor": float(frechet(true, embeddings["train"])),
        "reference_n": len(embeddings["train"]),
    }


def clip(
    image: Tensor,
    text: Callable[[Sequence[str]], Tensor],
    caption_ids: Tensor,
    labels: Tensor,
    captions: Sequence[str],
    class_names: Sequence[str],
    class_of: Tensor,
) -> dict[str, Any]:
    """A CLIP on test images it was not trained on: image (N,D) embeddings, `text` of captions -> (n,D); both of unit
    length. Every image with a caption is a positive of it."""
    by_caption = text(captions)
    positives = caption_ids[:, None] == torch.arange(len(captions))
    prompts = []
    for number, name in enumerate(class_names):
        said = [c for c, k in zip(captions, class_of.tolist(), strict=True) if k == number]
        prompts.append([*said[:PROMPTS], *(template.format(name) for template in TEMPLATES)])
    ensembled = float(zero_shot_accuracy(image, [text(p) for p in prompts], labels))
    first = float(zero_shot_accuracy(image, [text(p[:1]) for p in prompts], labels))
    ks = [k for k in RECALLS if k < len(captions)]
    shown = positives.any(0)  # captions that an image of these has
    return {
        "value": ensembled,
        "n": len(image),
        "interval": wilson(ensembled, len(image)),
        "one_caption_a_class": first,
        "prompts_a_class": [len(p) for p in prompts],
        "templates": list(TEMPLATES),
        "image_to_text_recall": {str(k): recall_at_k(image, by_caption, positives, k) for k in ks},
        "text_to_image_recall": {
            str(k): recall_at_k(by_caption[shown], image, positives.T[shown], k)
            for k in RECALLS
            if k <= len(image)
        },
        "captions": len(captions),
        "modality_gap": float(modality_gap(image, by_caption[caption_ids])),
    }


def _cosine(x: Tensor, y: Tensor) -> float:
    return float(F.cosine_similarity(x.double(), y.double()).mean())


def _another(train_captions: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) for each wanted caption a random training image that has it."""
    order = torch.randperm(len(train_captions), generator=generator)
    pools = {int(c): order[train_captions[order] == c] for c in wanted.unique()}
    chosen = torch.empty_like(wanted)
    for caption, pool in pools.items():
        places = (wanted == caption).nonzero().flatten()
        chosen[places] = pool[torch.arange(len(places)) % len(pool)]
    return chosen
