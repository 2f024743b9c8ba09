"""One evaluation of a trained model: the content of metrics.json. table.py says it to a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from unclip import build
from unclip.data.embeddings import image_features
from unclip.evaluate import judge
from unclip.progress import Bar
from unclip.report.samples import Samples, draw, settings
from unclip.runs.trained import Trained

PRIOR_IMAGES = 500


def measure(trained: Trained, request: dict[str, Any], samples: Samples | None = None) -> dict[str, Any]:
    """All metrics at n and seed of the request; `samples` of every caption are used where they are there already."""
    data, seed, n = trained.data, request["seed"], request["n"]
    extractor = build.part(request["extractor"]).to(trained.model.device)
    cache = Path(request["paths"]["outputs"]) / "cache"
    each = max(n // len(data.captions), 1)
    if samples is None or samples.prompts != data.captions or samples.per_prompt != each:
        samples = draw(trained, data.captions, each, seed)
    metrics: dict[str, Any] = {"fd": judge.distance(samples.images, extractor, data, cache)}
    if hasattr(extractor, "logits"):
        metrics["prompt_consistency"] = judge.consistency(samples.images, samples.prompt_ids, data, extractor)
        metrics["round_trip"] = _round_trip(trained, extractor, n, seed)
    metrics["prior"] = _prior(trained, min(n, PRIOR_IMAGES), seed)
    return {**metrics, "seed": seed, "sampling": settings(trained)}


def _round_trip(trained: Trained, extractor: Any, n: int, seed: int) -> dict[str, Any]:
    test = trained.data.split("test").head(n)
    prompts = [test.captions[i] for i in test.caption_ids.tolist()]
    with Bar("round trip", len(test)) as bar:
        decoded = trained.model.reconstruct(test.images, prompts, seed, bar.update)
    return judge.round_trip(test.images, decoded, extractor)


def _prior(trained: Trained, n: int, seed: int) -> dict[str, Any]:
    data, model = trained.data, trained.model

    def sample(caption_ids: Tensor) -> Tensor:
        return model.embed(data.captions, caption_ids, seed)

    train = data.split("train").head(judge.REFERENCE)
    embeddings = {
        "test": image_features(model.clip, data.split("test").images[:n])["image"],
        "train": image_features(model.clip, train.images)["image"],
    }
    return judge.prior_alone(
        sample, embeddings, train.caption_ids, data.split("test").caption_ids[:n], len(data.captions)
    )
