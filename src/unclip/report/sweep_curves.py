"""The trade-offs of a sweep of sampling settings as PNG bytes: distance against consistency, steps and guidance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from unclip.report import figures
from unclip.report.statistics import estimate

Cell = Mapping[str, Any]
Point = tuple[Any, list[float], list[float]]  # a value of the axis, y of every seed, x of every seed
DISTANCES = {"fd": "Frechet distance", "kid": "KID", "cmmd": "CMMD", "fd_infinity": "FD at infinite N"}
AGREEMENTS = {"prompt_consistency": "prompt consistency", "prompt_retrieval": "prompt retrieval"}


def draw(cells: Sequence[Cell]) -> bytes | None:
    """The curves that the swept axes and the metrics allow, side by side; None where there is none."""
    distance = next((m for m in DISTANCES if all(m in cell for cell in cells)), None)
    agreement = next((m for m in AGREEMENTS if all(m in cell for cell in cells)), None)
    swept = [axis for axis in cells[0]["of"] if axis != "seed"]
    along = next((axis for axis in ("guidance", "rerank", "steps") if axis in swept), None)
    panels: list[tuple[str | None, str, str]] = []
    if distance and agreement and along:
        panels.append((agreement, distance, along))
    if distance and "steps" in swept:
        panels.append((None, distance, "steps"))
    if distance and "guidance" in swept:
        panels.append((None, distance, "guidance"))
    if not panels:
        return None
    figure, axes = figures.panels(len(panels), 4.6, 3.8)
    for axis, (x, y, along) in zip(axes, panels, strict=True):
        _panel(axis, cells, x, y, along)
    figure.tight_layout()
    return figures.png(figure)


def lines(cells: Sequence[Cell], x: str | None, y: str, along: str) -> dict[str, list[Point]]:
    """By name a line for each combination of the other axes, its points along `along` in order, seeds together."""
    found: dict[str, dict[Any, tuple[list[float], list[float]]]] = defaultdict(dict)
    for cell in cells:
        others = {k: v for k, v in cell["of"].items() if k not in (along, "seed")}
        name = ", ".join(v if k == "sampler" else f"{k} {v:g}" for k, v in others.items())
        at = cell["of"][along]
        ys, xs = found[name].setdefault(at, ([], []))
        ys.append(cell[y]["value"])
        xs.append(cell[x]["value"] if x else at)
    return {name: [(at, *points[at]) for at in sorted(points)] for name, points in found.items()}


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95% t-interval over seeds; NaN for one."""
    found = estimate(values)
    return found.mean, found.high - found.mean


def _panel(axis: Any, cells: Sequence[Cell], x: str | None, y: str, along: str) -> None:
    drawn = lines(cells, x, y, along)
    for name, points in drawn.items():
        ys, xs = ([_mean(point[i]) for point in points] for i in (1, 2))
        several = any(len(point[1]) > 1 for point in points)
        axis.errorbar(
            [mean for mean, _ in xs],
            [mean for mean, _ in ys],
            xerr=[half for _, half in xs] if several and x else None,
            yerr=[half for _, half in ys] if several else None,
            marker="o",
            markersize=4,
            linewidth=1.4,
            capsize=2,
            label=name or None,
        )
        if x:
            for (at, *_), (across, _), (up, _) in zip(points, xs, ys, strict=True):
                axis.annotate(f"{at:g}", (across, up), textcoords="offset points", xytext=(5, 3), fontsize=8)
    if x:  # a share, which an interval may leave
        low, high = axis.get_xlim()
        axis.set_xlim(max(low, -0.02), min(high, 1.02))
    floor = cells[0][y].get("floor")
    if floor is not None:
        axis.axhline(floor, color="#999", linewidth=1, linestyle="--", label="floor: real images")
    title = f"beside each point: its {along}" if x else ""
    axis.set(xlabel=AGREEMENTS[x] if x else along, ylabel=DISTANCES[y], title=title)
    axis.title.set_size(9)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
