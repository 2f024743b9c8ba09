"""The metrics that `unclip evaluate` knows by name, and what each needs. Imports no torch, and measures nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from unclip.config.problems import nearest

Needs = Literal["features", "logits", "text", "captions", "model", "checks", "upsampler", "autoencoder"]


@dataclass(frozen=True)
class Metric:
    """needs: features (all at once, not only their moments); logits or text (which not every extractor gives); captions
    of every picture; checks (data that offer exact ones); a trained model; an upsampler or autoencoder, as a part of a
    model or by itself. per_cell: depends on how the decoder is sampled."""

    needs: frozenset[Needs] = frozenset()
    slow: bool = False  # only when asked for
    per_cell: bool = True


METRICS = {
    "fd": Metric(),
    "fd_infinity": Metric(frozenset({"features"}), slow=True),
    "kid": Metric(frozenset({"features"})),
    "cmmd": Metric(frozenset({"features", "text"})),
    "prdc": Metric(frozenset({"features"})),
    "inception_score": Metric(frozenset({"logits"})),
    "memorisation": Metric(),
    "brightness": Metric(),
    "prompt_consistency": Metric(frozenset({"logits", "captions"})),
    "prompt_retrieval": Metric(frozenset({"text", "captions"})),
    "attributes": Metric(frozenset({"captions", "checks"})),
    "round_trip": Metric(frozenset({"logits", "model"})),
    "upsampling": Metric(frozenset({"features", "upsampler"}), per_cell=False),
    "reconstruction": Metric(frozenset({"features", "autoencoder"}), per_cell=False),
    "prior": Metric(frozenset({"model"}), per_cell=False),
    "clip": Metric(frozenset({"model"}), per_cell=False),
    "nll": Metric(frozenset({"model"}), slow=True, per_cell=False),
}
WORDS = {
    "logits": "the verdicts of a classifier of the data's own classes: extractor=fashion_mnist for garments",
    "text": "a CLIP as extractor: extractor=clip extractor.run=RUN, or open_clip",
    "captions": "pictures of known captions, and a folder or an unconditional decoder has none: run=FOLDER",
    "checks": "data whose pictures can be checked exactly: data=garments or data=shapes",
    "model": "a trained model with a CLIP: run=FOLDER",
    "upsampler": "an upsampler, and there is none: run= the results folder of a cascade, or an upsampler's run",
    "autoencoder": "an autoencoder, and there is none: run= a decoder in latents, its results, or an autoencoder's run",
}


def wrong_names(given: Iterable[str]) -> list[tuple[str, str]]:
    """(name, why) of each that is no metric."""
    possible = [*METRICS, "all"]
    found = []
    for name in given:
        if name not in possible:
            near = nearest(name, possible)
            found.append((name, f"is no metric{near}; possible: {', '.join(possible)}"))
    return found


def lacking(name: str, offered: Iterable[str]) -> str | None:
    """What a metric needs that is not offered, in words; None where nothing is missing."""
    missing = METRICS[name].needs - set(offered) - {"features"}
    return "; ".join(f"needs {WORDS[need]}" for need in sorted(missing)) or None


def of_stage(stage: str) -> list[str]:
    """The metrics of a stage that real images judge, without a decoder; none of any other."""
    return [name for name, metric in METRICS.items() if stage in metric.needs]


def chosen(asked: Iterable[str] | None, offered: Iterable[str]) -> list[str]:
    """The metrics to measure, in the order of the catalogue: those asked for; of all those that what is offered
    allows where `all` is among them; None: of these, those that are not slow."""
    offered, asked = set(offered), None if asked is None else set(asked)
    possible = [name for name in METRICS if lacking(name, offered) is None]
    if asked is None:
        return [name for name in possible if not METRICS[name].slow]
    return [name for name in METRICS if name in asked or ("all" in asked and name in possible)]
