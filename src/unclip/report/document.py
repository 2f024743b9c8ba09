"""A report from local files: page, Markdown, CSV, LaTeX and plots in one folder. Reads what runs left, measures
nothing, imports no torch."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from unclip.config.problems import Problem, Problems
from unclip.files import write_bytes, write_text
from unclip.report import curves, figures, measures, page, plots, settings, sheets, verdicts
from unclip.report.collect import Cell, Collection, collect
from unclip.report.gallery import gallery, training_grids
from unclip.report.statistics import Comparison
from unclip.report.trials import WORDS

FORMATS = ("html", "md", "csv", "tex", "png", "svg")
BARS, MAPS = 6, 3  # metrics that are drawn


@dataclass
class Report:
    """What a report says, before any of it is written."""

    collection: Collection
    metrics: list[str]
    baseline: str | None
    plots: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # name -> PNG, SVG

    @property
    def title(self) -> str:
        return str(self.collection.ablation.get("title") or self.collection.name)

    @cached_property
    def rows(self) -> list[sheets.Row]:
        return sheets.rows(self.collection, self.metrics)

    @cached_property
    def decided(self) -> list[verdicts.Decided]:
        return verdicts.verdicts(self.collection)

    @cached_property
    def differing(self) -> dict[str, dict[str, list[str]]]:
        return settings.differing(self.collection)

    @cached_property
    def compared(self) -> dict[str, dict[str, Comparison]]:
        """metric -> cell -> its difference from the baseline; of metrics that a cell has for two of the baseline's
        seeds."""
        if self.baseline is None:
            return {}
        found = {m: verdicts.differences(self.collection, m, self.baseline) for m in self.metrics}
        return {m: by for m, by in found.items() if any(c.difference.n > 1 for c in by.values())}

    @property
    def counts(self) -> str:
        """`6 cells, 18 trials: 17 finished, 1 failed`."""
        trials = self.collection.trials
        states = Cell("", {}, trials).states
        cells = len(self.collection.cells)
        return f"{cells} cell{'s' * (cells != 1)}, {len(trials)} trial{'s' * (len(trials) != 1)}: {states}"

    def lines(self) -> list[str]:
        """The report in a few lines, for a terminal."""
        found = [f"{self.title}: {self.counts}", *(f"  note: {note}" for note in self.collection.notes)]
        for one in self.decided:
            told = "; ".join(sheets.in_words(c) for c in one.comparisons if not c.why)
            found.append(
                f"  {one.verdict}: {one.claim} ({one.metric}){': ' * bool(told or one.why)}{told or one.why}"
            )
        for metric in self.metrics if not self.decided else []:
            if best := verdicts.best_known(self.collection, metric):
                field = next(row for row in self.rows if row.cell.name == best).fields[metric]
                found.append(f"  {metric}: best {best}, {field.text} ({sheets.seeds(field.found.n)})")
        return found


def build(paths: Sequence[Path], metrics: Sequence[str] = (), baseline: str | None = None) -> Report:
    """Collect and judge. metrics: those to show; of an ablation its own, else the first that there are. Raises Problems
    for paths without runs, a metric that nobody logged and a baseline that is no cell."""
    collection = collect(paths)
    present = collection.present
    asked = [measures.resolved(name, present) for name in metrics]
    if wrong := [name for name in asked if present and name not in present]:
        raise Problems([Problem("metric", n, f"no cell has it{measures.near(n, present)}") for n in wrong])
    planned = [measures.resolved(str(m), present) for m in collection.ablation.get("metrics") or []]
    for name in planned if present else []:
        if name not in present:
            collection.notes.append(f"no cell has {name}{measures.near(name, present)}")
    chosen = asked or planned or measures.shown(present)[: measures.FIRST]
    return Report(collection, list(dict.fromkeys(chosen)), verdicts.baseline(collection, baseline))


def deliver(
    paths: Sequence[Path],
    out: Path | None = None,
    metrics: Sequence[str] = (),
    baseline: str | None = None,
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Write the report of these paths; -> its folder, <outputs>/reports/<name> where none is given."""
    return write(build(paths, metrics, baseline), out or place(paths), formats)


def place(paths: Sequence[Path]) -> Path:
    """Where a report goes unless one says so: beside the sweeps of its record, else under outputs/."""
    name = "+".join(path.resolve().stem if path.suffix == ".json" else path.resolve().name for path in paths)
    record = next((p for p in paths if p.suffix == ".json" and p.resolve().parent.name == "sweeps"), None)
    outputs = record.parent.parent if record else Path("outputs")
    return outputs / "reports" / _file_name(name)[:80]


