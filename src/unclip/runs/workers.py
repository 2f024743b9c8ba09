"""Runs as processes, n at a time, spread over the GPUs, until each is settled. Imports no torch.

What a cell of a sweep is stands in cells.py, what is shown meanwhile in board.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.config.problems import Problem, Problems
from unclip.config.rules import gpus
from unclip.runs import process
from unclip.runs.board import Board
from unclip.runs.cells import IN_WORDS, Cell, is_to_do, typical_seconds
from unclip.runs.store import typed

TICK_SECONDS = 0.1
LOOK_SECONDS = 2.0  # between looks at a run that another process is training
LOG = "log.txt"  # in the run's folder: what its processes said, where that is not shown


@dataclass
class Job:
    """A cell whose process is running."""

    cell: Cell
    child: subprocess.Popen[bytes]
    devices: list[str]
    log: Path | None
    log_from: int


class Workers:
    """`n_jobs` processes at a time (null: what the GPUs hold, one where there is none), `jobs_per_gpu` on a GPU.

    Raises Problems where one of them is below 1.
    """

    def __init__(self, n_jobs: int | None = None, jobs_per_gpu: int = 1):
        for key, value in (("n_jobs", n_jobs), ("jobs_per_gpu", jobs_per_gpu)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise Problems([Problem(f"hydra.launcher.{key}", value, "must be a whole number, 1 or more")])
        self.gpus, self.jobs_per_gpu = visible_gpus(), jobs_per_gpu
        self.n_jobs = n_jobs or max(len(self.gpus) * jobs_per_gpu, 1)
        self.jobs: list[Job] = []
        self.seen_live: dict[int, float] = {}  # cell -> when last
        self.stopping = False

    def carry_out(self, cells: list[Cell], sweep: str, changed: Callable[[], None]) -> bool:
        """Train what is to do, wait for what others are training; whether it was asked to stop before the end.

        On Ctrl-C or SIGTERM nothing more is started, and the processes are asked, once, to save and stop: asked twice
        they would not save. They are process groups of their own, which a terminal's Ctrl-C does not reach.
        """
        self.pending = [c for c in cells if is_to_do(c)]
        self.board = Board(self.n_jobs, len(cells))
        self.quiet = self.n_jobs > 1 or self.board.live
        self.sweep, told = sweep, False
        with heeding(self._stop), self.board:
            try:
                self.board.typical = typical_seconds(cells)
                while self.jobs or (self.pending and not self.stopping):
                    settled = self._reap()
                    if not self.stopping:
                        settled += self._start()
                    elif not told:
                        told = True
                        self._tell()
                    if settled:
                        self.board.typical = typical_seconds(cells)
                        unless_full(changed)
                    self.board.show([j.cell for j in self.jobs], len(self.pending))
                    time.sleep(TICK_SECONDS)
            finally:
                if not told:
                    self._tell()
        return self.stopping

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _tell(self) -> None:
        if self.jobs:
            self.board.say(f"stopping: {len(self.jobs)} running save and end")
        for job in self.jobs:
            with suppress(ProcessLookupError):
                os.killpg(job.child.pid, signal.SIGINT)

    def _start(self) -> list[Cell]:
        """Start pending cells while there is room; returns those that others have settled."""
        settled = []
        for cell in list(self.pending):
            if len(self.jobs) >= self.n_jobs:
                break
            if time.monotonic() - self.seen_live.get(cell.number, -LOOK_SECONDS) < LOOK_SECONDS:
                continue
            state = cell.look()
            if state == "live":
                self.seen_live[cell.number] = time.monotonic()
                continue
            # what another process has just tried in vain is not tried again at once
            if state == "finished" or (
                state == "failed" and (cell.number in self.seen_live or not is_to_do(cell))
            ):
                self.pending.remove(cell)
                settled.append(cell)
                self.board.say(outcome(cell))
            elif (devices := self._devices(cell)) is not None:
                self.pending.remove(cell)
                self.jobs.append(self._job(cell, devices))
        return settled

    def _devices(self, cell: Cell) -> list[str] | None:
        """The GPUs for this cell, the least used first; none to leave them to it; None to wait for one."""
        trainer = cell.config["trainer"]
        named = isinstance(trainer["devices"], list)  # by their numbers among all that are visible
        if not self.gpus or self.n_jobs == 1 or trainer["accelerator"] == "cpu" or named:
            return []
        count = trainer["devices"] if isinstance(trainer["devices"], int) else 1
        used = Counter(gpu for job in self.jobs for gpu in job.devices)
        free = [g for g in sorted(self.gpus, key=lambda g: used[g]) if used[g] < self.jobs_per_gpu]
        if len(free) >= max(count, 1):
            return free[: max(count, 1)]
        return None if self.jobs else []

    def _job(self, cell: Cell, devices: list[str]) -> Job:
        assert cell.run is not None
        arguments = ["unclip", cell.verb, *cell.overrides, f"sweep={self.sweep}"]
        self.board.say(f"[{cell.number}] {typed(cell.verb, cell.overrides)}")
        more = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "process_group": 0}
        if not self.quiet:
            return Job(cell, process.start_child(*arguments, more=more, **options), devices, None, 0)
        log = cell.run.folder / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as words:
            options |= {"stdout": words, "stderr": subprocess.STDOUT}
            child = process.start_child(*arguments, more=more, **options)
            return Job(cell, child, devices, log, words.tell())

    def _reap(self) -> list[Cell]:
        """The cells whose processes have ended, each with its state and what went wrong."""
        ended = [job for job in self.jobs if job.child.poll() is not None]
        for job in ended:
            self.jobs.remove(job)
            status, state = job.child.returncode, job.cell.look()
            if state not in ("finished", "failed") and status not in process.WAS_STOPPED:
                job.cell.state, job.cell.error = "failed", ending(job)
            self.board.say(outcome(job.cell))
        return [job.cell for job in ended]


def outcome(cell: Cell) -> str:
    """What is said when a cell is settled."""
    taken = cell.seconds
    seconds = f" in {taken:.0f} s" if taken is not None else ""
    if cell.state == "finished":
        return f"[{cell.number}] finished{seconds}: {cell.label}"
    return f"[{cell.number}] {IN_WORDS[cell.state]}: {cell.label}{': ' + cell.error if cell.error else ''}"


@contextmanager
def heeding(stop: Callable[..., None]) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM call `stop(signal, frame)`; afterwards what they called before."""
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def unless_full(write: Callable[[], None]) -> None:
    """Write a sweep's record; a disk that refuses it ends neither the jobs nor the waiting for them."""
    with suppress(OSError):
        write()


def visible_gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(i) for i in range(gpus())]
    return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]


def ending(job: Job) -> str:
    """How its process ended, with the last line that it said where that was not shown."""
    status = job.child.returncode
    how = f"killed by signal {-status}" if status < 0 else f"its process ended with status {status}"
    lines: list[str] = []
    if job.log is not None:
        with suppress(OSError), job.log.open("rb") as words:  # its folder may have been removed
            words.seek(job.log_from)
            lines = words.read().decode(errors="replace").strip().splitlines()
    return f"{how}: {lines[-1].strip()}" if lines else how
