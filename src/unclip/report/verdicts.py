"""Whether our seeds bear out what an ablation's paper claims: statistics.py applied to the cells of a collection. Draws
nothing, and never mixes published numbers with ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unclip.config.problems import Problem, Problems
from unclip.report import measures
from unclip.report.collect import Collection
from unclip.report.statistics import Comparison, Verdict, against, judge, parse

MARK = "\x1f"  # between metric and cell: all claims are corrected together, whatever metric they are about
GRADES = {
    "V": "verified: read in the paper's full text or its code",
    "S": "secondary: a note that quotes the paper's table",
    "M": "from memory: check it before you quote it",
}


@dataclass(frozen=True)
class Decided:
    """A claim, what it says of its metric, and what our seeds say to it. why: where something could not be said."""

    metric: str
    claim: str
    note: str
    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    why: str


def verdicts(collection: Collection) -> list[Decided]:
    """The verdict of each claim of an ablation, corrected for all comparisons of all its claims; [] where it has none.

    Raises ValueError for a claim that cannot be read.
    """
    claims = [
        {**claim, "metric": measures.resolved(str(claim["metric"]), collection.present)}
        for claim in collection.ablation.get("claims") or []
    ]
    cells: dict[str, Mapping[int, float]] = {}
    marked = []
    for one in claims:
        metric, values = one["metric"], collection.seeds(one["metric"])
        chain = parse(one["claim"])
        for name in (name for left, _, right in chain for name in (left, right)):
            cells[f"{metric}{MARK}{name}"] = values.get(name, {})
        words = [f"{metric}{MARK}{chain[0][0]}"]
        words += [word for _, relation, right in chain for word in (relation, f"{metric}{MARK}{right}")]
        marked.append(" ".join(words))
    found = []
    for one, judged in zip(claims, judge(marked, cells), strict=True):
        compared = tuple(_unmarked(c) for c in judged.comparisons)
        why = _why(collection, one["metric"], compared)
        found.append(
            Decided(one["metric"], one["claim"], str(one.get("note") or ""), judged.verdict, compared, why)
        )
    return found


def differences(collection: Collection, metric: str, baseline: str) -> dict[str, Comparison]:
    """Each other cell minus the baseline over common seeds, corrected for their number."""
    return against(baseline, collection.seeds(metric))


def baseline(collection: Collection, asked: str | None = None) -> str | None:
    """The cell that others are compared with: the one asked for, the ablation's, else the first. None of a single cell,
    and of an ablation whose budget leaves its baseline out. Raises Problems for a name that is no cell."""
    names = [cell.name for cell in collection.cells]
    if asked is not None and asked not in names:
        import difflib

        close = difflib.get_close_matches(asked, names, 1, 0.3)
        near = f"; nearest: {close[0]}" if close else ""
        raise Problems([Problem("baseline", asked, f"is no cell{near}; possible: {', '.join(names)}")])
    named = asked or collection.ablation.get("baseline") or (names[0] if names else None)
    return named if named in names and len(names) > 1 else None


def best_known(collection: Collection, metric: str) -> str | None:
    """The cell with the best mean; one of a single seed only where all are."""
    found = {c.name: e for c in collection.cells if (e := c.estimate(metric)).n}
    enough = min(2, max((e.n for e in found.values()), default=0))
    means = {name: e.mean for name, e in found.items() if e.n >= enough}
    return measures.best(metric, means)


def published(collection: Collection) -> list[dict[str, Any]]:
    """The published numbers as the ablation's file has them, cells of ours first and in our order."""
    found = []
    order = {cell.name: i for i, cell in enumerate(collection.cells)}
    for table in collection.ablation.get("published") or []:
        values = dict(sorted((table.get("values") or {}).items(), key=lambda v: order.get(v[0], len(order))))
        grade = str(table.get("grade", ""))
        found.append({**table, "values": values, "grade": grade, "means": GRADES.get(grade, "")})
    return found


def _unmarked(c: Comparison) -> Comparison:
    left, right = (name.partition(MARK)[2] for name in (c.left, c.right))
    return Comparison(left, c.relation, right, c.difference, c.p, c.verdict, c.why)


def _why(collection: Collection, metric: str, compared: tuple[Comparison, ...]) -> str:
    """The reasons, in the words of the cells: what is not among them, what failed, what has one seed."""
    reasons = []
    names = {cell.name: cell for cell in collection.cells}
    measured = any(cell.seeds(metric) for cell in collection.cells)
    for one in compared:
        if not one.why:
            if one.verdict == "inconclusive":
                which = f"{one.left} {one.relation} {one.right}: " if len(compared) > 1 else ""
                reasons.append(f"{which}the interval spans zero")
            continue
        absent = [name for name in (one.left, one.right) if name not in names]
        empty = [n for n in (one.left, one.right) if n in names and not names[n].seeds(metric)]
        if absent:
            reasons.append(f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not among these cells")
        elif not measured and any(cell.done for cell in collection.cells):
            reasons.append(f"no cell has {metric}{measures.near(metric, collection.present)}")
        elif empty:
            reasons += [f"{name}: {names[name].states}, no {metric}" for name in empty]
        else:
            reasons.append(one.why)
            few = (names[n] for n in (one.left, one.right) if len(names[n].done) < len(names[n].trials))
            reasons += [f"{cell.name}: {cell.states}" for cell in few]
    return "; ".join(dict.fromkeys(reasons))
