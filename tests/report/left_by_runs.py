"""Files as runs, pipelines and sweeps leave them, made on the spot: what the tests of reports read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

CAPTIONS = ("an image of a bag", "<script>alert(1)</script>")


def train_run(folder: Path, config: dict[str, Any] | None = None, **status: Any) -> Path:
    """A training run; finished unless `state` says otherwise."""
    folder.mkdir(parents=True)
    config = {"stage": {"name": "decoder"}, "trainer": {"accelerator": "cpu", "devices": 1}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    written = {"state": "finished", "step": 100, "seconds": 60.0, "parameters": 1_500_000, **status}
    (folder / "status.json").write_text(json.dumps(written))
    if written["state"] == "finished":
        (folder / "weights.safetensors").touch()
    lines = [f"0,{s},{1 / (s + 1)},{0.6 * (s + 1)},\n0,{s},,,{2 / (s + 1)}" for s in range(9, 100, 10)]
    (folder / "metrics.csv").write_text("epoch,step,train/loss,train/seconds,val/loss\n" + "\n".join(lines))
    return folder


def results(
    folder: Path, metrics: dict[str, Any], stages: Mapping[str, Path], grey: int = 100, noise: int = 0
) -> Path:
    """The results folder of a whole run: metrics, stages, and two samples a caption of one grey level."""
    folder.mkdir(parents=True)
    fd = {"n": 500, "floor": 1.07, "extractor": "Classifier", "reference": "first training images"}
    fd |= metrics.pop("fd") if isinstance(metrics.get("fd"), dict) else {"value": metrics.pop("fd", 3.0)}
    (folder / "metrics.json").write_text(json.dumps({"fd": fd, **metrics}))
    record = {name: {"signature": run.name, "folder": str(run)} for name, run in stages.items()}
    (folder / "pipeline.json").write_text(json.dumps({"experiment": "demo", "stages": record}))
    (folder / "samples").mkdir()
    lines = []
    for i in range(4):
        file = f"samples/{i:05d}.png"
        Image.new("L", (8, 8), grey + i).save(folder / file)
        lines.append(json.dumps({"file": file, "prompt": CAPTIONS[i // 2], "index": i, "seed": noise}))
    (folder / "samples.jsonl").write_text("\n".join(lines))
    return folder


def cell(
    folder: Path | None, state: str = "finished", error: str | None = None, **values: Any
) -> dict[str, Any]:
    """A cell of a record."""
    values = {key.replace("__", "."): str(value) for key, value in values.items()}
    return {
        "overrides": [f"{k}={v}" for k, v in values.items()],
        "values": values,
        "signature": folder.name if folder else None,
        "folder": str(folder) if folder else None,
        "state": state,
        "error": error,
    }


def record(
    outputs: Path,
    cells: Sequence[dict[str, Any]],
    ablation: dict[str, Any] | None = None,
    name: str = "sweep",
) -> Path:
    """<outputs>/sweeps/NAME.json."""
    path = outputs / "sweeps" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"name": name, "verb": "run", "command": "unclip run -m ...", "axes": {}, "cells": list(cells)}
    path.write_text(json.dumps({**content, **({"ablation": ablation} if ablation else {})}))
    return path


def sweep_of_runs(outputs: Path, values: Mapping[str, Sequence[float]], **ablation: Any) -> Path:
    """An ablation whose cells have these values of fd, a seed each."""
    clip = train_run(outputs / "demo" / "clip", {"stage": {"name": "clip"}, "seed": 0})
    cells = []
    for number, (name, of_seeds) in enumerate(values.items()):
        for seed, value in enumerate(of_seeds):
            config = {"seed": seed, "schedule": {"name": name}, "clip": "clip"}
            run = train_run(outputs / "demo" / f"decoder{number}{seed}", config)
            stages = {"clip": clip, "decoder": run}
            folder = results(outputs / "demo" / f"run-{number}{seed}", {"fd": value}, stages, 20 * number)
            cells.append(cell(folder, cell=name, seed=seed))
    told = {"name": "zoo", "title": "Zoo", "paper": "A 2021, Table 2", "metrics": ["fd"]}
    return record(outputs, cells, {**told, "baseline": next(iter(values)), **ablation})
