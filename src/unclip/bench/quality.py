"""In how few steps a trained decoder's pictures are as good as after a thousand of DDPM: Frechet distances of the same
embeddings under several samplers, as `unclip evaluate` measures and keeps them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from unclip.runs.process import run_child
from unclip.runs.store import typed

TOLERATED = 1.05  # times the distance after a thousand steps, beside two standard errors
TOLD = ("metrics=fd", "clip_x0=1.0")

Distances = dict[tuple[str, int], list[float]]  # by sampler and steps, a seed each


def table(request: dict[str, Any]) -> dict[str, Any]:
    """Distances with their standard errors over seeds, and for each sampler the fewest steps that pass."""
    sampled = {**request, "seeds": ",".join(map(str, request["seeds"]))}
    reference = evaluated(sampled, ["ddpm"], [1000])
    found = {**reference, **evaluated(sampled, request["samplers"], request["few"])}
    n, guidance = request["images"], request["guidance"]
    seeds = len(request["seeds"])
    where = f"{request['run']}, {n:,} pictures, {seeds} seeds, guidance {guidance:g}, clipped to [-1, 1]"
    command = typed("evaluate", arguments(sampled, ["ddpm"], [1000]))
    return {
        "title": f"Frechet distance after few steps: {where}",
        "cells": cells(found),
        "remarks": [verdict(found), f"As by `{command}` and its siblings."],
        "distances": [{"sampler": s, "steps": k, "fd": fd} for (s, k), fd in found.items()],
    }


def arguments(request: dict[str, Any], samplers: list[str], steps: list[int]) -> list[str]:
    """Of `unclip evaluate`."""
    lists = [
        f"sampler={','.join(samplers)}",
        f"steps={','.join(map(str, steps))}",
        f"seed={request['seeds']}",
    ]
    sizes = [f"run={request['run']}", f"n={request['images']}", f"guidance={request['guidance']}"]
    return [*sizes, *TOLD, *lists]


def evaluated(request: dict[str, Any], samplers: list[str], steps: list[int]) -> Distances:
    """Measured, or read where that was done before: `unclip evaluate` goes on with what is missing."""
    out = Path(request["out"], f"quality-{samplers[0]}")
    status = run_child("unclip", "evaluate", *arguments(request, samplers, steps), f"out={out}")
    if status != 0:
        raise ValueError(f"run = {request['run']}: unclip evaluate ended with status {status}")
    measured = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    found: Distances = {}
    for cell in measured.get("sweep", [{**measured, "of": {}}]):
        of = {"sampler": samplers[0], "steps": steps[0], **cell["of"]}
        found.setdefault((of["sampler"], of["steps"]), []).append(cell["fd"]["value"])
    return found


def bound(found: Distances) -> float:
    """What counts as as good: 1.05 times the mean after a thousand steps, and two standard errors of it."""
    values = found["ddpm", 1000]
    return TOLERATED * mean(values) + 2 * error(values)


def error(values: list[float]) -> float:
    """The standard error of the mean, of two values or more."""
    return stdev(values) / math.sqrt(len(values))


def cells(found: Distances) -> list[list[str]]:
    """A line each, DDPM's first, with whether it passes."""
    limit = bound(found)
    lines = [["sampler", "steps", "FD", "standard error", f"at most {limit:.3f}"]]
    for (sampler, steps), values in sorted(found.items(), key=lambda one: (one[0][0] != "ddpm", one[0])):
        passed = "yes" if mean(values) <= limit else "no"
        lines.append([sampler, f"{steps:,}", f"{mean(values):.3f}", f"{error(values):.3f}", passed])
    return lines


def verdict(found: Distances) -> str:
    """The fewest steps that pass, of any sampler."""
    limit = bound(found)
    passing = [
        (steps, sampler) for (sampler, steps), fd in found.items() if mean(fd) <= limit and steps < 1000
    ]
    if not passing:
        return f"None passes FD <= {TOLERATED} x DDPM's + 2 standard errors = {limit:.3f}."
    steps, sampler = min(passing)
    return f"The fewest steps with FD <= {TOLERATED} x DDPM's + 2 standard errors = {limit:.3f}: {steps}, by {sampler}."
