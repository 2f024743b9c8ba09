"""The cells of a sweep: one combination of values each, its run, the state that it is in, and these in words.

Starts nothing: how processes are started is in workers.py; the sweep itself is in sweep.py. Imports no torch.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unclip.config.compose import many
from unclip.config.problems import Problems, in_words, last_line
from unclip.runs import whole
from unclip.runs.store import RECORD, Run, age
from unclip.runs.upstream import request, resolve

HOW = ("retry", "dry_run", "sweep")  # keys that say how, not what: the same sweep with and without them
REQUESTS = {"train": ["train"], "run": ["train", *whole.DELIVERIES]}  # what a cell of the verb is composed of
LISTED = 40  # cells that are listed one by one; of more only those that failed
NEIGHBOURS = 20  # runs that are asked how long they took, where no cell of the sweep is finished
IN_WORDS = {
    "new": "new",
    "interrupted": "interrupted",
    "live": "live",
    "failed": "failed",
    "finished": "done",
}


@dataclass
class Cell:
    """One combination of the axes' values: its overrides of `unclip VERB`, its run, and the state that it is in."""

    number: int
    overrides: list[str]
    values: dict[str, str]  # of the axes
    run: Run | None = None  # None: a wrong request, `error` says why
    config: dict[str, Any] = field(default_factory=dict)
    needs: list[Run] = field(default_factory=list)  # unfinished runs that it stands on
    state: str = "failed"
    error: str | None = None
    verb: str = "train"
    stages: dict[str, whole.Step] = field(default_factory=dict)  # of a whole run

    @property
    def label(self) -> str:
        if "cell" in self.values and "seed" in self.values:
            return f"{self.values['cell']}, seed {self.values['seed']}"
        return " ".join(f"{key}={value}" for key, value in self.values.items()) or " ".join(self.overrides)

    def look(self) -> str:
        """Read the state from the disk, with the last line of the error of a failed run."""
        if self.run is None:
            return self.state
        try:
            self.state = self.run.state
            error = self.run.status.get("error") if self.state == "failed" else None
        except (OSError, ValueError) as damaged:  # status.json: named, never removed
            self.state, error = "failed", in_words(damaged)
        self.error = last_line(error) or ("unknown error" if error else None)
        return self.state

    @property
    def status(self) -> dict[str, Any]:
        try:
            return self.run.status if self.run else {}
        except (OSError, ValueError):
            return {}

    @property
    def seconds(self) -> float | None:
        """What it has taken so far, of a whole run with all that it waited for."""
        status = self.status
        taken = status.get("elapsed", status.get("seconds"))
        return None if taken is None else float(taken)

    def training(self) -> tuple[Run | None, str, int]:
        """The run being trained for it, the stage where that is not its own run's, and the number of steps."""
        for below in self.needs:
            with suppress(OSError, ValueError, KeyError):  # files that cannot be read: nothing is known of it
                if below.state == "live":
                    return (
                        below,
                        str(below.config["stage"]["name"]),
                        int(below.config["trainer"]["max_steps"]),
                    )
        if self.verb == "train":
            return self.run, "", int(self.config["trainer"]["max_steps"])
        at = str(self.status.get("stage") or "")
        if at in self.stages:
            step = self.stages[at]
            return step.run, at, int(step.config["trainer"]["max_steps"])
        return None, at, -1


def plan(
    cells: list[list[str]], axes: list[str], start: int = 1, also: Iterable[str] = (), verb: str = "train"
) -> Iterator[Cell]:
    """Each cell with its run and its state, composed in this process."""
    with ExitStack() as kept:
        for name in REQUESTS[verb]:
            kept.enter_context(many(name, also))
        for number, overrides in enumerate(cells, start):
            values = {key(o): o.split("=", 1)[1] for o in overrides if key(o) in axes and "=" in o}
            cell = Cell(number, [o for o in overrides if key(o) not in HOW[1:]], values, verb=verb)
            try:
                unfinished = (
                    _planned_run(cell, overrides) if verb == "run" else _planned_train(cell, overrides)
                )
            except Problems as problems:
                cell.error = "; ".join(map(str, problems.problems))
                yield cell
                continue
            if cell.look() != "finished":
                cell.needs = [run for run in unfinished if run.state != "finished"]
            yield cell


def _planned_train(cell: Cell, overrides: list[str]) -> list[Run]:
    composed = request(overrides)
    cell.config, upstreams = resolve(composed)
    cell.config["experiment"] = composed.experiment
    cell.run = Run.of(cell.config, composed.experiment)
    return [run for run, _ in upstreams.values()]


def _planned_run(cell: Cell, overrides: list[str]) -> list[Run]:
    planned = whole.planned(overrides)
    cell.stages = {step.stage: step for step in planned.steps}
    most = max(planned.steps, key=lambda s: _devices(s.config))
    last = planned.steps[-1].config
    cell.config = {**last, "trainer": most.config["trainer"], "experiment": planned.experiment}
    cell.run = planned.results
    return [step.run for step in planned.steps]


