"""What is known of a metric by its name: what to call it, whether less or more is better, where its floor stands.

The one place that knows. A name is a dotted path into metrics.json (`fd`, `prdc.recall`; a mapping means its "value"),
or what a training run logged (`val/fd_n500`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["lower", "higher", ""]


@dataclass(frozen=True)
class Measure:
    """floor: the dotted path of what real images get."""

    label: str
    better: Better
    floor: str = ""

    @property
    def heading(self) -> str:
        return self.label + {"lower": " ↓", "higher": " ↑", "": ""}[self.better]


MEASURES = {
    "fd": Measure("Frechet distance", "lower", "fd.floor"),
    "nll": Measure("bits per dimension", "lower"),
    "prompt_consistency": Measure("prompt consistency", "higher", "prompt_consistency.real_test_images"),
    "attributes": Measure("every attribute right", "higher", "attributes.real_test_images"),
    "attributes.held_out": Measure(
        "held-out combinations right", "higher", "attributes.held_out.real_test_images"
    ),
    "prdc.precision": Measure("precision", "higher", "prdc.floor.precision"),
    "prdc.recall": Measure("recall", "higher", "prdc.floor.recall"),
    "round_trip": Measure("class kept in the round trip", "higher"),
    "prior": Measure("prior's cosine", "higher", "prior.same_caption_image"),
    "prior.retrieval": Measure("prior's retrieval", "higher", "prior.retrieval_of_real_images"),
    "clip": Measure("CLIP's zero-shot accuracy", "higher"),
    "upsampling": Measure("upsampled images' Frechet distance", "lower", "upsampling.floor"),
    "reconstruction": Measure("autoencoder's error", "lower"),
    "reconstruction.fd": Measure("reconstructions' Frechet distance", "lower", "reconstruction.fd.floor"),
    "reconstruction.psnr": Measure("autoencoder's PSNR", "higher"),
    "kid": Measure("KID", "lower", "kid.floor"),
    "cmmd": Measure("CMMD", "lower", "cmmd.floor"),
    "fd_infinity": Measure("FD at infinite N", "lower", "fd_infinity.floor"),
    "prompt_retrieval": Measure("prompt retrieval", "higher"),
    "brightness": Measure("brightness distance", "lower", "brightness.floor"),
    "prdc.density": Measure("density", "higher", "prdc.floor.density"),
    "prdc.coverage": Measure("coverage", "higher", "prdc.floor.coverage"),
    "round_trip.embedding_cosine": Measure("cosine kept in the round trip", "higher"),
    "prior.embedding_fd": Measure("prior's distance", "lower", "prior.embedding_fd_floor"),
    "prior.diversity": Measure("prior's diversity", "", "prior.diversity_of_real_images"),
    "inception_score": Measure("classifier's score", "higher", "inception_score.real_images"),
    "memorisation": Measure("distance to the nearest real image", "", "memorisation.baseline"),
    "memorisation.share_closer": Measure("share suspiciously near", "lower"),
}  # in the order in which they are shown
SHARES = re.compile(
    r"prompt_consistency|attributes(\.held_out)?|prdc\.(precision|recall|coverage)|round_trip|clip"
    r"|memorisation\.share_closer|val/consistency_n\d+|val/.*accuracy.*"
)  # from 0 to 1, and so are their intervals shown
FIRST = 6  # are shown where nobody asked for others
LOGGED = (
    (re.compile(r"val/fd_n(\d+)"), "Frechet distance, N = {}", "lower"),
    (re.compile(r"val/consistency_n(\d+)"), "prompt consistency, N = {}", "higher"),
    (re.compile(r"val/(.*(?:accuracy|cosine).*)"), "{}", "higher"),
    (re.compile(r"val/(loss.*)"), "validation {}", "lower"),
    (re.compile(r"val/(.*(?:fd|fid|kid|nll).*)"), "{}", "lower"),
    (re.compile(r"train/(loss)"), "training {}", "lower"),
)  # of training runs; what matches none is shown without saying which way is better


def measure(name: str) -> Measure:
    """What is known of a metric; of an unknown one its name."""
    if name in MEASURES:
        return MEASURES[name]
    for pattern, label, better in LOGGED:
        if found := pattern.fullmatch(name):
            return Measure(label.format(found[1].replace("_", " ")), better)  # type: ignore[arg-type]
    return Measure(name, "")


def share(name: str) -> bool:
    """Whether it is known to lie between 0 and 1."""
    return SHARES.fullmatch(name) is not None


def flat(measured: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of a metrics.json under its dotted path, the "value" of a mapping under the mapping's own."""
    found: dict[str, float] = {}
    for key, value in measured.items():
        path = prefix.removesuffix(".") if key == "value" and prefix else f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = float(value)
    return found


def shown(present: Iterable[str]) -> list[str]:
    """The metrics to show of those present, in order: those of MEASURES, then those of training runs, losses last."""
    there = set(present)
    known = [name for name in MEASURES if name in there]
    logged = [name for name in there if name.startswith("val/")]
    rank = {pattern: i for i, (pattern, _, _) in enumerate(LOGGED)}

    def order(name: str) -> tuple[int, int, str]:
        place = next((rank[p] for p, _, _ in LOGGED if p.fullmatch(name)), len(LOGGED))
        return place, -int(n[1]) if (n := re.search(r"_n(\d+)$", name)) else 0, name

    return [*known, *sorted(logged, key=order)]


def resolved(name: str, present: Iterable[str]) -> str:
    """The full name of a metric: fd for fd.value, val/fd_n500 for fd_n500; an unknown one stays as it is."""
    there = set(present)
    return next((n for n in (name, name.removesuffix(".value"), f"val/{name}") if n in there), name)


def near(name: str, present: Iterable[str]) -> str:
    """`; nearest: fd` of a metric that nobody logged, and what is possible."""
    there = list(present)
    possible = shown(there) or sorted(there)
    close = difflib.get_close_matches(name, there, 1, 0.5) or [p for p in possible if name in p][:1]
    return (f"; nearest: {close[0]}" if close else "") + f"; possible: {', '.join(possible)}"


def best(name: str, values: Mapping[str, float]) -> str | None:
    """The key of the best value; None where nothing is better than another, or all are equal."""
    better = measure(name).better
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    if not better or len(set(finite.values())) < 2:
        return None
    return (min if better == "lower" else max)(finite, key=finite.__getitem__)


def how(name: str, measured: Mapping[str, Any]) -> str:
    """`N = 500, FashionMnistClassifier, against the first 10000 training images` of a metrics.json; "" where it says
    nothing of it."""
    of = measured.get(name.partition(".")[0])
    if not isinstance(of, Mapping):
        return ""
    parts = [f"N = {of['n']}"] if "n" in of else []
    parts += [str(of[key]) for key in ("extractor", "classifier") if key in of]
    parts += [f"against the {of['reference']}"] if "reference" in of else []
    return ", ".join(parts)


def number(value: float) -> str:
    """Four digits that matter, none of them an exponent where that can be helped."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    size = abs(value)
    if size >= 10000:
        return f"{value:,.0f}"
    if size and size < 1e-3:
        return f"{value:.2e}"
    return f"{value:.{2 if size >= 10 else 3 if size >= 1 else 4}f}"
