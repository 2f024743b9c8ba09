"""One evaluation of a trained model: the content of metrics.json. table.py says it to a person, evaluation.py
shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from unclip.data.embeddings import image_features
from unclip.evaluate import judge, stages
from unclip.progress import Bar
from unclip.report.judges import REFERENCE, SAMPLES, Judge, for_run
from unclip.report.likelihood import nll
from unclip.report.samples import Samples, draw, settings
from unclip.runs.trained import Trained

PRIOR_IMAGES = 500
CLIP_IMAGES = 2000


def measure(trained: Trained, request: dict[str, Any], samples: Samples | None = None) -> dict[str, Any]:
    """All metrics of a model at n and seed of the request; `samples` of every caption are used where they are there."""
    return of_samples(trained, request, for_run(trained, request), drawn(trained, request, samples))


def of_samples(trained: Trained, request: dict[str, Any], by: Judge, samples: Samples) -> dict[str, Any]:
    """All metrics of a model whose samples are drawn."""
    pictures = by.pictures(samples.images, samples.prompt_ids)
    return {**pictures, **of_model(trained, request, by, by.names)}


def drawn(
    trained: Trained,
    request: dict[str, Any],
    samples: Samples | None = None,
    embeddings: Tensor | None = None,
) -> Samples:
    """n samples, an equal share a caption; `samples` where they are these."""
    captions, each = trained.data.captions, per_caption(trained, request)
    if samples is not None and samples.prompts == captions and samples.per_prompt == each:
        return samples
    return draw(trained, captions, each, request["seed"], embeddings)


def per_caption(trained: Trained, request: dict[str, Any]) -> int:
    """Samples a caption."""
    return max((request["n"] or SAMPLES) // len(trained.data.captions), 1)


def of_model(trained: Trained, request: dict[str, Any], by: Judge, names: Sequence[str]) -> dict[str, Any]:
    """What is measured of the model beyond its samples, and what defines these."""
    n, seed = request["n"] or SAMPLES, request["seed"]
    found: dict[str, Any] = {}
    if "round_trip" in names:
        found["round_trip"] = round_trip(trained, by.extractor, n, seed)
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
    clip = trained.model.clip
    embeddings = {
        "before": image_features(clip, test.images)["image"],
        "after": image_features(clip, decoded)["image"],
    }
    return stages.round_trip(test.images, decoded, embeddings, extractor)


def _prior(trained: Trained, n: int, seed: int) -> dict[str, Any]:
    data, model = trained.data, trained.model

    def sample(caption_ids: Tensor) -> Tensor:
        return model.embed(data.captions, caption_ids, seed)

    train = data.split("train").head(REFERENCE)
    embeddings = {
        "test": image_features(model.clip, data.split("test").images[:n])["image"],
        "train": image_features(model.clip, train.images)["image"],
    }
    return stages.prior(
        sample, embeddings, train.caption_ids, data.split("test").caption_ids[:n], len(data.captions)
    )


def _clip(trained: Trained) -> dict[str, Any]:
    data, model = trained.data, trained.model
    test = data.split("test").head(CLIP_IMAGES)
    return stages.clip(
        image_features(model.clip, test.images)["image"],
        lambda captions: model.text(captions)["text"].cpu(),
        test.caption_ids,
        test.labels,
        data.captions,
        data.class_names,
        judge.class_of_caption(data),
    )
