"""A progress bar with a note and the time to go; where output is no terminal, a line every few seconds instead."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS = 20.0


class Left(TimeRemainingColumn):
    """The time to go, and at the end the time that it took."""

    def render(self, task: Task) -> Text:
        return Text.assemble("in " if task.finished else "ETA ", super().render(task))


class Bar:
    """`with Bar("sampling", 500) as bar: bar.update(done, "note")`."""

    def __init__(self, label: str, total: int, done: int = 0):
        self.label, self.total, self.before = label, total, done
        self.note, self.said = "", -1
        self.live = sys.stdout.isatty()
        self.rich = Progress(
            TextColumn("  {task.description:<16}"),
            BarColumn(bar_width=None),  # what the others leave: 80 columns are enough
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            Left(compact=True, elapsed_when_finished=True),
            expand=True,
            disable=not self.live,
        )
        self.task = self.rich.add_task(label, total=total, completed=done, note="")

    def start(self) -> None:
        self.started = self.printed = time.monotonic()
        self.rich.start()

    def stop(self) -> None:
        self.rich.stop()

    def update(self, done: int, note: str | None = None) -> None:
        """Say that `done` of the total is done; a note stays until the next one."""
        self.note = self.note if note is None else note
        self.rich.update(self.task, completed=done, note=self.note)
        now = time.monotonic()
        ends = done >= self.total > self.said
        if not self.live and (ends or now - self.printed > LINE_SECONDS):
            # by the pace since the last line: an average would remember for hours that the machine slept
            left = (now - self.printed) / max(done - self.before, 1) * (self.total - done)
            self.printed, self.said, self.before, elapsed = now, done, done, now - self.started
            words = f"  {self.note}" if self.note else ""
            print(
                f"  {self.label}: {done}/{self.total}{words}  {elapsed:.0f} s, ETA {left:.0f} s", flush=True
            )

    def __enter__(self) -> Bar:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
