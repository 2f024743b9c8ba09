"""A sweep of training runs: what each of its cells is, what state it is in, the record of it. Imports no torch.

How processes are started is in workers.py, what is shown meanwhile in board.py; Hydra's launcher calls Sweep.launch.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unclip.cli import DONE, FAILED, INTERRUPTED
from unclip.config.compose import many
from unclip.config.problems import Problems
from unclip.files import write_json
from unclip.runs import process
from unclip.runs.store import Run, age, typed
from unclip.runs.upstream import request, resolve

HOW = ("retry", "dry_run", "sweep")  # keys that say how, not what: the same sweep with and without them
LISTED = 40  # cells that are listed one by one; of more only those that failed
NEIGHBOURS = 20  # runs that are asked how long they took, where no cell of the sweep is finished
IN_WORDS = {
    "new": "new",
    "interrupted": "resumable",
    "live": "live",
    "failed": "failed",
    "finished": "done",
}


@dataclass
class Cell:
    """One combination of the axes' values: its overrides, its run, and the state that it is in."""

    number: int
    overrides: list[str]
    values: dict[str, str]  # of the axes
    run: Run | None = None  # None: a wrong request, `error` says why
    config: dict[str, Any] = field(default_factory=dict)
    needs: list[Run] = field(default_factory=list)  # unfinished runs that it stands on
    state: str = "failed"
    error: str | None = None

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.values.items()) or " ".join(self.overrides)

    def look(self) -> str:
        """Read the state from the disk, with the last line of the error of a failed run."""
        if self.run is None:
            return self.state
        try:
            self.state = self.run.state
            error = self.run.status.get("error") if self.state == "failed" else None
        except ValueError as damaged:  # status.json: named, never removed
            self.state, error = "failed", str(damaged)
        self.error = (str(error).strip().splitlines() or ["unknown error"])[-1] if error else None
        return self.state

    @property
    def status(self) -> dict[str, Any]:
        try:
            return self.run.status if self.run else {}
        except ValueError:
            return {}


class Launched(Protocol):
    """What brings cells to their end: workers of this machine, jobs of a cluster. Making one may raise Problems."""

    n_jobs: int  # at a time

    def carry_out(self, cells: list[Cell], sweep: str, changed: Callable[[], None]) -> bool:
        """Settle what is to do, calling `changed` whenever something is; whether it was asked to stop before that."""
        ...


