"""A report as Markdown: the same tables as its page, for a README, an issue or a diff."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from unclip.report import measures, settings, verdicts
from unclip.report.sheets import as_markdown, in_words, markdown
from unclip.report.trials import WORDS

if TYPE_CHECKING:
    from unclip.report.document import Report


def text(report: Report, plots: Sequence[str]) -> str:
    """The whole file; plots: paths of pictures beside it."""
    return "\n\n".join(_parts(report, plots)) + "\n"


def _parts(report: Report, plots: Sequence[str]) -> Iterator[str]:
    collection = report.collection
    yield f"# {markdown(report.title)}"
    if paper := collection.ablation.get("paper"):
        yield markdown(str(paper))
    yield markdown(report.counts)
    if collection.notes:
        yield "\n".join(f"- **Note:** {markdown(note)}" for note in collection.notes)
    if report.decided:
        yield from _verdicts(report)
    heads = ["cell", "seeds", *(measures.measure(m).heading for m in report.metrics), "state"]
    lines = [
        [row.cell.name, row.seeds, *(_told(f.text, f.found.n) for f in row.fields.values()), row.cell.states]
        for row in report.rows
    ]
    yield "## Results\n\n" + as_markdown(heads, lines)
    yield "Mean ± half the width of its 95% t-interval over training seeds; one seed has none."
    if missing := [(c, t) for c in collection.cells for t in c.trials if not t.finished]:
        yield "## Not finished\n\n" + as_markdown(
            ["cell", "seed", "state", "last line of its error"],
            [[c.name, t.seed, WORDS[t.state], t.error] for c, t in missing],
        )
    yield from _compared(report)
    if plots:
        yield "## Plots\n\n" + "\n".join(f"![{plot.split('/')[-1]}]({plot})" for plot in plots)
    if report.differing:
        listed = [
            [key, value, settings.cells_in_words(names, len(collection.cells))]
            for key, values in report.differing.items()
            for value, names in values.items()
        ]
        yield "## Settings that differ\n\n" + as_markdown(["key", "value", "cells"], listed)
    costs = [[c.name, *settings.cost(c).values()] for c in collection.cells]
    yield "## Cost of a cell\n\n" + as_markdown(["cell", "seconds", "steps", "parameters", "device"], costs)
    yield from _published(report)


def _verdicts(report: Report) -> Iterator[str]:
    lines = [
        [
            d.verdict,
            d.claim,
            d.metric,
            "; ".join(in_words(c) for c in d.comparisons),
            "; ".join(filter(None, (d.why, d.note))),
        ]
        for d in report.decided
    ]
    heads = ["verdict", "claim", "metric", "paired difference, corrected interval, seeds", "why, source"]
    yield "## Claims\n\n" + as_markdown(heads, lines)


def _compared(report: Report) -> Iterator[str]:
    for metric, compared in report.compared.items():
        lines = [
            [name, in_words(c), f"{c.p:.3g}" if c.difference.n > 1 else ""] for name, c in compared.items()
        ]
        title = f"## {measures.measure(metric).label}: difference from {markdown(str(report.baseline))}"
        yield f"{title}\n\n" + as_markdown(
            ["cell", "difference, corrected 95% interval, seeds", "corrected p"], lines
        )


def _published(report: Report) -> Iterator[str]:
    for table in verdicts.published(report.collection):
        of = f"{table.get('metric', '')}, {table.get('on', '')}"
        lines = [[name, str(value)] for name, value in table["values"].items()]
        yield f"## Published, not ours: {markdown(of)}\n\n" + as_markdown(["cell", "published"], lines)
        grade = f"Grade {markdown(table['grade'])}: {markdown(table['means'])}."
        yield f"{grade} Other data and another extractor: in size it does not compare with ours."


def _told(text: str, n: int) -> str:
    return f"{text} (one seed)" if n == 1 else text
