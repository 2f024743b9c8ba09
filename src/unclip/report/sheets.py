"""The table of a report as rows, and these as CSV, Markdown and LaTeX. Knows nothing of HTML, and reads no files."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unclip.report import measures
from unclip.report.collect import Cell, Collection
from unclip.report.statistics import Comparison, Estimate
from unclip.report.verdicts import best_known

TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{
        letter: f"{{{letter}}}" for letter in "[]*"
    },  # after \\ and \midrule these would be read as an argument
}


@dataclass(frozen=True)
class Field:
    """One metric of one cell, in words: `3.82 ± 0.31`, its interval, and how many seeds it is of."""

    found: Estimate
    is_best: bool
    share: bool = False

    @property
    def interval(self) -> str:
        found = self.found
        if self.share:  # a t-interval knows nothing of where shares end
            found = replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))
        return "one seed" if found.n == 1 else interval(found, _decimals(self.found))

    @property
    def text(self) -> str:
        """`3.8 ± 0.3`; of one seed its value alone."""
        if not interval(self.found):
            return mean(self.found)
        return f"{mean(self.found)} ± {self.found.high - self.found.mean:.{_decimals(self.found)}f}"


@dataclass(frozen=True)
class Row:
    """One cell."""

    cell: Cell
    fields: dict[str, Field]

    @property
    def seeds(self) -> str:
        """`3`, or `2 of 3` where not all finished."""
        done, planned = len(self.cell.done), len(self.cell.trials)
        return str(done) if done == planned else f"{done} of {planned}"


def rows(collection: Collection, metrics: Sequence[str]) -> list[Row]:
    """Every cell, also those that have nothing to show."""
    best = {metric: best_known(collection, metric) for metric in metrics}
    return [
        Row(cell, {m: Field(cell.estimate(m), best[m] == cell.name, measures.share(m)) for m in metrics})
        for cell in collection.cells
    ]


def mean(found: Estimate) -> str:
    """The mean, to the digits that its interval leaves it."""
    if found.n == 0:
        return "–"
    return f"{found.mean:.{_decimals(found)}f}" if interval(found) else measures.number(found.mean)


def interval(found: Estimate, decimals: int | None = None) -> str:
    """`3.5 to 4.1`; "" of fewer than two seeds, which have none."""
    if found.n < 2 or not math.isfinite(found.high):
        return ""
    decimals = _decimals(found) if decimals is None else decimals
    return " to ".join(f"{end:.{decimals}f}" for end in (found.low, found.high))


def in_words(c: Comparison) -> str:
    """`-0.084 (-0.125 to -0.043), 3 seeds`: a paired difference with its corrected interval."""
    if c.difference.n < 2:
        return c.why
    return f"{mean(c.difference)} ({interval(c.difference)}), {seeds(c.difference.n)}"


def seeds(n: int) -> str:
    """`3 seeds`."""
    return "one seed" if n == 1 else f"{n} seeds"


def _decimals(found: Estimate) -> int:
    """So many that half the interval has two digits that matter, and no end is rounded to a zero that it is not."""
    half = found.high - found.mean
    if not half > 0:
        return 4
    digits = min(max(1 - math.floor(math.log10(half)), 0), 8)
    ends = [end for end in (found.low, found.mean, found.high) if end]
    return next(
        (d for d in (digits, digits + 1, digits + 2) if all(round(end, d) for end in ends)), digits + 2
    )


def as_csv(collection: Collection, metrics: Sequence[str]) -> str:
    """Numbers in full, for further work: mean, interval and n of every metric; a cell a line."""
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    axes = list(collection.axes)
    of = ("mean", "low", "high", "n")
    heads = ["cell", *axes, "finished", "planned", "states", *(f"{m} {o}" for m in metrics for o in of)]
    write.writerow([*heads, "seconds", "parameters", "error"])
    for row in rows(collection, metrics):
        cell, found = row.cell, [row.fields[m].found for m in metrics]
        done, values = cell.done, [cell.values.get(axis, "") for axis in axes]
        write.writerow(
            [
                *(cell.name, *values, len(done), len(cell.trials), cell.states),
                *(v for e in found for v in (_full(e.mean), _full(e.low), _full(e.high), e.n)),
                round(sum(t.seconds for t in done) / len(done), 1) if done else "",
                done[0].parameters if done else "",
                "; ".join(error for _, error in cell.errors),
            ]
        )
    return out.getvalue()


def as_markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose texts cannot break out of it."""
    written = ["| " + " | ".join(map(markdown, heads)) + " |", "|" + " --- |" * len(heads)]
    return "\n".join([*written, *("| " + " | ".join(map(markdown, line)) + " |" for line in lines)])


def markdown(text: str) -> str:
    """A text as Markdown that shows it and does nothing else."""
    text = re.sub(r"([\\`*_{}\[\]|$#~])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_latex(collection: Collection, metrics: Sequence[str], caption: str) -> str:
    """A table for the package booktabs: means with half the width of their 95% interval, the best mean in bold."""
    lines = []
    for row in rows(collection, metrics):
        cells = [_bold(latex(f.text), f.is_best) for f in row.fields.values()]
        lines.append(" & ".join([latex(row.cell.name), latex(row.seeds), *cells]) + r" \\")
    heads = ["cell", "seeds", *(measures.measure(m).heading for m in metrics)]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{latex(caption)}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(metrics) + 1)}}}",
            r"    \toprule",
            "    " + " & ".join(map(latex, heads)) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def latex(text: str) -> str:
    """A text as LaTeX shows it: every letter that means something there is escaped."""
    return "".join(TEX.get(letter, letter) for letter in " ".join(text.split()))


def _bold(text: str, is_best: bool) -> str:
    return rf"\textbf{{{text}}}" if is_best else text


def _full(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""
