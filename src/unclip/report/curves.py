"""Curves of a run's metrics.csv, drawn to PNG bytes."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from unclip.report import figures

Series = dict[str, list[tuple[int, float]]]  # metric -> (step, value)


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
