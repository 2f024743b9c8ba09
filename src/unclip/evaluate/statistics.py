"""Features and moments of real images, extracted once and cached: every evaluation is measured against the
same ones. A file that belongs to other images, another extractor or another count is refused, never used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from unclip.config.problems import Failure
from unclip.data.cache import DamagedFile, load_tensors, save_tensors, say
from unclip.data.fingerprint import fingerprint
from unclip.data.image_text import Split
from unclip.evaluate.extractors import Extractor
from unclip.evaluate.moments import Moments, StreamedMoments

if TYPE_CHECKING:
    from unclip.data.module import ImageTextData  # brings Lightning, which images of a path do not need

IDENTITY = "identity"
VERSION = 2  # of what is computed and kept here: an older file is never found
PART = 1000  # images whose features are held at once where only their moments are kept


class StatisticsMismatch(Failure):
    """Statistics of something else than what was asked for; the message says in what they differ."""


@dataclass(frozen=True)
class RealImages:
    """Real images uint8 (N,C,H,W) and what identifies them: a data set's name, or `images`; their split, if any."""

    images: Tensor
    data: str
    data_fingerprint: str
    split: Split | None

    @classmethod
    def of_split(cls, data: ImageTextData, split: Split) -> RealImages:
        whole = data.split(split)
        return cls(whole.images, type(data).__name__, whole.fingerprint, split)

    @classmethod
    def of_images(cls, images: Tensor) -> RealImages:
        """Wherever they come from: they are identified by their content."""
        return cls(images, "images", fingerprint(images), None)

    def __str__(self) -> str:
        return f"{self.split or 'reference'} images"


def identity(
    extractor: Extractor, real: RealImages, count: int, kept: Literal["features", "moments"]
) -> dict[str, Any]:
    """All that the statistics of the first `count` of these images depend on."""
    return {
        "version": VERSION,
        "kept": kept,
        "extractor": type(extractor).__name__,
        "extractor_fingerprint": extractor.fingerprint,
        "preprocessing": extractor.preprocessing,
        "data": real.data,
        "data_fingerprint": real.data_fingerprint,
        "split": real.split,
        "count": count,
    }


def real_features(
    extractor: Extractor,
    data: ImageTextData,
    split: Split,
    folder: str | Path,
    count: int | None = None,
) -> Tensor:
    """Features (count,F) float64 of the first `count` images of a split (None: all), from `folder` where it has them,
    else computed and written there, as float32: the precision that networks compute them in.

    Raises ValueError for more images than there are, StatisticsMismatch; a damaged file is named and
    replaced.
    """
    return features_of(extractor, RealImages.of_split(data, split), folder, count)


def features_of(
    extractor: Extractor, real: RealImages, folder: str | Path, count: int | None = None
) -> Tensor:
    """`real_features` of any images."""
    count = _checked(real, count)
    expected = identity(extractor, real, count, "features")

    def compute() -> dict[str, Tensor]:
        return {"features": extractor.features(real.images[:count]).float()}

    return _cached(Path(folder), expected, f"features of {count} {real}", compute)["features"].double()


def moments_of(
    extractor: Extractor, real: RealImages, folder: str | Path, count: int | None = None
) -> Moments:
    """Mean and covariance alone, of the first `count` of these images, cached as `real_features` are.

    Never holds all features in float64: at 2048 features, 50,000 images take no more than 1,000 do.
    """
    count = _checked(real, count)
    expected = identity(extractor, real, count, "moments")

    def parts() -> Iterator[Tensor]:
        """Features (n,F) float32, of the images or of the file that has them: the same moments from either."""
        kept = identity(extractor, real, count, "features")
        try:
            yield from _load(_path(Path(folder), kept), kept)["features"].split(PART)
        except (FileNotFoundError, DamagedFile):
            for part in real.images[:count].split(PART):
                yield extractor.features(part).float()

    def compute() -> dict[str, Tensor]:
        streamed = StreamedMoments()
        for part in parts():
            streamed.update(part.double())
        return streamed.moments._asdict()

    return Moments(**_cached(Path(folder), expected, f"moments of {count} {real}", compute))


def _checked(real: RealImages, count: int | None) -> int:
    there = len(real.images)
    count = there if count is None else count
    if there < 2:
        what = f"the {real.split} split holds" if real.split else "the reference is"
        raise ValueError(f"{what} {there} {'image' if there == 1 else 'images'}: statistics need at least 2")
    if not 2 <= count <= there:
        where = (
            f"the {there} images of the {real.split} split" if real.split else f"the {there} images there are"
        )
        raise ValueError(f"count = {count}: must be from 2 to {where}")
    return count


def _path(folder: Path, expected: Mapping[str, Any]) -> Path:
    return folder / f"statistics-{fingerprint(expected)[:24]}.safetensors"


def _cached(
    folder: Path, expected: Mapping[str, Any], what: str, compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    path, what = _path(folder, expected), f"{expected['extractor']} {what}"
    try:
        return _load(path, expected)
    except FileNotFoundError:
        say(f"{what}: computing")
    except DamagedFile as error:
        say(f"{what}: computing again, {error}")
    tensors = compute()
    _save(path, tensors, expected)
    return tensors


def _save(path: Path, tensors: Mapping[str, Tensor], whose: Mapping[str, Any]) -> None:
    save_tensors(path, tensors, {IDENTITY: json.dumps(dict(whose))})


def _load(path: Path, expected: Mapping[str, Any]) -> dict[str, Tensor]:
    tensors, metadata = load_tensors(path)
    found = json.loads(metadata.get(IDENTITY, "{}"))
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        raise StatisticsMismatch(
            f"{path} holds statistics of something else: "
            + "; ".join(f"{name} is {found.get(name)!r}, not {expected[name]!r}" for name in differing)
        )
    return tensors