def _devices(config: dict[str, Any]) -> int:
    devices = config["trainer"]["devices"]
    return devices if isinstance(devices, int) else 1


def counts(cells: list[Cell]) -> str:
    """`3 done, 1 failed, 2 new`."""
    found = Counter(IN_WORDS[c.state] for c in cells)
    words = [f"{found[w]} {w}" for w in ("done", "new", "interrupted", "live", "failed") if found[w]]
    first = {run.folder for c in cells for run in c.needs if run.state != "finished"}
    stages = "stage" if len(first) == 1 else "stages"
    more = [f"{len(first)} {stages} to train first"] if first else []
    of = "1 run" if len(cells) == 1 else f"{len(cells)} runs"
    return f"{of}: {', '.join([*words, *more])}"


def about(cells: list[Cell], n_jobs: int) -> str:
    """`; about 12 min to go`, by the median of what finished runs took; nothing where none is known or all is done."""
    typical = typical_seconds(cells)
    todo = [c for c in cells if is_to_do(c)]
    if typical is None or not todo:
        return ""
    seconds = sum(max(typical - (c.seconds or 0), 0) for c in todo) / n_jobs
    return f"; about {time_in_words(seconds)} to go"


def is_to_do(cell: Cell) -> bool:
    """Whether there is something to start: a failed run is tried again only when that is asked for."""
    return (
        cell.run is not None
        and cell.state != "finished"
        and (cell.state != "failed" or bool(cell.config["retry"]))
    )


def typical_seconds(cells: list[Cell]) -> float | None:
    """The median of the finished cells' durations; where there is none, of runs of the same kind beside them."""
    taken = [c.seconds for c in cells if c.state == "finished" and c.seconds is not None]
    one = next((c for c in cells if c.run), None)
    if not taken and one is not None and one.run is not None:
        taken = list(_neighbours(one.run, one.config["stage"]["name"]))
    return statistics.median(taken) if taken else None


def _neighbours(like: Run, stage: str) -> Iterator[float]:
    found: list[tuple[float, Path]] = []
    for path in like.folder.parent.glob(f"*/{like.product.name}"):
        with suppress(FileNotFoundError):  # removed meanwhile
            found.append((path.stat().st_mtime, path.parent))
    for _, folder in sorted(found)[-NEIGHBOURS:]:
        run = Run(folder)
        try:
            if like.product.name == RECORD or run.config["stage"]["name"] == stage:
                yield float(run.status.get("elapsed", run.status["seconds"]))
        except (OSError, ValueError, KeyError):
            continue


def time_in_words(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def listing(cells: list[Cell]) -> str:
    """Cell by cell what would be done."""
    rows = []
    for c in cells:
        where = str(c.run.folder) if c.run else ""
        rows.append([f"[{c.number}]", IN_WORDS[c.state], c.label, where, c.error or ""])
    return aligned(rows)


def summary(cells: list[Cell], metrics: list[str] | None = None) -> str:
    """The cells with their main metrics, or those named; of very many only those that are not finished."""
    shown = cells if len(cells) <= LISTED else [c for c in cells if c.state != "finished"][:LISTED]
    found = {id(c): c.status.get("metrics") or {} for c in shown}
    names = metrics or _main(found.values())
    rows = [["", "", "state", "time", *(n.removeprefix("val/") for n in names)]]
    for c in shown:
        taken = "" if c.seconds is None else time_in_words(c.seconds)
        numbers = [f"{found[id(c)][n]:.4g}" if n in found[id(c)] else "" for n in names]
        word = "finished" if c.state == "finished" else IN_WORDS[c.state]
        rows.append([f"[{c.number}]", c.label, word, taken, *numbers])
    rows = rows if shown else []
    left_out = len(cells) - len(shown)
    return "\n".join([*([aligned(rows)] if rows else []), *([f"({left_out} more)"] if left_out else [])])


def _main(metrics: Iterable[dict[str, float]]) -> list[str]:
    """At most four names: distances first, then what else is logged, the loss last."""
    names = {name for one in metrics for name in one}
    return sorted(names, key=lambda n: ("loss" in n, not n.removeprefix("val/").startswith("fd"), n))[:4]


def aligned(rows: list[list[str]]) -> str:
    """Rows of texts as lines, in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return "\n".join(
        "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def described(cell: Cell) -> str:
    """`dry_run=true` of a single run."""
    assert cell.run is not None
    cell.look()
    finished = f" {age(cell.status.get('finished'))}" if cell.state == "finished" else ""
    lines = [f"needs first: {n.folder} ({IN_WORDS[n.state]})" for n in cell.needs]
    why = f": {cell.error}" if cell.error else ""
    unknown = "; how long it takes is known once another of its kind is finished" if is_to_do(cell) else ""
    said = f"{IN_WORDS[cell.state]}{finished}{why}{about([cell], 1) or unknown}"
    return "\n".join([*lines, said, f"run: {cell.run.folder}"])


def key(override: str) -> str:
    """The key of an override."""
    return override.split("=", 1)[0].lstrip("+~")
