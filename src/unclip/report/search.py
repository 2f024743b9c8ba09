"""The page of a search: how it went, what mattered, what was best. Draws; the trials are search_study's. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.files import write_bytes
from unclip.report import figures, page
from unclip.runs.search import Request
from unclip.runs.search_space import Axis, Objective, short
from unclip.runs.store import typed

if TYPE_CHECKING:
    from unclip.runs.search_study import Trial

BLUE, GREY, RED = "#2b5c8a", "#b5b5b5", "#b03a2e"
MAP = "viridis_r"  # of the better values dark
WORDS = {"minimize": "smaller is better", "maximize": "larger is better"}


def deliver(asked: Request, trials: Sequence[Trial], importance: Sequence[dict[str, float]]) -> Path:
    """Write report.html and its pictures into the search's folder. At least one trial is complete."""
    complete = [t for t in trials if t.state == "complete"]
    drawn = {"history": _history(asked.objectives, trials)}
    if len(asked.objectives) == 2:
        drawn["front"] = _front(asked.objectives, complete)
    if any(len(t.course) > 1 for t in trials):
        drawn["courses"] = _courses(asked, trials)
    if any(importance):
        drawn["importance"] = _importance(asked, importance)
    for number, objective in enumerate(asked.objectives):
        drawn[f"slices{number}"] = _slices(asked, objective, number, complete)
    if len(asked.space) > 1 and len(complete) > 1:
        drawn["parallel"] = _parallel(asked, complete)
    for name, picture in drawn.items():
        write_bytes(asked.folder / f"{name}.png", picture)
    out = asked.folder / "report.html"
    page.write(
        out,
        "search.html",
        title=f"unclip search: {asked.name}",
        subtitle=_subtitle(asked, trials),
        objectives=[(o.metric, WORDS[o.direction]) for o in asked.objectives],
        axes=[(a.name, ", ".join(a.keys), str(a)) for a in asked.space.values()],
        best=[{"number": t.number, "command": _command(asked, t)} for t in trials if t.best],
        rows=[_row(asked, t) for t in _ordered(asked, trials)],
        pictures=drawn,
        slices=[drawn[f"slices{number}"] for number in range(len(asked.objectives))],
        overrides=asked.overrides,
        command=asked.command,
    )
    return out


def _subtitle(asked: Request, trials: Sequence[Trial]) -> str:
    states = ("complete", "pruned", "failed", "running", "waiting")
    counts = {s: sum(t.state == s for t in trials) for s in states}
    hours = sum(t.seconds for t in trials) / 3600
    by, pruner = (asked.config[key]["_target_"].rpartition(".")[2] for key in ("suggest", "prune"))
    words = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    return (
        f"{asked.config['title']}: {len(trials)} trials ({words}), {hours:.2g} hours of runs; {by}, {pruner}"
    )


def _command(asked: Request, trial: Trial) -> str:
    return typed(asked.config["verb"], asked.of_trial(trial.point))


def _ordered(asked: Request, trials: Sequence[Trial]) -> list[Trial]:
    """The best first, what has no value last."""
    sign = 1 if asked.objectives[0].direction == "minimize" else -1
    return sorted(trials, key=lambda t: (not t.values, sign * t.values[0] if t.values else t.number))


def _row(asked: Request, trial: Trial) -> dict[str, Any]:
    last = max(trial.course, default=None)
    at = f"{trial.course[last]:.4g} at step {last}" if last is not None else ""
    return {
        "number": trial.number,
        "state": trial.state,
        "best": trial.best,
        "values": [f"{v:.5g}" for v in trial.values] or [""] * len(asked.objectives),
        "point": [short(trial.point.get(name)) for name in asked.space],
        "seconds": f"{trial.seconds:.0f}",
        "note": trial.error or (at if trial.state == "pruned" else trial.folder or ""),
    }