def write(report: Report, out: Path, formats: Sequence[str] = FORMATS) -> Path:
    """The files of a report. Raises Problems where they cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(13, os.strerror(13))
    except OSError as error:
        why = f"cannot be written to: {error.strerror}; out=DIR names another folder"
        raise Problems([Problem("out", out, why)]) from None
    if {"html", "png", "svg"} & set(formats):
        report.plots = {name: _drawn(figure) for name, figure in _figures(report)}
    for name, (png, svg) in report.plots.items():
        for form, content in (("png", png), ("svg", svg)):
            if form in formats:
                write_bytes(out / "plots" / f"{name}.{form}", content)
    if "html" in formats:
        _page(report, out)
    if "md" in formats:
        from unclip.report.markdown import text

        write_text(
            out / "report.md", text(report, [f"plots/{n}.png" for n in report.plots if "png" in formats])
        )
    if "csv" in formats:
        every = measures.shown(report.collection.present)
        known = list(dict.fromkeys([*report.metrics, *every]))
        write_text(out / "table.csv", sheets.as_csv(report.collection, known))
    if "tex" in formats:
        caption = (
            f"{report.title}. Mean and half the width of its 95% t-interval over seeds; best mean in bold."
        )
        write_text(out / "table.tex", sheets.as_latex(report.collection, report.metrics, caption))
    return out


def made(out: Path, formats: Sequence[str] = FORMATS) -> str:
    """The files of a report, in words."""
    names = {"html": "report.html", "md": "report.md", "csv": "table.csv", "tex": "table.tex"}
    found = [str(out / names[form]) for form in FORMATS if form in formats and form in names]
    return ", ".join([*found, *([f"{out / 'plots'}/"] if {"png", "svg"} & set(formats) else [])])


def _figures(report: Report) -> Iterator[tuple[str, Any]]:
    collection = report.collection
    every: list[tuple[str, Callable[[], Any]]] = []
    for metric in report.metrics[:BARS]:
        every.append((f"bars-{metric}", lambda m=metric: plots.bars(collection, m)))  # type: ignore[misc]
    for metric in report.metrics[:MAPS]:
        every.append((f"map-{metric}", lambda m=metric: plots.heat(collection, m)))  # type: ignore[misc]
    for stage in settings.stages_that_differ(collection, report.differing):
        every.append((f"curves-{stage}", lambda s=stage: along(report, s)))  # type: ignore[misc]
    for name, draw in every:
        if (figure := draw()) is not None:
            yield _file_name(name), figure


def along(report: Report, stage: str) -> Any:
    """The figure of a stage's training, of the best cells; cells that share its runs are one line. None where no
    metrics.csv says anything."""
    collection, metric = report.collection, next(iter(report.metrics), "")
    ranked = collection.ranked(metric) or collection.cells
    sharing: dict[tuple[Path, ...], list[str]] = {}
    for cell in ranked:
        if runs := tuple(t.stages[stage].folder for t in cell.done if stage in t.stages):
            sharing.setdefault(runs, []).append(cell.name)
    status = {t.stages[stage].folder: t.stages[stage].status for t in collection.trials if stage in t.stages}
    series: dict[str, list[tuple[curves.Series, curves.Series]]] = {}
    for folders, cells in list(sharing.items())[: plots.LINES]:
        label = "all cells" if len(cells) == len(ranked) > 1 else ", ".join(cells)
        for folder in folders:
            try:
                read = curves.read(folder / "metrics.csv")
            except (OSError, ValueError, KeyError):
                collection.notes.append(f"left out of the curves: {folder / 'metrics.csv'} is damaged")
                continue
            spent = (float(status[folder].get(key) or 0) for key in ("step", "seconds"))
            series.setdefault(label, []).append((read, curves.over_minutes(read, *spent)))
    every = [one for seeds in series.values() for one, _ in seeds]
    names = dict.fromkeys(n for one in every for n, points in one.items() if len(points) > 1)
    shown = [n for n in ("train/loss", *reversed(measures.shown(names))) if n in names]
    of = f", the best {plots.LINES} of {len(sharing)}" if len(sharing) > plots.LINES else ""
    return plots.curves(
        series, shown[:3], f"{stage}: mean over seeds, band from the lowest to the highest{of}"
    )


def _drawn(figure: Any) -> tuple[bytes, bytes]:
    svg = figures.svg(figure)
    return figures.png(figure), svg


def _file_name(text: str) -> str:
    """A name from data as one path component that means nothing to a shell."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "report"


def _page(report: Report, out: Path) -> None:
    collection = report.collection
    ranked = collection.ranked(report.metrics[0]) if report.metrics else collection.cells
    page.write(
        out / "report.html",
        "report.html",
        title=report.title,
        report=report,
        collection=collection,
        measure=measures.measure,
        how=_how(report),
        mean=sheets.mean,
        interval=sheets.interval,
        words=sheets.in_words,
        published=verdicts.published(collection),
        grades=verdicts.GRADES,
        unfinished=[(c, t) for c in collection.cells for t in c.trials if not t.finished],
        state_words=WORDS,
        gallery=gallery(collection, [c for c in collection.cells if c in ranked[: 2 * plots.LINES]]),
        grids=training_grids(ranked),
        cost={c.name: settings.cost(c) for c in collection.cells},
        cells_in_words=settings.cells_in_words,
        made=time.strftime("%Y-%m-%d"),
    )


def _how(report: Report) -> Mapping[str, str]:
    """metric -> how it was measured, and what real images get."""
    done = [t for t in report.collection.trials if t.finished]
    found = {}
    for metric in report.metrics:
        ways = list(dict.fromkeys(h for t in done if (h := measures.how(metric, t.measured))))
        floors = {t.metrics.get(measures.measure(metric).floor) for t in done} - {None}
        said = [
            *ways,
            *(f"real images: {measures.number(f)}" for f in floors if f is not None and len(floors) == 1),
        ]
        if said:
            found[metric] = "; ".join(said)
    return found
