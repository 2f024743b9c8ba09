"""A cluster's job: one run, by as many processes as it has devices; what it asks for, what it does. Imports no torch.

submitit calls a Task in each process that Slurm starts. The first does what `unclip train` does, upstream included; the
others join it when it trains.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.cli import DONE
from unclip.config.problems import Problem, Problems
from unclip.runs import process
from unclip.runs.store import Run

POLL_SECONDS = 0.5
GPU_KEYS = ("gpus_per_node", "gpus_per_task", "gres", "mem_per_gpu", "cpus_per_gpu")
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Layout:
    """The resources of one run: nodes, processes on each, GPUs on each (None: not asked for)."""

    nodes: int
    tasks: int
    gpus: int | None


def layout(trainer: dict[str, Any], settings: dict[str, Any], given: Collection[str]) -> Layout:
    """A process a device: from the trainer's settings, which those of the launcher must not contradict. `given`: the
    launcher's keys that were typed. Raises Problems."""
    problems = []
    devices, accelerator = trainer["devices"], trainer["accelerator"]
    devices = len(devices) if isinstance(devices, list) else devices
    if not isinstance(devices, int) or devices < 1:
        known = settings.get("gpus_per_node")
        if not known:
            why = "must be known before the job starts: trainer.devices=N, or hydra.launcher.gpus_per_node=N"
            raise Problems([Problem("trainer.devices", trainer["devices"], why)])
        devices = int(known)
    for key, name, wanted in (
        ("tasks_per_node", "trainer.devices", devices),
        ("nodes", "trainer.num_nodes", trainer["num_nodes"]),
    ):
        if settings.get(key, 1) != wanted and (key in given or settings.get(key, 1) != 1):
            why = f"{name} = {wanted}, and a job has a process a device: leave this out, or make them equal"
            problems.append(Problem(f"hydra.launcher.{key}", settings[key], why))
    gpus = settings.get("gpus_per_node")
    if gpus is None and accelerator in ("gpu", "cuda") and not any(settings.get(k) for k in GPU_KEYS):
        gpus = devices
    elif gpus is not None and gpus != devices and accelerator != "cpu":
        why = f"trainer.devices = {devices}: leave this out, or make them equal"
        problems.append(Problem("hydra.launcher.gpus_per_node", gpus, why))
    if problems:
        raise Problems(problems)
    return Layout(trainer["num_nodes"], devices, gpus)


@dataclass(frozen=True)
class Task:
    """`unclip VERB overrides`, with `tasks` processes of which each is a rank of the run in `folder`."""

    verb: str
    overrides: list[str]
    folder: Path
    tasks: int

    def __call__(self) -> None:
        """Raises SystemExit with the status of a process that did not end well, so that Slurm sees a failed job."""
        import submitit

        here = submitit.JobEnvironment()
        attempt = f"{here.job_id}.{os.environ.get('SLURM_RESTART_COUNT', 0)}"
        ended = here.paths.folder / f"{attempt}.ended"
        slurm = {k: v for k, v in os.environ.items() if k.startswith("SLURM_")}
        status: int | None = DONE
        if here.global_rank == 0:
            ranks = {process.RANKS: json.dumps(slurm), process.ATTEMPT: attempt} if self.tasks > 1 else {}
            status = _to_its_end("unclip", self.verb, *self.overrides, more=ranks)
            ended.touch()
        elif self._trains(attempt, ended):
            status = _to_its_end("unclip.runs.job", str(self.folder), more=slurm)
        if status:
            raise SystemExit(status if status > 0 else 128 - status)

    def checkpoint(self) -> Any:
        """Called by submitit shortly before the time limit or on preemption: what to do once the job is queued again.
        The same task, which resumes from the checkpoint."""
        import submitit

        _stop()
        for child in _children:
            with suppress(ChildProcessError):  # without reaping it: __call__ does that
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(self)

    def _trains(self, attempt: str, ended: Path) -> bool:
        """Wait until the first rank trains; False where it ended without training."""
        while not ended.exists():
            with suppress(OSError, ValueError):
                if Run(self.folder).status.get("attempt") == attempt:
                    return True
            time.sleep(POLL_SECONDS)
        return False


def _to_its_end(*arguments: str, more: dict[str, str]) -> int:
    child = process.start_child(*arguments, more=more)
    _children.append(child)
    signal.signal(signal.SIGTERM, _stop)
    while child.poll() is None:  # not wait(): a signal's handler could not wait for the same child
        time.sleep(POLL_SECONDS)
    _children.remove(child)
    return int(child.returncode)


def _stop(*_: Any) -> None:
    """Pass SIGTERM on. Slurm may have sent it to the child already: a second one does not keep it from saving."""
    for child in _children:
        child.send_signal(signal.SIGTERM)
