"""In the place of a training: a job of a tenth of a second that logs, saves, stops and resumes like one.

`python -m tests.runs.quick_jobs VERB ...` is `unclip VERB ...` with such jobs; with a run's folder it is the job.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from unclip.runs import process
from unclip.runs.store import Run

if TYPE_CHECKING:
    from unclip.runs.cells import Cell
    from unclip.runs.search_jobs import Jobs
    from unclip.runs.workers import Job

STEPS = 10


def loss(lr: float, step: int = STEPS) -> float:
    """Of a run with this learning rate: best at 1e-3, falling towards the end."""
    return (math.log10(lr) + 3) ** 2 + 0.1 + (STEPS - step) / STEPS


def begin(self: Jobs, cell: Cell, devices: list[str]) -> Job:
    """In the place of `Workers._job`."""
    assert cell.run is not None
    cell.run.prepare(cell.config, " ".join(cell.overrides))
    from unclip.runs.workers import Job

    child = process.start_child("tests.runs.quick_jobs", str(cell.run.folder), process_group=0)
    return Job(cell, child, devices, None, 0)


def job(run: Run) -> int:
    """Writes of its start into the file `started`: who started it, its learning rate, and the step it goes on from."""
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    lr, tick = config["optim"]["lr"], float(os.environ.get("TICK", "0.01"))
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    with run.lock():
        done = int(run.checkpoint.read_text()) if run.checkpoint.is_file() else 0
        with Path("started").open("a") as file:
            file.write(f"{os.getppid()} {lr!r} {done}\n")
        run.mark("running", error=None)
        if config["seed"] == 1 and not config["retry"]:
            run.mark("failed", error="first line\nit broke")
            return 1
        for step in range(done + 1, STEPS + 1):
            time.sleep(tick)
            metrics = run.folder / "metrics.csv"
            with metrics.open("a") as file:
                file.write(("" if step > 1 else "step,val/loss\n") + f"{step},{loss(lr, step)!r}\n")
            run.checkpoint.write_text(str(step))
            if asked:
                run.mark("interrupted")
                return 130
        run.weights.touch()
        found = {"val/loss": loss(lr)} | ({"val/fd_n8": 2.0, "val/fd_n64": 1.0} if lr < 1 else {})
        run.mark("finished", seconds=3.0, parameters=config["model"]["width"], metrics=found)
    return 0


if __name__ == "__main__":
    if Path(sys.argv[1], "config.yaml").is_file():
        sys.exit(job(Run(Path(sys.argv[1]))))
    from unclip.cli import main
    from unclip.report import search
    from unclip.runs import search_jobs
    from unclip.runs.search_jobs import Jobs

    Jobs._job = begin  # type: ignore[method-assign]
    search.deliver = lambda *_: "no page"  # type: ignore[assignment]
    search_jobs.LOOK_SECONDS = 0.05
    sys.exit(main(sys.argv[1:]))