class Sweep:
    """One `unclip train -m`, given to Hydra as its task: launched as a whole here, cell by cell by other launchers."""

    def __init__(self, overrides: list[str]):
        self.overrides = overrides
        what = [o for o in overrides if not o.startswith(("hydra.", "hydra/")) and _key(o) not in HOW]
        self.name = f"s{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]}"
        self.command = typed("train", ["-m", *(o for o in overrides if _key(o) not in HOW[:2])])
        self.cells: list[Cell] = []
        self.one_by_one: dict[str, int] = {}  # command -> exit status, by another launcher
        self.stopped = False
        self.record: Path | None = None
        self.broken: Exception | None = None

    def __call__(self, config: Any) -> None:
        """One cell in its turn, for Hydra's own and other launchers."""
        from hydra.core.hydra_config import HydraConfig

        overrides = [o for o in HydraConfig.get().overrides.task if _key(o) not in HOW[1:]]
        command = typed("train", overrides)
        print(f"\n[{HydraConfig.get().job.num + 1}] {command}", flush=True)
        dry = ["dry_run=true"] if config.dry_run else []
        status = process.run_child("unclip", "train", *overrides, f"sweep={config.sweep or self.name}", *dry)
        if status in process.WAS_STOPPED:
            raise KeyboardInterrupt
        self.one_by_one[command] = status

    def launch(
        self, cells: list[list[str]], launched: Callable[[list[Cell]], Launched], also: Iterable[str] = ()
    ) -> list[str]:
        """Bring these cells to their end, and return their states. What stops the sweep itself is raised by end(): here
        Hydra would make a page of it. `also`: see unclip.config.compose.many."""
        try:
            return self._launch(cells, launched, also)
        except (OSError, Problems) as error:
            self.broken = error
            return ["failed"] * len(cells)

    def _launch(
        self, cells: list[list[str]], launched: Callable[[list[Cell]], Launched], also: Iterable[str]
    ) -> list[str]:
        axes = sorted({_key(o) for cell in cells for o in cell if any(o not in other for other in cells)})
        planned = list(plan(cells, axes, len(self.cells) + 1, also))
        workers = launched(planned)
        self.cells += planned
        config = next((c.config for c in planned if c.run), {})
        self.name = config.get("sweep") or self.name
        print(f"sweep {self.name}: {counts(planned)}{about(planned, workers.n_jobs)}", flush=True)
        if config.get("dry_run"):
            print(listing(planned))
            self.cells = []
            return [c.state for c in planned]
        self.record = Path(config["paths"]["outputs"]) / "sweeps" / f"{self.name}.json" if config else None
        self.save(axes)
        self.stopped = workers.carry_out(planned, self.name, lambda: self.save(axes))
        self.save(axes)
        return [c.state for c in planned]

    def save(self, axes: list[str]) -> None:
        """The record: what the sweep is and where its cells are."""
        if self.record is None:
            return
        values = {a: list(dict.fromkeys(c.values[a] for c in self.cells if a in c.values)) for a in axes}
        cells = [
            {
                "overrides": c.overrides,
                "values": c.values,
                "signature": c.run.signature if c.run else None,
                "folder": str(c.run.folder) if c.run else None,
                "state": c.state,
                "error": c.error,
            }
            for c in self.cells
        ]
        write_json(self.record, {"name": self.name, "command": self.command, "axes": values, "cells": cells})

    def end(self) -> int:
        """What has come of it, in a table; the exit status of the command."""
        if self.broken:
            raise self.broken
        if self.cells:
            print(f"\n{summary(self.cells)}", flush=True)
            print(f"sweep {self.name}: {counts(self.cells)}" + (f"; {self.record}" if self.record else ""))
        failed = [command for command, status in self.one_by_one.items() if status]
        failed += [
            f"{typed('train', c.overrides)}\n  {c.error or c.state}"
            for c in self.cells
            if c.state != "finished" and not (self.stopped and c.state != "failed")
        ]
        if failed:
            lines = [f"\nunclip train: {len(failed)} of the sweep's runs failed:", *failed]
            hint = f"to try failed runs again: {typed('train', ['-m', *self.overrides, 'retry=true'])}"
            print("\n".join([*lines, hint]), file=sys.stderr)
        return INTERRUPTED if self.stopped else FAILED if failed else DONE


def plan(cells: list[list[str]], axes: list[str], start: int = 1, also: Iterable[str] = ()) -> Iterator[Cell]:
    """Each cell with its run and its state, composed in this process."""
    with many("train", also):
        for number, overrides in enumerate(cells, start):
            values = {_key(o): o.split("=", 1)[1] for o in overrides if _key(o) in axes and "=" in o}
            cell = Cell(number, [o for o in overrides if _key(o) not in HOW[1:]], values)
            try:
                composed = request(overrides)
                cell.config, upstreams = resolve(composed)
            except Problems as problems:
                cell.error = "; ".join(map(str, problems.problems))
                yield cell
                continue
            cell.config["experiment"] = composed.experiment
            cell.run = Run.of(cell.config, composed.experiment)
            if cell.look() != "finished":
                cell.needs = [run for run, _ in upstreams.values() if run.state != "finished"]
            yield cell


