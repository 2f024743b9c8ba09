"""A manipulation as files: the pictures that it starts from, KIND.png and KIND.json of what it makes of them. What a
kind does is manipulations.py's business."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL.Image import Image
from torch import Tensor

from unclip import build
from unclip.config.problems import Problem, Problems
from unclip.data.embeddings import image_features
from unclip.evaluate.image_sets import ImageSetError, load_images
from unclip.files import write_json
from unclip.manipulations import Manipulator
from unclip.report.judges import classes_of
from unclip.report.manipulations import Given, Manipulation, Strip
from unclip.report.pictures import grid, save
from unclip.report.samples import settings
from unclip.runs.trained import Trained, load

SHOWN = 5  # rows, where the request does not say which pictures


def deliver(kind: str, request: dict[str, Any], out: Path) -> None:
    """Make the pictures, write KIND.png and KIND.json, say what was made. Raises Problems."""
    trained = load(request)
    manipulation: Manipulation = build.part(request["manipulation"])
    given = pictures_of(request, trained)
    own = trained.model.sampler
    assert own is not None
    asked = request["guidance"]
    guidance = asked if asked is not None else 1.0 if manipulation.inverts else own.guidance
    name = classes_of(request, trained.data)
    by = Manipulator(trained.model, request["steps"], guidance, request["seed"], name)
    try:
        strip = manipulation(by, trained, given)
    except ValueError as error:
        raise Problems([Problem(kind, None, str(error))]) from None
    measured = _measured(strip, trained, by)
    save(laid_out(strip), out / f"{kind}.png")
    how = {**settings(trained), "sampler": "ddim", "steps": request["steps"], "guidance": guidance}
    asked_for = {k: v for k, v in request["manipulation"].items() if k != "_target_"}
    write_json(out / f"{kind}.json", {**asked_for, **strip.numbers, "rows": measured, "sampling": how})
    _show(strip, measured)
    print(f"\n{out / f'{kind}.png'}, {out / f'{kind}.json'}")


def laid_out(strip: Strip) -> Image:
    """With its captions and headings."""
    flat = rearrange(strip.images, "r m c h w -> (r m) c h w")
    return grid(flat, strip.images.shape[1], strip.rows, strip.headings)


def pictures_of(request: dict[str, Any], trained: Trained) -> Given:
    """The pictures that are named, with captions. Raises Problems."""
    test, path = trained.data.split("test"), str(request["images"])
    prompts: list[str] | None = request["prompts"]
    own: list[str] = []
    if path == "test" or path.startswith("test:"):
        chosen = _numbers(path.partition(":")[2], len(test)) or _one_a_class(test.labels)
        images = test.images[chosen]
        own = [test.captions[i] for i in test.caption_ids[chosen].tolist()]
        if prompts and path == "test" and len(prompts) != 1:
            images = images[: len(prompts)]
    else:
        try:
            images = load_images(path, at_least=1)
        except ImageSetError as error:
            raise Problems([Problem("images", path, str(error))]) from None
    if images.shape[1:] != test.images.shape[1:]:
        here, there = ("x".join(map(str, (*x.shape[2:], x.shape[1]))) for x in (images, test.images))
        raise Problems(
            [Problem("images", path, f"are {here} (height, width, channels), the model's {there}")]
        )
    if prompts is None and not own:
        raise Problems(
            [Problem("prompts", None, f"what do the {len(images)} pictures show? a caption each, or one")]
        )
    listed = own if prompts is None else prompts * len(images) if len(prompts) == 1 else prompts
    if len(listed) != len(images):
        why = f"{len(listed)} captions of {len(images)} pictures: give one each, or one for all"
        raise Problems([Problem("prompts", prompts, why)])
    return Given(images, tuple(listed))


def _numbers(listed: str, count: int) -> list[int]:
    found = [int(n) if n.strip().isdecimal() else -1 for n in listed.split(",")] if listed else []
    if not all(0 <= n < count for n in found):
        raise Problems(
            [Problem("images", f"test:{listed}", f"must be numbers from 0 to {count - 1}, as in test:3,17")]
        )
    return found


def _one_a_class(labels: Tensor) -> list[int]:
    first = [int((labels == label).nonzero()[0]) for label in labels.unique()]
    return [first[round(i)] for i in torch.linspace(0, len(first) - 1, min(SHOWN, len(first))).tolist()]


def _measured(strip: Strip, trained: Trained, by: Manipulator) -> list[dict[str, Any]]:
    """Of each row: what a classifier sees, and the cosines of the pictures' embeddings with those aimed at."""
    rows, columns = strip.images.shape[:2]
    flat = rearrange(strip.images, "r m c h w -> (r m) c h w")
    names = by.names(flat)
    found: list[dict[str, Any]] = [{"caption": row} for row in strip.rows]
    for i, row in enumerate(found):
        if names is not None:
            row["class_path"] = names[i * columns : (i + 1) * columns]
    if strip.aims is not None:
        seen = rearrange(image_features(trained.model.clip, flat)["image"], "(r m) d -> r m d", r=rows)
        for row, cosines in zip(found, (seen * strip.aims).sum(-1).tolist(), strict=True):
            row["embedding_cosine"] = cosines
    return found


def _show(strip: Strip, measured: list[dict[str, Any]]) -> None:
    for row in measured:
        path = [f"{name} x{n}" if n > 1 else name for name, n in _runs(row.get("class_path", []))]
        said = [" > ".join(path)] if path else []
        if cosines := row.get("embedding_cosine"):
            said.append(f"cosine to the embedding aimed at: {', '.join(f'{c:.2f}' for c in cosines)}")
        if said:
            print(f"{row['caption']}\n  " + "\n  ".join(said))
    for name, value in strip.numbers.items():
        if isinstance(value, float):
            print(f"{name.replace('_', ' ')}: {value:.4g}")


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    return [(name, len(list(same))) for name, same in groupby(names)]
