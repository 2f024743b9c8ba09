"""In what the cells of a collection differ: keys of the configuration, and what each cell cost. Draws nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unclip.report.collect import Cell, Collection
from unclip.report.trials import Trial, is_seed
from unclip.runs.where import as_text

ABSENT = "–"
NAMED = 6  # cells of one value that are named; of more their number is said


def differing(collection: Collection) -> dict[str, dict[str, list[str]]]:
    """key -> value -> the cells that have it, of every key in which cells differ. A key that varies between the seeds
    of one cell goes with the seed, and is none."""
    configured = {cell.name: [t.config for t in cell.trials if t.config] for cell in collection.cells}
    configured = {name: configs for name, configs in configured.items() if configs}
    keys = dict.fromkeys(key for configs in configured.values() for config in configs for key in config)
    found = {}
    for key in keys:
        if is_seed(key) or (values := _values(key, configured)) is None:
            continue
        if len(values) > 1:
            found[key] = values
    return found


def cells_in_words(names: list[str], among: int) -> str:
    """`linear, cosine`, or how many of how many."""
    return ", ".join(names) if len(names) <= NAMED else f"{len(names)} of {among} cells"


def stages_that_differ(collection: Collection, differences: Iterable[str]) -> list[str]:
    """The stages whose settings the cells vary; the last one where they vary none, as when only sampling differs."""
    stages = list(dict.fromkeys(name for t in collection.trials for name in t.stages))
    if len(stages) < 2:
        return stages
    touched = {key.partition(".")[0] for key in differences}
    return [stage for stage in stages if stage in touched] or stages[-1:]


def cost(cell: Cell) -> dict[str, str]:
    """Seconds, steps, parameters and device of a cell, the mean over its finished seeds; "" where nothing is known."""
    done = cell.done
    seconds = [t.seconds for t in done if t.seconds]
    steps: dict[str, set[int]] = {}
    for trial in done:
        for stage, count in trial.steps.items():
            steps.setdefault(stage, set()).add(count)
    alone = len(steps) == 1
    return {
        "seconds": f"{sum(seconds) / len(seconds):,.0f}" if seconds else "",
        "steps": ", ".join(
            f"{'' if alone else stage + ' '}{'/'.join(f'{c:,}' for c in sorted(counts))}"
            for stage, counts in steps.items()
        ),
        "parameters": _parameters(done),
        "device": ", ".join(dict.fromkeys(t.device for t in done if t.device)),
    }


def _values(key: str, configured: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {}
    for name, configs in configured.items():
        ours = {as_text(config[key]) if key in config else ABSENT for config in configs}
        if len(ours) > 1:
            return None
        found.setdefault(ours.pop(), []).append(name)
    return found


def _parameters(done: list[Trial]) -> str:
    counts = sorted({t.parameters for t in done if t.parameters})
    return " to ".join(
        f"{count / 1e6:.2f}M" for count in ([counts[0], counts[-1]] if len(counts) > 1 else counts)
    )
