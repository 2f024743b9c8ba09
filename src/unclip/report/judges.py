"""What pictures are measured by, made once per evaluation: the extractor, the real images, the metrics that both allow.
Here a request meets data, and what does not fit is refused before anything is sampled; the numbers are judge.py's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from torch import Tensor

from unclip import build
from unclip.config.problems import Problem, Problems
from unclip.data.image_text import Split
from unclip.data.images import resized
from unclip.data.module import ImageTextData
from unclip.evaluate import catalogue, judge
from unclip.evaluate.extractors import Extractor, check_independent
from unclip.evaluate.image_sets import load_images
from unclip.evaluate.moments import Moments
from unclip.evaluate.seen import Reference, Seen
from unclip.evaluate.statistics import RealImages, features_of, moments_of
from unclip.runs.trained import Copiers, Trained

SAMPLES = 500  # of a run, where n is not given
REFERENCE = 10_000  # images that distances are measured against, where reference_n is not given
WORDS = {"train": "training", "validation": "validation", "test": "test"}
PIXELS = ("memorisation", "brightness")  # metrics that compare pixels


@dataclass(frozen=True)
class Judge:
    """All that pictures are measured by, made once per evaluation."""

    extractor: Extractor
    names: list[str]  # the metrics
    reference: Reference
    settings: judge.Settings
    asked: judge.Asked | None = None  # its captions belong to whoever is measured

    def pictures(self, images: Tensor, caption_ids: Tensor | None = None) -> dict[str, Any]:
        """The metrics of pictures, uint8 (N,C,H,W), caption_ids (N,) where they were asked for."""
        seen = Seen(images, self.extractor, self.reference.real.keep)
        asked = None
        if self.asked is not None and caption_ids is not None:
            asked = replace(self.asked, caption_ids=caption_ids)
        return judge.pictures(self.names, seen, self.reference, self.settings, asked)


def for_run(trained: Trained, request: dict[str, Any]) -> Judge:
    """What a trained model is measured by: training images of its own data; test images give the floor. Raises
    Problems before anything is sampled."""
    data, n = trained.shown, request["n"] or SAMPLES
    extractor = extractor_of(request, data.split("test").images).to(trained.model.device)
    offered = _offered(extractor, data.split("test").images, len(data.class_names))
    allowed = list(offered)
    if trained.model.clip is not None:  # else it is unconditional
        try:
            check_independent(extractor, trained.model.clip)
        except ValueError as error:
            raise Problems([Problem("", None, str(error))]) from None
        allowed += ["captions", "model", *(["checks"] if data.attribute_checks() is not None else [])]
    allowed += ["upsampler"] if trained.model.upsamplers else []
    allowed += ["autoencoder"] if trained.model.decoder.latents else []
    names = names_of(request, allowed)
    if "nll" in names and trained.model.decoder.latents is not None:
        if "nll" in request["metrics"]:
            why = "is a bound for pixels, and this decoder works in an autoencoder's latents: other metrics"
            raise Problems([Problem("metrics", "nll", why)])
        names.remove("nll")  # metrics=all
    reference = _split(data, "train", n, extractor, names, request)
    asked = None
    if offered:
        asked = judge.Asked(
            torch.zeros(0, dtype=torch.int64), data.captions, data.class_names, judge.class_of_caption(data),
            Seen(data.split("test").images, extractor), data.split("test").labels,
        )  # fmt: skip
    return Judge(extractor, names, reference, _settings(request), asked)


def for_copiers(copiers: Copiers, names: list[str], request: dict[str, Any]) -> Judge:
    """What an upsampler or an autoencoder by itself is measured by: likewise. Raises Problems."""
    data = copiers.shown
    extractor = extractor_of(request, data.split("test").images).to(copiers.device)
    reference = _split(data, "train", request["n"] or SAMPLES, extractor, names, request)
    return Judge(extractor, names, reference, _settings(request))


def reference_of(data: ImageTextData, by: Judge, request: dict[str, Any]) -> Reference:
    """The real images of other data than those that the judge has: at another size, say."""
    return _split(data, "train", request["n"] or SAMPLES, by.extractor, by.names, request)


def for_images(request: dict[str, Any]) -> tuple[Judge, Tensor]:
    """What pictures without a run are measured by, and the pictures. Raises Problems."""
    images, reference = _sets(request)
    source, split = reference if isinstance(reference, tuple) else (None, None)
    everything = reference if isinstance(reference, Tensor) else reference[0].split(reference[1]).images
    extractor = extractor_of(request, everything)
    names = names_of(request, _offered(extractor, everything))
    try:
        extractor.features(images[:1])
    except ValueError as error:
        raise Problems([Problem("images", request["images"], str(error))]) from None
    if images.shape[1:] != everything.shape[1:]:
        names = _without_pixels(names, request, images, everything)
    if source is not None and split is not None:
        real = _split(source, split, len(images), extractor, names, request)
    else:
        real = _folder(everything, len(images), extractor, names, request)
    return Judge(extractor, names, real, _settings(request)), images


def _split(
    data: ImageTextData,
    split: Split,
    n: int,
    extractor: Extractor,
    names: Sequence[str],
    request: dict[str, Any],
) -> Reference:
    """The first reference_n images of a split; for the floor the first n of the test split, of training beside that."""
    everything = data.split(split).images
    held_out: Split = "train" if split == "test" else "test"
    there = len(everything)
    count = _at_most("reference_n", request["reference_n"] or min(REFERENCE, there), there)
    keep = _keeps(names)

    def seen(split: Split, count: int) -> Seen:
        return _real(RealImages.of_split(data, split), count, extractor, keep, request)

    says = f"first {count} {WORDS[split]} images"
    others = seen(held_out, min(n, len(data.split(held_out))))
    return Reference(seen(split, count), others, everything, says, f"real {WORDS[held_out]} images")


def _folder(
    everything: Tensor, n: int, extractor: Extractor, names: Sequence[str], request: dict[str, Any]
) -> Reference:
    """reference_n of real images, and n others for the floor: of what is left, else a part against the rest."""
    total, says, keep = len(everything), request["reference"], _keeps(names)
    count = request["reference_n"] or min(REFERENCE, total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))  # files may be sorted by class
    which = f"{count} of the {total} images of {says}" if count < total else f"{count} images of {says}"
    chosen = everything[order[:count].sort().values]
    real = _real(RealImages.of_images(chosen), count, extractor, keep, request)
    start = count if total - count >= n else 0
    if start == 0 and total < 2 * n:
        return Reference(real, None, everything, which, "")
    held_out = Seen(everything[order[start : start + n]], extractor, keep)
    rest = everything[torch.cat([order[:start], order[start + n :]])]
    if start:
        return Reference(real, held_out, everything, which, "other real images", others=rest)
    against = Seen(rest, extractor, keep)
    return Reference(real, held_out, everything, which, "the real images against the rest", against, rest)


def _real(real: RealImages, count: int, extractor: Extractor, keep: bool, request: dict[str, Any]) -> Seen:
    """The first `count` of real images, from the cache where it has what is needed of them."""
    cache = Path(request["paths"]["outputs"]) / "cache"
    known: Tensor | Moments = (
        features_of(extractor, real, cache, count) if keep else moments_of(extractor, real, cache, count)
    )
    return Seen(real.images[:count], extractor, keep, known)


def _keeps(names: Sequence[str]) -> bool:
    """Whether all features are needed at once."""
    return any("features" in catalogue.METRICS[name].needs for name in names)


def _sets(request: dict[str, Any]) -> tuple[Tensor, Tensor | tuple[ImageTextData, Split]]:
    """Pictures, and the reference: images, or a data set and which split of it. Raises Problems, of both at once."""
    found: list[Problem] = []
    sets: dict[str, Tensor] = {}
    named: tuple[ImageTextData, Split] | None = None
    for key in ("images", "reference"):
        try:
            if key == "images" or Path(request[key]).exists():
                sets[key] = load_images(request[key], request["skip_corrupt"])
            else:
                name, _, split = request[key].rpartition(":")
                named = build.named_data(name, request["paths"]["data"]), split
                sets[key] = named[0].split(split).images
        except ValueError as error:
            found.append(Problem(key, request[key], str(error)))
    for key, of in (("n", "images"), ("reference_n", "reference")):
        if of in sets and request[key] and request[key] > len(sets[of]):
            found.append(Problem(key, request[key], f"must be at most the {len(sets[of])} images there are"))
    if len(sets) == 2 and sets["images"].shape[1] != sets["reference"].shape[1]:
        why = f"has images of {sets['images'].shape[1]} channels, the reference {sets['reference'].shape[1]}"
        found.append(Problem("images", request["images"], why))
    if found:
        raise Problems(found)
    images = sets["images"]
    n = request["n"] or len(images)
    if n < len(images):
        images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n]]
    if named is None:
        return images, sets["reference"]
    source = named[0]
    if getattr(source, "resize", None) == "pad" and max(images.shape[-2:]) < source.image_size:
        images = resized(images, source.image_size, "pad")  # as the data's own images were
    return images, named


def _without_pixels(
    names: list[str], request: dict[str, Any], images: Tensor, reference: Tensor
) -> list[str]:
    """The metrics but those that compare pixels, for images of another size. Raises Problems if asked for by name."""
    here, there = ("x".join(map(str, x.shape[-2:])) for x in (images, reference))
    if asked := [name for name in request["metrics"] or [] if name in PIXELS]:
        why = f"compares pixels, and the images are {here}, the reference {there}"
        raise Problems([Problem("metrics", name, why) for name in asked])
    return [name for name in names if name not in PIXELS]


def extractor_of(request: dict[str, Any], images: Tensor) -> Extractor:
    """The extractor of a request, tried on one of the images it is to judge. Raises Problems."""
    name = str(request["extractor"].get("_target_")).rpartition(".")[2]
    try:
        extractor: Extractor = build.part(request["extractor"])
        extractor.features(images[:1])
    except InstantiationException as error:
        if isinstance(error.__cause__, Problems):
            raise error.__cause__ from None
        raise Problems([Problem("extractor", name, str(error.__cause__ or error))]) from None
    except ValueError as error:
        colour = "; for colour: extractor=random extractor.image_channels=3, or inception"
        why = f"{error}{colour if images.shape[1] == 3 else ''}"
        raise Problems([Problem("extractor", name, why)]) from None
    return extractor


def classifies(extractor: Extractor, data: ImageTextData) -> bool:
    """Whether it gives verdicts about the classes that the data have."""
    return "logits" in _offered(extractor, data.split("test").images, len(data.class_names))


def classes_of(request: dict[str, Any], data: ImageTextData) -> Callable[[Tensor], list[str] | None]:
    """Pictures uint8 (N,C,H,W) -> what the request's extractor takes each for, in words; None where it knows other
    classes than the data have, and of pictures of another size."""
    test = data.split("test").images
    extractor: Any = extractor_of(request, test)
    knows = classifies(extractor, data)

    def names(images: Tensor) -> list[str] | None:
        if not knows or images.shape[1:] != test.shape[1:]:
            return None
        return [data.class_names[i] for i in extractor.logits(images).argmax(1).tolist()]

    return names


def names_of(request: dict[str, Any], offered: Sequence[str]) -> list[str]:
    """The metrics to measure. Raises Problems for those that need more than is offered."""
    asked = request["metrics"]
    lacking = [(name, catalogue.lacking(name, offered)) for name in asked or [] if name != "all"]
    if any(why for _, why in lacking):
        raise Problems([Problem("metrics", name, why) for name, why in lacking if why])
    return catalogue.chosen(asked, offered)


def _offered(extractor: Any, images: Tensor, classes: int | None = None) -> list[str]:
    """What an extractor gives besides features; verdicts only about as many classes as the data have, if any."""
    found = ["text"] if hasattr(extractor, "text") else []
    if hasattr(extractor, "logits") and classes in (None, extractor.logits(images[:1]).shape[1]):
        found.append("logits")
    return found


def _settings(request: dict[str, Any]) -> judge.Settings:
    return judge.Settings(request["k"], request["kid_subsets"], request["kid_subset_size"])


def _at_most(key: str, given: int, there: int) -> int:
    if given > there:
        raise Problems([Problem(key, given, f"must be at most the {there} images there are")])
    return given
