"""Samples of all cells side by side, each column from the same noise. Reads the pictures that runs left,
samples none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from unclip.report import pictures
from unclip.report.collect import Cell, Collection
from unclip.report.trials import Trial

COLUMNS = 10
ROWS = 16  # cells that are shown

Drawn = dict[tuple[str, int, int], Path]  # prompt, which of its pictures, seed of the noise -> file


@dataclass(frozen=True)
class Gallery:
    """A picture, and what it shows in words."""

    png: bytes
    line: str


def gallery(collection: Collection, cells: Sequence[Cell]) -> Gallery | None:
    """A row per cell, of the training seed that most of them have, a column per prompt; None where no cell has samples
    of known noise. Only what all these cells have drawn from the same noise for the same prompt is shown."""
    seed = _seed(cells)
    found = {}
    for cell in cells:
        trial = next((t for t in cell.done if t.seed == seed), None)
        if trial is not None and (drawn := _drawn(trial)):
            found[cell.name] = drawn
        if len(found) == ROWS:
            break
    if not found:
        return None
    shared = set.intersection(*(set(drawn) for drawn in found.values()))
    first = next(iter(found.values()))
    columns = _columns([key for key in first if key in shared])
    try:
        images = [_opened(drawn[key]) for drawn in found.values() for key in columns]
    except (OSError, UnidentifiedImageError):
        return None
    if not columns or len({image.size for image in images}) != 1:
        return None
    sheet = pictures.sheet(images, len(columns), list(found), [str(i + 1) for i in range(len(columns))])
    prompts = "; ".join(f"{i}: {prompt}" for i, (prompt, _, _) in enumerate(columns, 1))
    noise = sorted({noise for _, _, noise in columns})
    left = f" {len(found)} of {len(collection.cells)} cells." if len(found) < len(collection.cells) else ""
    line = (
        f"One cell per row, training seed {seed or 'not known'}; in a column the same prompt and the same noise "
        f"(seed {', '.join(map(str, noise))}).{left} {prompts}."
    )
    return Gallery(pictures.as_png(sheet), line)


def training_grids(cells: Sequence[Cell], most: int = 8) -> list[tuple[str, Path]]:
    """The last grid that each cell's training drew, for cells that are training runs: name, file."""
    seed, found = _seed(cells), []
    for cell in cells:
        trial = next((t for t in cell.done if t.seed == seed), None)
        for stage in trial.stages.values() if trial and not trial.measured else ():
            grids = sorted((stage.folder / "samples").glob("step-*.png"))
            found += [(cell.name, grids[-1])] if grids else []
    return found[:most]


def _seed(cells: Sequence[Cell]) -> str:
    seeds = [trial.seed for cell in cells for trial in cell.done]
    return max(dict.fromkeys(seeds), key=seeds.count, default="")


def _drawn(trial: Trial) -> Drawn:
    """The pictures that samples.jsonl describes; {} where there are none or it cannot be read."""
    found: Drawn = {}
    if trial.folder is None:
        return found
    try:
        lines = (trial.folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines:
            one: dict[str, Any] = json.loads(line)
            found[one["prompt"], int(one["index"]), int(one["seed"])] = trial.folder / one["file"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found


def _columns(keys: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The first picture of each prompt, then the second ones, as many as fit."""
    by_prompt: dict[str, list[tuple[str, int, int]]] = {}
    for key in keys:
        by_prompt.setdefault(key[0], []).append(key)
    each = max(1, COLUMNS // max(len(by_prompt), 1))
    return [key for some in by_prompt.values() for key in some[:each]][:COLUMNS]


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()
