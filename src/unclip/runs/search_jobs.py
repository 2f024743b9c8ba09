"""A search's trials as processes: n at a time, looked at while they run, stopped where the pruner says so. No torch.

Which trial is next and what becomes of it is in search_study.py; a trial's state and metrics are read from its run's
folder, as a sweep's are.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unclip.config.problems import Problem, Problems
from unclip.runs import process
from unclip.runs.board import Board
from unclip.runs.cells import Cell
from unclip.runs.search import Request, cell
from unclip.runs.store import Run
from unclip.runs.workers import TICK_SECONDS, Job, Workers, ending, heeding

if TYPE_CHECKING:
    import optuna

    from unclip.runs.search_study import Ledger

LOOK_SECONDS = 2.0  # between looks at running trials' metrics, and for trials to start
BEAT_SECONDS = 60.0  # between signs of life in the storage


@dataclass
class TrialJob:
    """A trial whose process is running."""

    trial: optuna.Trial
    job: Job
    seen: set[int] = field(default_factory=set)  # steps whose metric was reported
    pruned: int | None = None  # the step at which it was stopped


class Jobs(Workers):
    """The trials of one search that this process works at. Raises Problems where n_jobs or jobs_per_gpu is below 1."""

    def __init__(self, asked: Request):
        super().__init__(asked.config["n_jobs"], asked.config["jobs_per_gpu"])
        self.asked = asked
        self.trials: list[TrialJob] = []
        self.waiting: tuple[optuna.Trial, Cell] | None = (
            None  # taken, until as many GPUs are free as it needs
        )
        self.wrong: Problems | None = None  # what would go wrong with every trial

    def work(self, ledger: Ledger) -> bool:
        """Until the target is reached and nobody works at a trial any more; whether it was asked to stop before.

        On Ctrl-C or SIGTERM the trials' processes are asked, once, to save and stop, and their trials are released.
        """
        self.ledger = ledger
        self.board = Board(self.n_jobs, ledger.target)
        self.quiet, self.sweep = self.n_jobs > 1 or self.board.live, self.asked.name
        with heeding(self._stop):
            try:
                with self.board:
                    self._until_done()
            finally:
                self._tell()
        if self.wrong:
            raise self.wrong
        return self.stopping

    def _until_done(self) -> None:
        looked = beaten = -1e9
        more, told = True, False
        while self.trials or (more and not self.stopping):
            settled, now = self._settle(), time.monotonic()
            if self.stopping:
                if not told:
                    self._tell()
                told = True
            elif settled or now - looked > LOOK_SECONDS:
                looked = now
                self._watch()
                self._begin()
                more = self.ledger.under_way()
            if now - beaten > BEAT_SECONDS:
                beaten = now
                self.ledger.beat([*(t.trial for t in self.trials), *(self.waiting or ())[:1]])
            self.board.show([t.job.cell for t in self.trials], 0)
            time.sleep(TICK_SECONDS)
        if self.waiting:
            self.ledger.release(self.waiting[0])
        self.jobs = []

    def _begin(self) -> None:
        """Start trials while there is room and the target is not reached. What is wrong with a request, or finished
        already, needs no process."""
        while len(self.trials) < self.n_jobs and not self.stopping:
            if self.waiting is None:
                if (taken := self.ledger.take()) is None:
                    return
                trial, point = taken
                found = cell(self.asked, point, trial.number)
                if found.run is None:
                    self._settled(trial, found, "failed", error=found.error)
                    continue
                if found.state == "finished" and not self._lacks(found):
                    self._finished(trial, found)
                    continue
                self.waiting = trial, found
            trial, found = self.waiting
            if (devices := self._devices(found)) is None:
                return
            self.waiting = None
            job = self._job(found, devices)
            self.jobs.append(job)
            self.trials.append(TrialJob(trial, job))

    def _watch(self) -> None:
        """Report what the running trials have logged, and stop those that the pruner gives up."""
        metric = self.asked.config["intermediate"] or self.asked.objectives[0].metric
        for one in self.trials if len(self.asked.objectives) == 1 else []:
            run = one.job.cell.run
            assert run is not None
            for step, value in course(run, metric):
                if step not in one.seen:
                    one.seen.add(step)
                    one.trial.report(value, step)
            if one.seen and one.pruned is None and one.trial.should_prune():
                one.pruned = max(one.seen)
                with suppress(ProcessLookupError):
                    os.killpg(one.job.child.pid, signal.SIGINT)

    def _settle(self) -> bool:
        """Record the trials whose processes have ended; whether there was one."""
        ended = [t for t in self.trials if t.job.child.poll() is not None]
        for one in ended:
            self.trials.remove(one)
            self.jobs.remove(one.job)
            found, status = one.job.cell, one.job.child.returncode
            state, was_stopped = found.look(), status in process.WAS_STOPPED
            if state == "finished":
                self._finished(one.trial, found)
            elif was_stopped and one.pruned is not None:
                self._settled(one.trial, found, "pruned", at=one.pruned)
            elif was_stopped and self.stopping:
                self.ledger.release(one.trial)
            else:
                why = found.error if state == "failed" else ending(one.job)
                self._settled(one.trial, found, "failed", error=why)
        return bool(ended)

    def _finished(self, trial: optuna.Trial, found: Cell) -> None:
        """Record its values. A missing metric fails the trial, or ends the search if no trial has had it so far."""
        assert found.run is not None
        known = measured(found.run)
        values = [value(known, o.metric) for o in self.asked.objectives]
        if lost := self._lacks(found):
            why = (
                f"is not among what {found.run.folder} has measured: {', '.join(sorted(known)) or 'nothing'}"
            )
            if any(t.state == "complete" for t in self.ledger.trials()):
                self._settled(trial, found, "failed", error=f"{lost[0]} {why}")
                return
            self.ledger.release(trial)
            self.wrong, self.stopping = Problems([Problem("objectives", lost[0], why)]), True
        elif any(v != v for v in values):
            self._settled(trial, found, "failed", error=f"measured {values}, which is no number to compare")
        else:
            self._settled(trial, found, "complete", [v for v in values if v is not None])

    def _lacks(self, found: Cell) -> list[str]:
        """The objectives that a finished run has not measured: `unclip train` may do so without training it again."""
        known = measured(found.run)
        return [o.metric for o in self.asked.objectives if value(known, o.metric) is None]

    def _settled(
        self, trial: optuna.Trial, found: Cell, state: str, values: list[float] | None = None, **known: Any
    ) -> None:
        seconds = found.seconds or 0.0
        folder = str(found.run.folder) if found.run else None
        self.ledger.settle(trial, state, values, folder=folder, seconds=seconds, **known)
        numbers = " ".join(
            f"{o.metric}={v:.5g}" for o, v in zip(self.asked.objectives, values or [], strict=False)
        )
        tail = numbers or known.get("error") or f"at step {known.get('at')}"
        self.board.say(f"[{trial.number}] {state}: {found.label}: {tail}")


def measured(run: Any) -> dict[str, float]:
    """All numbers of a finished run by name: of a training those that it logged last, its parameters, seconds and
    steps; of a whole run metrics.json, nested names with dots."""
    try:
        known = run.status
        found = {k: v for k, v in known.items() if k in ("parameters", "seconds", "step")}
        found |= known.get("metrics") or {}
        if (file := run.folder / "metrics.json").is_file():
            found |= _flat(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # damaged files
        return {}
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float)}


def value(known: dict[str, float], metric: str) -> float | None:
    """A metric by its name, without val/, without .value, or without the number of samples (the largest): fd is
    val/fd_n500."""
    for name in (metric, f"val/{metric}", f"{metric}.value"):
        if name in known:
            return known[name]
    counted = [n for n in known if _samples(n, metric)]
    return known[max(counted, key=lambda n: _samples(n, metric))] if counted else None


def course(run: Run, metric: str) -> Iterator[tuple[int, float]]:
    """The metric by step as the run has logged it so far; a line that is being written is left out."""
    try:
        text = (run.folder / "metrics.csv").read_text(encoding="utf-8")
    except OSError:
        return
    for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
        known = {k: v for k, v in row.items() if k and v}
        with suppress(ValueError):
            found = value({k: float(v) for k, v in known.items()}, metric)
            if found is not None and "step" in known:
                yield int(float(known["step"])), found


def _samples(name: str, metric: str) -> int:
    """The N of val/<metric>_n<N>, 0 where it is another metric."""
    start, _, count = name.rpartition("_n")
    return int(count) if start in (metric, f"val/{metric}") and count.isdigit() else 0


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in node.items():
        found |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return found
