"""The figures of a report: a metric by cell, over two axes, and along training. Each function returns a matplotlib
figure, also for notebooks; figures.py makes files of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unclip.report import figures, measures
from unclip.report.collect import Cell, Collection
from unclip.report.curves import Series
from unclip.report.sheets import Field

MOST = 40  # bars of one figure
LINES = 10  # of one panel of curves
FACETS = 4  # panels of a heat map
NUMBERS = 12  # rows or columns of a heat map up to which each field says its value
BLUE, PALE, RED, GREY = "#3b6ea5", "#a9c1da", "#b03a2e", "#888888"
COLOURS = (
    "#3b6ea5",
    "#d1702e",
    "#3f8f5b",
    "#a23b72",
    "#7d6bb3",
    "#8a6d3b",
    "#2a9aa8",
    "#c0392b",
    "#555",
    "#94a03c",
)
Band = tuple[list[float], list[float], list[float], list[float]]  # x, mean, lowest, highest
Runs = Mapping[
    str, Sequence[tuple[Series, Series]]
]  # label of a line -> of each seed, over steps and over minutes


def bars(collection: Collection, metric: str) -> Any:
    """The mean of each cell with its 95% t-interval, each seed a dot, and what real images get; the best on top. A cell
    of one seed is pale and has no interval; an arrow ends an interval that goes on beyond the panel. None where no cell
    has the metric."""
    ranked = [cell for cell in collection.ranked(metric) if math.isfinite(cell.estimate(metric).mean)]
    if not ranked:
        return None
    shown = ranked[:MOST]
    figure, (axis,) = figures.panels(1, 8.2, 1.3 + 0.34 * len(shown))
    for y, cell in enumerate(shown):
        values, found = list(cell.seeds(metric).values()), cell.estimate(metric)
        axis.barh(y, found.mean, color=BLUE if found.n > 1 else PALE, height=0.66)
        if found.n > 1:
            half = found.high - found.mean
            axis.errorbar(found.mean, y, xerr=half, color="#222", capsize=3, linewidth=1.2, zorder=3)
        axis.plot(
            values, [y] * len(values), "o", color="white", markeredgecolor="#222", markersize=4, zorder=4
        )
    _beside(axis, shown, metric)
    measure = measures.measure(metric)
    floor = _floor(axis.axvline, collection, metric)
    _from_zero(axis, shown, metric, floor)
    axis.set_yticks(range(len(shown)), [literal(cell.name) for cell in shown])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axes = ", ".join(key.rpartition(".")[2] for key in collection.axes) if len(collection.axes) < 3 else ""
    by = f"by {axes}: " if axes else ""
    of = f": the best {MOST} of {len(ranked)}" if len(ranked) > MOST else ""
    axis.set_xlabel(literal(_said(measure)))
    title = literal(f"{by}mean and 95% interval over seeds{of}")
    axis.set_title(title, fontsize=9, color="#555", loc="left")
    _plain(axis)
    figure.tight_layout()
    return figure


def heat(collection: Collection, metric: str) -> Any:
    """Means over two axes, a panel for each combination of further ones; None where not two axes vary."""
    axes = [name for name, values in collection.axes.items() if len(values) > 1]
    means = {cell.name: cell.estimate(metric).mean for cell in collection.cells if cell.seeds(metric)}
    if len(axes) < 2 or not means:
        return None
    axes.sort(key=lambda name: -len(collection.axes[name]))
    down, across, *others = axes
    facets = list(dict.fromkeys(tuple(cell.values.get(o, "") for o in others) for cell in collection.cells))
    of = f", {FACETS} of {len(facets)} panels" if len(facets) > FACETS else ""
    facets = facets[:FACETS]
    rows, columns = collection.axes[down], collection.axes[across]
    width, height = max(3.2, 1.7 + 0.72 * len(columns)), 1.5 + 0.42 * len(rows)
    figure, panels = figures.panels(len(facets), width, height)
    limits = min(means.values()), max(means.values())
    for panel, facet in zip(panels, facets, strict=True):
        placed = {
            (cell.values.get(down), cell.values.get(across)): cell
            for cell in collection.cells
            if tuple(cell.values.get(o, "") for o in others) == facet
        }
        field = [[placed.get((r, c)) for c in columns] for r in rows]
        drawn = _field(panel, field, means, metric, limits)
        panel.set_xticks(
            range(len(columns)), [literal(c) for c in columns], rotation=30 if len(columns) > 4 else 0
        )
        panel.set_yticks(range(len(rows)), [literal(r) for r in rows])
        panel.set(xlabel=literal(across), ylabel=literal(down))
        panel.set_title(
            literal(", ".join(f"{o} {v}" for o, v in zip(others, facet, strict=True))), fontsize=9
        )
        figure.colorbar(drawn, ax=panel, shrink=0.85)
    figure.suptitle(literal(_said(measures.measure(metric))) + of, fontsize=10)
    figure.tight_layout()
    return figure


def curves(series: Runs, names: Sequence[str], title: str = "") -> Any:
    """Each of `names` along training, over steps above and over wall time below: the mean of a line's seeds, its band
    from their lowest to their highest. None for no names."""
    if not names:
        return None
    figure, grid = figures.grid(2, len(names), 4.6, 3, layout="constrained")
    for row, (along, curve) in zip(grid, (("step", over_steps), ("minutes", over_time)), strict=True):
        for axis, name in zip(row, names, strict=True):
            for number, (label, seeds) in enumerate(series.items()):
                _banded(axis, curve(seeds, name), COLOURS[number % len(COLOURS)], literal(label))
            axis.set(xlabel=along, ylabel=literal(measures.measure(name).label))
            _scaled(axis)
            _plain(axis)
            axis.grid(alpha=0.25, which="both")
    legends = [axis.get_legend_handles_labels() for axis in grid.flat]
    handles, labels = max(legends, key=lambda found: len(found[1]))
    across = min(len(labels), round(1.5 * len(names)) + 1)
    figure.legend(
        handles,
        labels,
        title=literal(title),
        loc="outside upper center",
        ncols=across,
        frameon=False,
        fontsize=8,
    )
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure


def _banded(axis: Any, found: Band, colour: str, label: str) -> None:
    x, mean, low, high = found
    if x:
        axis.plot(x, mean, color=colour, linewidth=1.5, marker="o" if len(x) < 3 else None, label=label)
        axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)


def _scaled(axis: Any) -> None:
    """A logarithmic scale for what spans more than a factor of ten, labelled in plain numbers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    values = [value for line in axis.lines for value in line.get_ydata()]
    if values and 0 < 10 * min(values) < max(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.yaxis.set_minor_formatter(NullFormatter())


def over_steps(seeds: Sequence[tuple[Series, Series]], name: str) -> Band:
    """The band of a metric of several seeds over steps."""
    return band([steps.get(name, []) for steps, _ in seeds])


def over_time(seeds: Sequence[tuple[Series, Series]], name: str) -> Band:
    """The same band over minutes: those of a step are the mean of the seeds that have a clock."""
    known = [(steps, minutes) for steps, minutes in seeds if name in minutes]
    _, mean, low, high = over_steps(known, name)
    clocks = [
        [(step, minute) for (step, _), (minute, _) in zip(steps[name], minutes[name], strict=True)]
        for steps, minutes in known
    ]
    return band(clocks)[1], mean, low, high


def band(seeds: Sequence[Sequence[tuple[float, float]]]) -> Band:
    """Mean, lowest and highest over seeds at every x that one of them has, as far as all of them go; between its points
    a seed's value is interpolated. A seed without points counts for nothing."""
    import numpy

    seeds = [sorted(points) for points in seeds if points]
    if not seeds:
        return [], [], [], []
    first, last = max(points[0][0] for points in seeds), min(points[-1][0] for points in seeds)
    xs = sorted({x for points in seeds for x, _ in points if first <= x <= last})
    lines = [numpy.interp(xs, [x for x, _ in points], [y for _, y in points]) for points in seeds]
    values = numpy.stack(lines)  # (seeds, xs)
    return xs, values.mean(0).tolist(), values.min(0).tolist(), values.max(0).tolist()


def literal(text: str) -> str:
    """A text from data for matplotlib, which takes what stands between dollars for a formula."""
    return text.replace("$", r"\$")


def _beside(axis: Any, shown: Sequence[Cell], metric: str) -> None:
    """Each mean in numbers, in a column right of the bars."""
    for y, cell in enumerate(shown):
        found = cell.estimate(metric)
        axis.annotate(
            Field(found, False).text + ("  one seed" if found.n == 1 else ""),
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color="#333" if found.n > 1 else GREY,
        )


def _field(
    panel: Any,
    field: Sequence[Sequence[Cell | None]],
    means: Mapping[str, float],
    metric: str,
    limits: tuple[float, float],
) -> Any:
    """The means as colours, darker is better; what has none says why."""
    matrix = [[means.get(cell.name, math.nan) if cell else math.nan for cell in row] for row in field]
    better = measures.measure(metric).better
    drawn = panel.imshow(
        matrix,
        cmap="Blues_r" if better == "lower" else "Blues",
        vmin=limits[0],
        vmax=limits[1],
        aspect="auto",
    )
    panel.set_facecolor("#eee")
    if max(len(matrix), len(matrix[0])) > NUMBERS:
        return drawn
    for y, row in enumerate(field):
        for x, cell in enumerate(row):
            value = matrix[y][x]
            if math.isnan(value):
                panel.text(x, y, _without(cell), ha="center", va="center", fontsize=8, color=RED)
                continue
            share = (value - limits[0]) / (limits[1] - limits[0] or 1)
            dark = (1 - share if better == "lower" else share) > 0.55
            panel.text(
                x,
                y,
                measures.number(value),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "#222",
            )
    return drawn


def _without(cell: Cell | None) -> str:
    if cell is None:
        return "none"
    states = {t.state for t in cell.trials if not t.finished}
    return next((w for s, w in (("failed", "failed"), ("live", "running")) if s in states), "missing")


def _floor(line: Callable[..., Any], collection: Collection, metric: str) -> float | None:
    """A line at what real images get, where all cells agree about it; -> where that is."""
    at = {t.metrics.get(measures.measure(metric).floor) for t in collection.trials if t.finished} - {None}
    if len(at) != 1:
        return None
    (value,) = at
    label = f"real images: {measures.number(value or 0)}"
    drawn = line(value, color=RED, linewidth=1.1, linestyle="--", label=label)
    drawn.axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    return value


def _from_zero(axis: Any, shown: Sequence[Cell], metric: str, floor: float | None) -> None:
    """Bars of values that are never negative begin at 0. The panel ends beyond all seeds and real images, and cuts
    intervals of more than twice that."""
    values = [value for cell in shown for value in cell.seeds(metric).values()]
    farthest = max([*values, floor or 0.0])
    if min(values) < 0 or not farthest > 0:
        return
    ends = [cell.estimate(metric).high for cell in shown]
    edge = 1.04 * max([farthest, *(min(end, 2 * farthest) for end in ends if math.isfinite(end))])
    axis.set_xlim(0, edge)
    for y, end in enumerate(ends):
        if end > edge:
            axis.plot(edge, y, ">", color="#222", markersize=5, clip_on=False, zorder=3)


def _said(measure: measures.Measure) -> str:
    return measure.label + (f" ({measure.better} is better)" if measure.better else "")


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8.5)
