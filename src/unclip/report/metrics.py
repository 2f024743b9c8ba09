"""One evaluation of a trained model: the content of metrics.json. table.py says it to a person, evaluation.py
shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.data.embeddings import image_features
from unclip.data.module import FEW
from unclip.evaluate import judge, stages
from unclip.progress import Bar
from unclip.report import copies
from unclip.report.judges import REFERENCE, SAMPLES, Judge, for_run
from unclip.report.likelihood import nll
from unclip.report.samples import Samples, draw, settings
from unclip.runs.trained import Trained

PRIOR_IMAGES = 500
CLIP_IMAGES = 2000
HELD_OUT = 200  # pictures of held-out combinations, at most


def measure(trained: Trained, request: dict[str, Any], samples: Samples | None = None) -> dict[str, Any]:
    """All metrics of a model at n and seed of the request; `samples` of every caption are used where they are there."""
    return of_samples(trained, request, for_run(trained, request), drawn(trained, request, samples))


def of_samples(trained: Trained, request: dict[str, Any], by: Judge, samples: Samples) -> dict[str, Any]:
    """All metrics of a model whose samples are drawn."""
    measured = of_pictures(trained, request, by, samples)
    return {**measured, **of_model(trained, request, by, by.names)}


def of_pictures(trained: Trained, request: dict[str, Any], by: Judge, samples: Samples) -> dict[str, Any]:
    """What is measured of samples; of pictures of held-out combinations too, which are drawn here."""
    if trained.model.clip is None:  # of no caption
        return by.pictures(samples.images)
    numbers = {caption: i for i, caption in enumerate(trained.data.captions)}
    asked_for = torch.tensor([numbers[prompt] for prompt in samples.prompts])
    measured = by.pictures(samples.images, asked_for[samples.prompt_ids])
    if "attributes" in by.names:
        measured["attributes"] = _attributes(trained, request, samples)
    return measured


def drawn(
    trained: Trained,
    request: dict[str, Any],
    samples: Samples | None = None,
    embeddings: Tensor | None = None,
) -> Samples:
    """n samples, an equal share a caption; `samples` where they are these."""
    captions, each = prompts(trained, request)
    if samples is not None and samples.prompts == captions and samples.per_prompt == each:
        return samples
    return draw(trained, captions, each, request["seed"], embeddings)


def prompts(trained: Trained, request: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """The captions to sample, n at most, and how many pictures of each; an empty one for an unconditional decoder."""
    n = request["n"] or SAMPLES
    captions = trained.prompts(n)[:n]
    return captions, max(n // len(captions), 1)


def of_model(trained: Trained, request: dict[str, Any], by: Judge, names: Sequence[str]) -> dict[str, Any]:
    """What is measured of the model beyond its samples, and what defines these."""
    n, seed = request["n"] or SAMPLES, request["seed"]
    found: dict[str, Any] = {}
    if "round_trip" in names:
        found["round_trip"] = round_trip(trained, by.extractor, n, seed)
    found |= copies.numbers(trained.copiers, names, by, request)
    if "prior" in names:
        found["prior"] = _prior(trained, min(n, PRIOR_IMAGES), seed)
    if "clip" in names:
        found["clip"] = _clip(trained)
    if "nll" in names:
        found["nll"] = nll(trained, n, seed, request["nll_steps"])
    return {**found, "seed": seed, "sampling": settings(trained)}


def round_trip(trained: Trained, extractor: Any, n: int, seed: int) -> dict[str, Any]:
    """n test images through CLIP and decoder."""
    test = trained.data.split("test").head(n)
    prompts = [test.captions[i] for i in test.caption_ids.tolist()]
    with Bar("round trip", len(test)) as bar:
        decoded = trained.model.reconstruct(test.images, prompts, seed, bar.update)
    clip, real = trained.model.clip, trained.shown.split("test").head(n)
    times = trained.shown.image_size // trained.data.image_size  # 1 but for a cascade
    seen = decoded if times == 1 else F.avg_pool2d(decoded.float(), times).round().to(torch.uint8)
    embeddings = {
        "before": image_features(clip, test.images)["image"],
        "after": image_features(clip, seen)["image"],
    }
    return stages.round_trip(real.images, decoded, embeddings, extractor)


def _prior(trained: Trained, n: int, seed: int) -> dict[str, Any]:
    data, model = trained.data, trained.model

    def sample(caption_ids: Tensor) -> Tensor:
        return model.embed(data.captions, caption_ids, seed)

    train, test = data.split("train").head(REFERENCE), data.split("test").head(n)
    used, which = test.caption_ids.unique(return_inverse=True)
    embeddings = {
        "text": model.text([data.captions[i] for i in used.tolist()])["text"].cpu()[which],
        "test": image_features(model.clip, test.images)["image"],
        "train": image_features(model.clip, train.images)["image"],
    }
    return stages.prior(sample, embeddings, train.caption_ids, test.caption_ids)


def _clip(trained: Trained) -> dict[str, Any]:
    data, model = trained.data, trained.model
    test, class_of = data.split("test").head(CLIP_IMAGES), judge.class_of_caption(data)
    used = torch.arange(len(data.captions))
    caption_ids = test.caption_ids
    if len(used) > FEW:  # of many captions, those of these images
        used, caption_ids = caption_ids.unique(return_inverse=True)
    return stages.clip(
        image_features(model.clip, test.images)["image"],
        lambda captions: model.text(captions)["text"].cpu(),
        caption_ids,
        test.labels,
        [data.captions[i] for i in used.tolist()],
        data.class_names,
        class_of[used],
    )


def _attributes(trained: Trained, request: dict[str, Any], samples: Samples) -> dict[str, Any]:
    """Do samples show what was asked for: of captions such as training has, and of combinations that it never has."""
    data = trained.shown
    checks, test, held_out = data.attribute_checks(), data.split("test"), data.held_out_images()
    assert checks is not None
    found = {
        **checks.agreement(samples.images, [samples.prompts[i] for i in samples.prompt_ids.tolist()]),
        "real_test_images": checks.agreement(test.images, test.own_captions),
    }
    if held_out is None:
        return found
    asked = list(dict.fromkeys(held_out.own_captions))[: min(request["n"] or SAMPLES, HELD_OUT)]
    drawn = draw(trained, asked, 1, request["seed"])
    return {
        **found,
        "held_out": {
            **checks.agreement(drawn.images, asked),
            "real_test_images": checks.agreement(held_out.images, held_out.own_captions),
        },
    }
