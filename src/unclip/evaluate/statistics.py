"""Features and moments of real images, extracted once and cached: every evaluation is measured against the
same ones. A file that belongs to other data, another extractor or another count is refused, never used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from unclip.data.cache import DamagedFile, load_tensors, save_tensors, say
from unclip.data.fingerprint import fingerprint
from unclip.data.image_text import Split
from unclip.data.module import ImageTextData
from unclip.evaluate.distances import Moments, moments
from unclip.evaluate.extractors import Extractor

IDENTITY = "identity"


class StatisticsMismatch(ValueError):
    """Statistics of something else than what was asked for; the message says in what they differ."""


@dataclass(frozen=True)
class RealStatistics:
    identity: Mapping[str, Any]  # of what: see `identity`
    features: Tensor  # (N,F) float64

    @cached_property
    def moments(self) -> Moments:
        return moments(self.features)

    def save(self, path: Path) -> None:
        """Atomically. Features are kept as float32, the precision networks compute them in."""
        save_tensors(path, {"features": self.features.float()}, {IDENTITY: json.dumps(dict(self.identity))})

    @classmethod
    def load(cls, path: Path, expected: Mapping[str, Any]) -> RealStatistics:
        """Raises FileNotFoundError, DamagedFile, or StatisticsMismatch where the file is of something
        else."""
        tensors, metadata = load_tensors(path)
        found = json.loads(metadata.get(IDENTITY, "{}"))
        differing = [name for name in expected if found.get(name) != expected[name]]
        if differing:
            raise StatisticsMismatch(
                f"{path} holds statistics of something else: "
                + "; ".join(f"{name} is {found.get(name)!r}, not {expected[name]!r}" for name in differing)
            )
        return cls(expected, tensors["features"].double())


def identity(extractor: Extractor, data: ImageTextData, split: Split, count: int) -> dict[str, Any]:
    """All that the statistics of the first `count` images of a split depend on."""
    return {
        "extractor": type(extractor).__name__,
        "extractor_fingerprint": extractor.fingerprint,
        "preprocessing": extractor.preprocessing,
        "data": type(data).__name__,
        "data_fingerprint": data.split(split).fingerprint,
        "split": split,
        "count": count,
    }


def real_statistics(
    extractor: Extractor,
    data: ImageTextData,
    split: Split,
    folder: str | Path,
    count: int | None = None,
) -> RealStatistics:
    """Of the first `count` images of a split (None: all), from `folder` where it has them, else computed and
    written there.

    Raises ValueError for more images than there are, StatisticsMismatch; a damaged file is named and
    replaced.
    """
    images = data.split(split).images
    count = len(images) if count is None else count
    if not 2 <= count <= len(images):
        raise ValueError(f"count = {count}: must be from 2 to the {len(images)} images of the {split} split")
    expected = identity(extractor, data, split, count)
    path = Path(folder) / f"statistics-{fingerprint(expected)[:24]}.safetensors"
    what = f"{expected['extractor']} features of {count} {split} images"
    try:
        return RealStatistics.load(path, expected)
    except FileNotFoundError:
        say(f"{what}: computing")
    except DamagedFile as error:
        say(f"{what}: computing again, {error}")
    statistics = RealStatistics(expected, extractor.features(images[:count]).float().double())
    statistics.save(path)
    return statistics