def counts(cells: list[Cell]) -> str:
    """`3 done, 1 failed, 2 new`."""
    found = Counter(IN_WORDS[c.state] for c in cells)
    first = {run.folder for c in cells for run in c.needs if run.state != "finished"}
    words = [f"{found[w]} {w}" for w in ("done", "new", "resumable", "live", "failed") if found[w]]
    more = [f"{len(first)} upstream to train first"] if first else []
    return f"{len(cells)} runs: " + ", ".join([*words, *more])


def about(cells: list[Cell], n_jobs: int) -> str:
    """`; about 12 min to go`, by the median of what finished runs took; nothing where none is known or all is done."""
    typical = typical_seconds(cells)
    todo = [c for c in cells if is_to_do(c)]
    if typical is None or not todo:
        return ""
    seconds = sum(max(typical - float(c.status.get("seconds", 0)), 0) for c in todo) / n_jobs
    return f"; about {in_words(seconds)} to go"


def is_to_do(cell: Cell) -> bool:
    """Whether there is something to start: a failed run is tried again only when that is asked for."""
    return (
        cell.run is not None
        and cell.state != "finished"
        and (cell.state != "failed" or bool(cell.config["retry"]))
    )


def typical_seconds(cells: list[Cell]) -> float | None:
    """The median of the finished cells' durations; where there is none, of runs of the same stage beside them."""
    taken = [float(c.status["seconds"]) for c in cells if c.state == "finished" and "seconds" in c.status]
    one = next((c for c in cells if c.run), None)
    if not taken and one is not None and one.run is not None:
        taken = list(_neighbours(one.run.folder.parent, one.config["stage"]["name"]))
    return statistics.median(taken) if taken else None


def _neighbours(folder: Path, stage: str) -> Iterator[float]:
    recent = sorted(folder.glob("*/weights.safetensors"), key=lambda p: p.stat().st_mtime)[-NEIGHBOURS:]
    for run in (Run(path.parent) for path in recent):
        try:
            if run.config["stage"]["name"] == stage:
                yield float(run.status["seconds"])
        except (OSError, ValueError, KeyError):
            continue


def in_words(seconds: float) -> str:
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


def summary(cells: list[Cell]) -> str:
    """The cells with their main metrics; of very many only those that are not finished."""
    shown = cells if len(cells) <= LISTED else [c for c in cells if c.state != "finished"][:LISTED]
    metrics = {id(c): c.status.get("metrics") or {} for c in shown}
    names = _main(metrics.values())
    rows = [["", "", "state", "time", *(n.removeprefix("val/") for n in names)]]
    for c in shown:
        taken = in_words(c.status["seconds"]) if "seconds" in c.status else ""
        numbers = [f"{metrics[id(c)][n]:.4g}" if n in metrics[id(c)] else "" for n in names]
        word = "finished" if c.state == "finished" else IN_WORDS[c.state]
        rows.append([f"[{c.number}]", c.label, word, taken, *numbers])
    rows = rows if shown else []
    left_out = len(cells) - len(shown)
    return "\n".join([*([aligned(rows)] if rows else []), *([f"({left_out} more)"] if left_out else [])])


def _main(metrics: Iterable[dict[str, float]]) -> list[str]:
    """At most four names: distances first, then what else is logged, the loss last."""
    names = {name for one in metrics for name in one}
    return sorted(names, key=lambda n: ("loss" in n, not n.startswith("val/fd"), n))[:4]


def aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return "\n".join(
        "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def described(run: Run, config: dict[str, Any], needs: list[Run]) -> str:
    """`dry_run=true` of a single run."""
    cell = Cell(1, [], {}, run, config, needs)
    cell.look()
    finished = f" {age(run.status.get('finished'))}" if cell.state == "finished" else ""
    lines = [f"needs first: {n.folder} ({IN_WORDS[n.state]})" for n in needs]
    why = f": {cell.error}" if cell.error else ""
    return "\n".join(
        [*lines, f"{IN_WORDS[cell.state]}{finished}{why}{about([cell], 1)}", f"run: {run.folder}"]
    )


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")