def _history(objectives: Sequence[Objective], trials: Sequence[Trial]) -> bytes:
    """The values in the order of the trials, and the best so far."""
    figure, axes = figures.panels(len(objectives), 5.2, 3.4)
    complete = [t for t in trials if t.state == "complete"]
    for number, (axis, objective) in enumerate(zip(axes, objectives, strict=True)):
        better = min if objective.direction == "minimize" else max
        values = [t.values[number] for t in complete]
        so_far = [better(values[: i + 1]) for i in range(len(values))]
        axis.plot([t.number for t in complete], values, "o", color=BLUE, markersize=4, label="complete")
        axis.plot(
            [t.number for t in complete],
            so_far,
            color=RED,
            linewidth=1.4,
            drawstyle="steps-post",
            label="best so far",
        )
        if len(objectives) == 1:
            pruned = [(t.number, t.course[max(t.course)]) for t in trials if t.state == "pruned" and t.course]
            if pruned:
                axis.plot(
                    *zip(*pruned, strict=True),
                    "x",
                    color=GREY,
                    markersize=5,
                    label="pruned, at its last step",
                )
        failed = [t.number for t in trials if t.state == "failed"]
        if failed:
            low = axis.get_ylim()[0]
            axis.plot(failed, [low] * len(failed), "|", color="black", markersize=9, label="failed")
        _spread(axis, values)
        axis.set(xlabel="trial", ylabel=objective.metric)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figures.png(figure)


def _front(objectives: Sequence[Objective], complete: Sequence[Trial]) -> bytes:
    """Both objectives; the trials on the front joined and numbered."""
    figure, (axis,) = figures.panels(1, 6.2, 4.4)
    rest = [t.values for t in complete if not t.best]
    best = sorted((t for t in complete if t.best), key=lambda t: t.values[1])
    if rest:
        axis.plot(
            [v[1] for v in rest], [v[0] for v in rest], "o", color=GREY, markersize=4, label="other trials"
        )
    across, up = [t.values[1] for t in best], [t.values[0] for t in best]
    axis.plot(across, up, "o-", color=RED, markersize=5, linewidth=1.2, drawstyle="steps-post", label="front")
    for trial in best:
        at = trial.values[1], trial.values[0]
        axis.annotate(str(trial.number), at, textcoords="offset points", xytext=(5, 4), fontsize=8)
    _spread(axis, [t.values[0] for t in complete])
    axis.set(xlabel=objectives[1].metric, ylabel=objectives[0].metric)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figures.png(figure)


def _courses(asked: Request, trials: Sequence[Trial]) -> bytes:
    """The metric on the way, by trial."""
    figure, (axis,) = figures.panels(1, 6.2, 3.8)
    labels = set()
    for trial in trials:
        kind = "best" if trial.best else "pruned" if trial.state == "pruned" else "other trials"
        colour = {"best": RED, "pruned": GREY, "other trials": BLUE}[kind]
        points = sorted(trial.course.items())
        if not points:
            continue
        end = "x" if kind == "pruned" else ""
        axis.plot(
            *zip(*points, strict=True),
            color=colour,
            linewidth=2.2 if trial.best else 1,
            alpha=1 if trial.best else 0.7,
            marker=end,
            markevery=[-1],
            zorder=3 if trial.best else 2,
            label=None if kind in labels else kind,
        )
        labels.add(kind)
    _spread(axis, [v for t in trials for v in t.course.values()])
    axis.set(xlabel="step", ylabel=asked.config["intermediate"] or asked.objectives[0].metric)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figures.png(figure)


def _importance(asked: Request, importance: Sequence[dict[str, float]]) -> bytes:
    figure, axes = figures.panels(len(asked.objectives), 5.2, 0.8 + 0.45 * len(asked.space))
    for axis, objective, shares in zip(axes, asked.objectives, importance, strict=True):
        ordered = sorted(shares.items(), key=lambda item: item[1])
        axis.barh([name for name, _ in ordered], [share for _, share in ordered], color=BLUE, height=0.6)
        axis.set(xlim=(0, 1), xlabel=f"share in {objective.metric}")
        axis.grid(alpha=0.25, axis="x")
    figure.tight_layout()
    return figures.png(figure)


