"""A sweep of training runs or of whole runs: launched, recorded, and summed up at the end. Imports no torch.

What each of its cells is stands in cells.py, how processes are started in workers.py, what is shown meanwhile in
board.py, how Hydra comes by the cells in multirun.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from unclip.cli import DONE, FAILED, INTERRUPTED
from unclip.config.problems import Problems
from unclip.files import write_json
from unclip.runs import process
from unclip.runs.cells import HOW, Cell, about, counts, key, listing, plan, summary
from unclip.runs.store import typed


class Launched(Protocol):
    """What carries cells out: workers of this machine, jobs of a cluster. Making one may raise Problems."""

    n_jobs: int  # at a time

    def carry_out(self, cells: list[Cell], sweep: str, changed: Callable[[], None]) -> bool:
        """Carry out what is to do, calling `changed` after each cell; whether it was asked to stop before the end."""
        ...


class Sweep:
    """One `unclip VERB -m`, given to Hydra as its task: launched as a whole by our launchers, cell by cell by others.

    known: the cells, where they are known before Hydra says so. names: what each of them is called, by axis, instead
    of its overrides. more: what else the record is to say.
    """

    def __init__(
        self,
        verb: str,
        overrides: list[str],
        known: list[list[str]] | None = None,
        names: list[dict[str, str]] | None = None,
        more: dict[str, Any] | None = None,
    ):
        self.verb, self.overrides, self.names = verb, overrides, names
        self.known, self.given = known or [], known is not None
        what = [o for o in overrides if not o.startswith(("hydra.", "hydra/")) and key(o) not in HOW]
        digest = hashlib.sha256(
            json.dumps([*([] if verb == "train" else [verb]), *what]).encode()
        ).hexdigest()
        self.name = next((o.partition("=")[2] for o in overrides if key(o) == "sweep"), f"s{digest[:8]}")
        self.command = typed(verb, ["-m", *(o for o in overrides if key(o) not in HOW[:2])])
        self.again = typed(verb, ["-m", *overrides, "retry=true"])
        self.more = more or {}
        self.metrics: list[str] | None = None  # to be shown in the table; None: the main ones
        self.cells: list[Cell] = []
        self.process = os.getpid()
        self.listed = self.stopped = False
        self.record: Path | None = None
        self.broken: Exception | None = None

    def decoded(self, cells: list[list[str]]) -> list[list[str]]:
        """The overrides of cells, from what Hydra was given: of whole runs it knows only their numbers."""
        if self.verb == "train":
            return cells
        return [self.known[int(job[-1].partition("=")[2])] for job in cells]

    def __call__(self, config: Any) -> None:
        """One cell in its turn, for launchers that go cell by cell, in this process or in others."""
        from hydra.core.hydra_config import HydraConfig

        job = HydraConfig.get()
        (overrides,) = self.decoded([list(job.overrides.task)])
        dry = any(o in ("dry_run=true", "dry_run=True") for o in overrides)
        here = os.getpid() == self.process and not dry
        if here:
            self.known += [] if self.given else [overrides]
            self.look()
        self.listed |= dry
        words = [o for o in overrides if key(o) not in HOW[1:]]
        print(f"\n[{job.job.num + 1}] {typed(self.verb, words)}", flush=True)
        more = ["dry_run=true"] if dry else []
        if process.run_child("unclip", self.verb, *words, f"sweep={self.name}", *more) in process.WAS_STOPPED:
            raise KeyboardInterrupt
        if here:
            self.look()

    def look(self) -> None:
        """Plan the cells that are known and not planned yet, see what state all are in, and record it."""
        self._plan(self.known[len(self.cells) :])
        for cell in self.cells:
            cell.look()
        self._record_at()
        self.save()

    def launch(
        self, cells: list[list[str]], launched: Callable[[list[Cell]], Launched], also: Iterable[str] = ()
    ) -> list[str]:
        """Bring these cells to their end, and return their states. What stops the sweep itself is raised by end(): here
        Hydra would make a page of it. `also`: see unclip.config.compose.many."""
        try:
            return self._launch(self.decoded(cells), launched, also)
        except (OSError, Problems) as error:
            self.broken = error
            return ["failed"] * len(cells)

    def _launch(
        self, cells: list[list[str]], launched: Callable[[list[Cell]], Launched], also: Iterable[str]
    ) -> list[str]:
        planned = self._plan(cells, also)
        if self.stopped:  # in an earlier batch
            return [c.state for c in planned]
        workers = launched(planned)
        print(f"sweep {self.name}: {counts(planned)}{about(planned, workers.n_jobs)}", flush=True)
        if any(c.config.get("dry_run") for c in planned):
            print(listing(planned))
            self.listed = True
            return [c.state for c in planned]
        self._record_at()
        self.save()
        self.stopped = workers.carry_out(planned, self.name, self.save)
        self.save()
        return [c.state for c in planned]

    def _plan(self, cells: list[list[str]], also: Iterable[str] = ()) -> list[Cell]:
        common = set.intersection(*map(set, cells)) if cells else set()
        axes = sorted({key(o) for cell in cells for o in cell if o not in common})
        planned = list(plan(cells, axes, len(self.cells) + 1, also, self.verb))
        for cell in planned:
            cell.values = self.names[cell.number - 1] if self.names else cell.values
        self.cells += planned
        return planned

    def _record_at(self) -> None:
        outputs = next((c.config["paths"]["outputs"] for c in self.cells if c.run), None)
        self.record = Path(outputs) / "sweeps" / f"{self.name}.json" if outputs else None

    def save(self) -> None:
        """The record: what the sweep is and where its cells are."""
        if self.record is None:
            return
        axes: dict[str, list[str]] = {}
        for axis in dict.fromkeys(a for c in self.cells for a in c.values):
            axes[axis] = list(dict.fromkeys(c.values[axis] for c in self.cells if axis in c.values))
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
        about_it = {"name": self.name, "verb": self.verb, "command": self.command, "axes": axes}
        write_json(self.record, {**about_it, "cells": cells, **self.more})

    def end(self) -> int:
        """What has come of it, in a table; the exit status of the command."""
        if self.broken:
            raise self.broken
        if self.listed:
            return DONE
        if len(self.cells) < len(self.known):  # launched cell by cell, in other processes
            self.look()
        if self.cells:
            print(f"\n{summary(self.cells, self.metrics)}", flush=True)
            print(f"sweep {self.name}: {counts(self.cells)}" + (f"; {self.record}" if self.record else ""))
        failed = [
            f"{typed(self.verb, c.overrides)}\n  {c.error or c.state}"
            for c in self.cells
            if c.state != "finished" and not (self.stopped and c.state != "failed")
        ]
        if failed:
            lines = [f"\nunclip {self.verb}: {len(failed)} of the sweep's runs failed:", *failed]
            print("\n".join([*lines, f"to try failed runs again: {self.again}"]), file=sys.stderr)
        if self.stopped:
            print(f"\ninterrupted; to go on from here: {self.command}", file=sys.stderr)
        return INTERRUPTED if self.stopped else FAILED if failed else DONE
