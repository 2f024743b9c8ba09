"""The progress of a sweep's running jobs: a live table on a terminal, a line now and then elsewhere. Imports no torch.

Read from what the jobs write for themselves, status.json and metrics.csv: nothing is asked of their processes.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from unclip.runs.cells import Cell, time_in_words
from unclip.runs.store import Run

if TYPE_CHECKING:
    from rich.table import Table

TABLE_SECONDS, LINE_SECONDS = 1.0, 30.0
TAIL_BYTES = 32_768  # of metrics.csv: its last rows


class Board:
    """`with Board(n_jobs, cells) as board: board.show(running cells, pending)`, as often as one likes."""

    def __init__(self, n_jobs: int, cells: int):
        self.n_jobs, self.cells = n_jobs, cells
        self.live = sys.stdout.isatty()
        self.typical: float | None = None  # seconds that a run takes
        self.began: dict[int, float] = {}  # cell -> when it was first seen at work
        # cell, stage -> when it was first seen at work, and at which step
        self.first: dict[tuple[int, str], tuple[float, int]] = {}
        self.shown = time.monotonic()
        self.rich: Any = None

    def __enter__(self) -> Board:
        if self.live:
            from rich.live import Live

            self.rich = Live(refresh_per_second=4, transient=True)
            self.rich.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.rich:
            self.rich.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.rich:
            self.rich.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def show(self, running: list[Cell], pending: int) -> None:
        """The state of things, if the last time was long enough ago."""
        now = time.monotonic()
        if now - self.shown < (TABLE_SECONDS if self.live else LINE_SECONDS):
            return
        self.shown = now
        rows = [self._row(cell, now) for cell in running]
        if self.rich:
            self.rich.update(self._table(rows, pending))
        elif self.n_jobs > 1:
            parts = [
                f"[{number}] {step}{f' loss {loss}' if loss else ''}" for number, _, step, loss, *_ in rows
            ]
            print(f"  {self._title(len(running), pending)}; {', '.join(parts)}", flush=True)

    def _row(self, cell: Cell, now: float) -> list[str]:
        run, stage, total = cell.training()
        found = progress(run) if run else {}
        step = int(found.get("step", 0))
        started = self.began.setdefault(cell.number, now)
        since, start = self.first.setdefault((cell.number, stage), (now, step))
        left = ""
        if not stage and step > start and total > 0:
            left = time_in_words((now - since) / (step - start) * (total - step))
        elif self.typical is not None:
            left = time_in_words(max(self.typical - (now - started), 0))
        loss, fid = (f"{found[k]:.4g}" if k in found else "" for k in ("loss", "fid"))
        steps = f"{step}/{total}" if total > 0 else str(step) if run else ""
        return [str(cell.number), cell.label, f"{stage} {steps}".strip(), loss, fid, left]

    def _title(self, running: int, pending: int) -> str:
        words = f"{running} running, {pending} waiting, {self.cells - running - pending} settled"
        if self.typical is None or not (pending or running):
            return words
        return f"{words}, about {time_in_words(self.typical * (pending + running / 2) / self.n_jobs)} to go"

    def _table(self, rows: list[list[str]], pending: int) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self._title(len(rows), pending), title_justify="left", box=None, pad_edge=False)
        for name in ("", "run", "step", "loss", "FID", "ETA"):
            table.add_column(name, no_wrap=name != "run")
        for row in rows:
            table.add_row(*map(Text, row))
        return table


def progress(run: Run) -> dict[str, float]:
    """step, loss and fid, each where it is known, from a run's last heartbeat and the last rows of its metrics."""
    found: dict[str, float] = {}
    with suppress(OSError, ValueError):
        status = run.status
        found |= {key: float(status[key]) for key in ("step", "loss") if status.get(key) is not None}
    for row in _last_rows(run):
        for name, text in row.items():
            key = {"step": "step", "train/loss": "loss"}.get(name) or (
                "fid" if name.startswith("val/fd") else None
            )
            try:
                value = float(text)
            except (TypeError, ValueError):
                continue
            if key == "step":
                value = max(value, found.get("step", 0))
            if key:
                found[key] = value
    return found


def _last_rows(run: Run) -> list[dict[str, str]]:
    try:
        with (run.folder / "metrics.csv").open("rb") as file:
            header = file.readline()
            file.seek(max(len(header), file.seek(0, io.SEEK_END) - TAIL_BYTES))
            body = file.read()
    except OSError:
        return []
    text = header.decode(errors="replace"), *body.decode(errors="replace").splitlines(keepends=True)
    names = next(csv.reader(text[:1]), [])
    rows = (row for row in csv.reader(text[1:]) if len(row) == len(names))  # a cut first row is left out
    return [dict(zip(names, row, strict=True)) for row in rows]