def _slices(asked: Request, objective: Objective, number: int, complete: Sequence[Trial]) -> bytes:
    """The objective along each axis, later trials darker."""
    figure, axes = figures.panels(len(asked.space), 3.4, 3.1, sharey=True)
    for plot, axis in zip(axes, asked.space.values(), strict=True):
        places, names = _places(axis, complete)
        values = [t.values[number] for t in complete]
        plot.scatter(
            places, values, c=[t.number for t in complete], cmap="Blues", vmin=-len(complete) / 2, s=22
        )
        for trial, place in zip(complete, places, strict=True):
            if trial.best:
                plot.plot(place, trial.values[number], "o", markersize=8, fillstyle="none", color=RED)
        if names:
            plot.set_xticks(
                range(len(names)), names, rotation=30 if max(map(len, names)) > 6 else 0, fontsize=8
            )
            plot.set_xlim(-0.5, len(names) - 0.5)
        elif axis.log:
            plot.set_xscale("log")
        else:
            plot.locator_params(axis="x", nbins=5)
        _spread(plot, values)
        plot.set(xlabel=axis.name)
        plot.grid(alpha=0.25)
    axes[0].set_ylabel(objective.metric)
    figure.tight_layout()
    return figures.png(figure)


def _parallel(asked: Request, complete: Sequence[Trial]) -> bytes:
    """A line per complete trial through its values, each axis from its low end to its high one; the first objective on
    the right gives the colour. Better ones are drawn last."""
    import numpy
    from matplotlib import colormaps

    figure, (plot,) = figures.panels(1, 1.9 * (len(asked.space) + 1) + 1, 4)
    axes, objective = list(asked.space.values()), asked.objectives[0]
    values = numpy.array([t.values[0] for t in complete])
    ranks = values.argsort().argsort() / max(
        len(values) - 1, 1
    )  # ranks: one outlier would take all the colours
    ranks = ranks if objective.direction == "minimize" else 1 - ranks
    for i in (-ranks).argsort():
        heights = [_height(axis, complete[i].point[axis.name]) for axis in axes]
        span = values.max() - values.min()
        heights.append(float((values[i] - values.min()) / span) if span else 0.5)
        colour = colormaps[MAP](1 - 0.85 * ranks[i])
        plot.plot(range(len(heights)), heights, color=colour, linewidth=1.3, alpha=0.85)
    for x, axis in enumerate(axes):
        ends = ((short(axis.low), 0.0), (short(axis.high), 1.0))
        names = [(str(c), _height(axis, c)) for c in axis.choices] or ends
        _upright(plot, x, names)
    _upright(plot, len(axes), ((f"{values.min():.4g}", 0.0), (f"{values.max():.4g}", 1.0)))
    plot.set_xticks(
        range(len(axes) + 1), [*(a.name + (" (log)" if a.log else "") for a in axes), objective.metric]
    )
    plot.set(yticks=[], xlim=(-0.3, len(axes) + 0.6), ylim=(-0.06, 1.06))
    for spine in plot.spines.values():
        spine.set_visible(False)
    figure.tight_layout()
    return figures.png(figure)


def _upright(plot: Any, x: int, names: Sequence[tuple[str, float]]) -> None:
    plot.axvline(x, color="#444", linewidth=0.8, ymin=0.05, ymax=0.95)
    for name, y in names:
        plot.annotate(
            name, (x, y), textcoords="offset points", xytext=(4, 2), fontsize=8, backgroundcolor="#fffc"
        )


def _height(axis: Axis, value: Any) -> float:
    """Where a value is on its axis, 0 to 1."""
    import math

    if axis.choices:
        return axis.choices.index(value) / max(len(axis.choices) - 1, 1)
    low, high, at = (math.log(v) if axis.log else v for v in (axis.low, axis.high, value))
    return (at - low) / (high - low) if high > low else 0.5


def _places(axis: Axis, trials: Sequence[Trial]) -> tuple[list[float], list[str]]:
    """Where the trials are along the axis, and the names of its places where it has choices."""
    values = [t.point[axis.name] for t in trials]
    if axis.choices:
        return [float(axis.choices.index(v)) for v in values], [str(c) for c in axis.choices]
    return [float(v) for v in values], []


def _spread(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic scale where the values span more than a factor of twenty."""
    finite = [v for v in values if v == v and abs(v) != float("inf")]
    if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
        axis.set_yscale("log")
