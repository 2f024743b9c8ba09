"""Curves of a run's metrics.csv, over steps and over wall time, and the losses of a whole run drawn to PNG bytes."""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from unclip.report import figures

Series = dict[str, list[tuple[float, float]]]  # metric -> (step, value)
SECONDS = "train/seconds"  # since this process began to train, logged beside the loss


def read(path: Path) -> Series:
    """The series of a metrics.csv, {} where there is none."""
    series: Series = defaultdict(list)
    if not path.is_file():
        return series
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            step = int(row["step"])
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    series[name].append((step, float(value)))
    return series


def over_minutes(series: Series, steps: float, seconds: float) -> Series:
    """The series over minutes of training: by the logged seconds, which begin again where training went on after an
    interruption; where none were logged, by `seconds` spread evenly over `steps`."""
    clock, before, last = [(0.0, 0.0)], 0.0, 0.0
    for step, value in series.get(SECONDS, []):
        before += last if value < last else 0.0
        last = value
        while clock[-1][0] > step:  # taken up again from a checkpoint: these steps were done twice
            clock.pop()
        clock.append((step + 1, before + value))
    if len(clock) == 1 and steps:
        clock.append((steps, seconds))
    if len(clock) == 1:
        return {}
    return {
        name: [(_interpolated(clock, step + 1) / 60, value) for step, value in points]
        for name, points in series.items()
    }


def _interpolated(clock: list[tuple[float, float]], step: float) -> float:
    """Seconds at a step: between its neighbours on the clock, beyond the last at its pace."""
    after = bisect_left(clock, step, 1, len(clock) - 1, key=lambda known: known[0])
    (a, start), (b, end) = clock[after - 1], clock[after]
    return start + (end - start) * (step - a) / (b - a) if b > a else end


def losses(runs: Mapping[str, Path]) -> bytes:
    """Training and validation loss of each run (its metrics.csv by title), side by side."""
    figure, axes = figures.panels(len(runs), 4.2, 3)
    for axis, (title, path) in zip(axes, runs.items(), strict=True):
        series = read(path)
        for name, colour in (("train/loss", "#7f9fbf"), ("val/loss", "#b03a2e")):
            points = sorted(series.get(name, []))
            if points:
                marker = "o" if len(points) < 3 else None
                axis.plot(*zip(*points, strict=True), label=name, color=colour, linewidth=1.4, marker=marker)
        axis.set(title=title, xlabel="step", yscale="log")
        axis.grid(alpha=0.25, which="both")
        if axis.has_data():
            axis.legend(frameon=False)
    figure.tight_layout()
    return figures.png(figure)
