"""Sampling settings of one trained model side by side: every combination with the same noise, each finished one kept.

Cells are files of their own under <out>/cells, so that an interrupted sweep, or a longer one, goes on with what is
there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.data.cache import DamagedFile, load_tensors, save_tensors, say
from unclip.evaluate import catalogue
from unclip.files import write_json
from unclip.report import metrics
from unclip.report.judges import Judge
from unclip.report.samples import Samples, settings
from unclip.runs.evaluate import Request, digest
from unclip.runs.trained import Trained, resampled

SHOWN = 10  # pictures of a cell that are kept, of as many captions


def cells(asked: Request, trained: Trained, by: Judge, out: Path) -> list[dict[str, Any]]:
    """Every combination measured, or read where it was before; raises Problems before anything is sampled. Each has its
    settings under `of`, its metrics, and the name of its file of pictures."""
    models = [resampled(trained, config) for _, config in asked.cells]
    known = {
        **{stage: run.signature for stage, run in trained.runs.items()},
        "extractor": by.extractor.fingerprint,
    }
    names = [name for name in by.names if catalogue.METRICS[name].per_cell]
    if asked.config["metrics"] is None:  # costs as much as the samples
        names = [name for name in names if name != "round_trip"]
    embeddings: dict[tuple[Any, ...], Tensor] = {}
    found = []
    for number, ((of, config), model) in enumerate(zip(asked.cells, models, strict=True), 1):
        name = digest({**config, "metrics": names, "sampling": settings(model)}, known)
        path = out / "cells" / f"{name}.json"
        words = ", ".join(f"{key}={value}" for key, value in of.items())
        if (cell := _read(path)) is not None:
            say(f"[{number}/{len(models)}] {words}: finished already")
        else:
            say(f"[{number}/{len(models)}] {words}")
            same = config["seed"], config["rerank"], config["prior_guidance"]
            if same not in embeddings:
                embeddings = {same: _embeddings(model, config)}
            cell = _measured(model, config, by, names, embeddings[same], path)
        found.append({"of": of, **cell})
    return found


def pictures(cell: Mapping[str, Any], out: Path) -> Tensor:
    """The pictures kept of a cell, uint8 (SHOWN,C,H,W) or fewer."""
    return load_tensors(out / "cells" / f"{cell['pictures']}")[0]["images"]


def _measured(
    model: Trained, config: dict[str, Any], by: Judge, names: list[str], embeddings: Tensor, path: Path
) -> dict[str, Any]:
    start = time.monotonic()
    samples = metrics.drawn(model, config, embeddings=embeddings)
    seconds = time.monotonic() - start
    cell = {
        **metrics.of_pictures(model, config, by, samples),
        **metrics.of_model(model, config, by, [name for name in names if name == "round_trip"]),
        "seconds": round(seconds, 2),
        "pictures": path.with_suffix(".safetensors").name,
    }
    save_tensors(path.with_suffix(".safetensors"), {"images": shown(samples)}, {})
    write_json(path, cell)  # last: where it is, all is
    return cell


def shown(samples: Samples) -> Tensor:
    """The first picture of each of the first captions."""
    first = torch.arange(min(SHOWN, len(samples.prompts))) * samples.per_prompt
    return samples.images[first]


def _embeddings(trained: Trained, config: dict[str, Any]) -> Tensor:
    """The prior's samples, the same for every sampler, guidance and number of steps of the decoder."""
    captions, each = metrics.prompts(trained, config)
    which = torch.arange(len(captions)).repeat_interleave(each)
    return trained.model.embed(captions, which, config["seed"])


def _read(path: Path) -> dict[str, Any] | None:
    """A finished cell; None where it, or its pictures, are not there or damaged."""
    try:
        cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        load_tensors(path.with_suffix(".safetensors"))
    except (OSError, ValueError, DamagedFile):
        return None
    return cell
