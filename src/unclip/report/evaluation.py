"""What `unclip evaluate` makes: metrics.json, and evaluation.html, which shows what the numbers are about."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.evaluate import catalogue
from unclip.files import write_json
from unclip.report import copies, metrics, page, sweep, sweep_curves, table
from unclip.report.copies import Picture
from unclip.report.judges import Judge, for_copiers, for_images, for_run
from unclip.report.pictures import png
from unclip.report.samples import cascade
from unclip.runs.evaluate import Request
from unclip.runs.store import Run, provenance
from unclip.runs.trained import load, load_alone

COLUMNS = 10  # of a grid of pictures
ROWS = 10
MEASURED = ("Frechet distance", "KID x 1000", "CMMD")  # rows whose provenance the page of a sweep says once


def deliver(asked: Request, out: Path) -> dict[str, Any]:
    """Measure what was asked for and write both files into `out`; -> the content of metrics.json. Raises Problems
    before anything is written."""
    if asked.alone is not None:
        measured, shown = _by_itself(asked.alone, asked.config)
        of = str(asked.alone.folder)
    elif asked.config["images"]:
        by, images = for_images(asked.config)
        measured = {**by.pictures(images), **_sets(asked.config)}
        of = f"Pictures of {asked.config['images']}"
        shown = list(_pairs(by, images, measured)), _grids(images, by)
    else:
        config = asked.cells[0][1]
        trained = load(config)
        by = for_run(trained, config)
        of = f"{asked.config['run'] or trained.runs['decoder'].folder}"
        if asked.axes:
            cells = sweep.cells(asked, trained, by, out)
            once = [name for name in by.names if not catalogue.METRICS[name].per_cell]
            common = metrics.of_model(trained, config, by, once)
            common["sampling"] = {k: v for k, v in common["sampling"].items() if k not in asked.axes}
            measured = {**common, "axes": asked.axes, "sweep": cells}
            copied = copies.pictures(trained.copiers, once, config["seed"])
            shown = [], [*_cells(cells, metrics.prompts(trained, config)[0], out), *copied]
        else:
            samples = metrics.drawn(trained, config)
            measured = metrics.of_samples(trained, config, by, samples)
            rows = samples.images.unflatten(0, (len(samples.prompts), samples.per_prompt))
            rows = rows[:ROWS, :COLUMNS]
            drawn = png(rows.flatten(0, 1), rows.shape[1], samples.prompts[:ROWS])
            copied = copies.pictures(trained.copiers, by.names, config["seed"])
            grids = [("Samples", "One caption per row.", drawn), *copied]
            shown = list(_pairs(by, samples.images, measured)), grids
    write_json(out / "metrics.json", measured)
    write(out / "evaluation.html", of, measured, *shown)
    return measured


def _by_itself(run: Run, config: dict[str, Any]) -> tuple[dict[str, Any], tuple[list[bytes], list[Picture]]]:
    """The numbers of an upsampler or an autoencoder, and its pictures."""
    of, names = load_alone(run, config), catalogue.of_stage(run.config["stage"]["name"])
    measured = copies.numbers(of, names, for_copiers(of, names, config), config)
    sampling = {**cascade(of.upsamplers), "runs": {run.config["stage"]["name"]: run.signature}}
    pictures = copies.pictures(of, names, config["seed"])
    return {**measured, "seed": config["seed"], "sampling": sampling}, ([], pictures)


def write(
    path: Path, of: str, measured: Mapping[str, Any], pairs: Sequence[bytes], grids: Sequence[Picture]
) -> None:
    """The page of one metrics.json and its pictures."""
    consistency = measured.get("prompt_consistency")
    cells = measured.get("sweep", [])
    versions = provenance()["versions"]
    page.write(
        path,
        "evaluation.html",
        title="Evaluation",
        subtitle=of,
        headline=table.headline(measured),
        grids=grids,
        numbers=table.rows(measured),
        captions=_bars(consistency) if consistency else [],
        confusions=_confusions(consistency) if consistency else [],
        memorisation=measured.get("memorisation"),
        pairs=pairs,
        curves=sweep_curves.draw(cells) if cells else None,
        sweep=table.sweep(cells) if cells else None,
        measured=[row for row in table.rows(cells[0]) if row["name"] in MEASURED] if cells else [],
        settings=json.dumps(measured.get("sampling", {}), indent=1),
        provenance=", ".join(f"{k} {v}" for k, v in versions.items()) + time.strftime("; %Y-%m-%d"),
    )


def _sets(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in ("images", "reference", "skip_corrupt")}


def _grids(images: Tensor, by: Judge) -> list[Picture]:
    real = by.reference.real.images
    found = []
    for title, of, line in (
        ("Pictures", images, "Drawn from all of them."),
        ("Reference", real, f"Drawn from {by.reference.says}."),
    ):
        order = torch.randperm(len(of), generator=torch.Generator().manual_seed(0))[: 4 * COLUMNS]
        found.append((title, line, png(of[order.sort().values], COLUMNS)))
    return found


def _pairs(by: Judge, images: Tensor, measured: Mapping[str, Any]) -> Iterator[bytes]:
    """The pictures nearest to a training image above that image, nearest pair first."""
    if "memorisation" not in measured:
        return
    closest = measured["memorisation"]["closest"]
    here = images[[pair["sample"] for pair in closest]]
    there = by.reference.everything[[pair["training"] for pair in closest]]
    headings = [f"{pair['distance']:.1f}" for pair in closest]
    yield png(torch.cat([here, there]), len(closest), ["picture", "nearest real image"], headings)


def _cells(cells: Sequence[Mapping[str, Any]], captions: Sequence[str], out: Path) -> list[Picture]:
    """The same captions, embeddings and noise under every combination."""
    images = [sweep.pictures(cell, out) for cell in cells]
    names = [", ".join(f"{k} {v}" for k, v in cell["of"].items()) for cell in cells]
    line = (
        "One picture of each of the same captions, from the same noise for a seed; one combination per row: "
    )
    return [
        (
            "Samples",
            line + "; ".join(captions[: len(images[0])]),
            png(torch.cat(images), len(images[0]), names),
        )
    ]


def _bars(consistency: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "caption": caption,
            "share": share,
            "interval": consistency["per_caption_interval"][caption],
            "real": consistency["real_per_caption"][caption],
        }
        for caption, share in consistency["per_caption"].items()
    ]


def _confusions(consistency: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Shares of each row, with the shade of a cell; of samples and of real test images."""
    found = []
    for key, title in (("confusion", "samples"), ("real_confusion", "real test images")):
        rows = []
        for name, counts in zip(consistency["classes"], consistency[key], strict=True):
            total = max(sum(counts), 1)
            rows.append({"name": name, "cells": [count / total for count in counts], "n": sum(counts)})
        found.append({"title": title, "rows": rows, "classes": consistency["classes"]})
    return found
