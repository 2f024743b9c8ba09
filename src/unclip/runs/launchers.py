"""Hydra's launchers for clusters and joblib, given this project's cells: submitted once, watched, recorded. No torch.

Their own would compose every cell again where it runs, and end with the first that fails. What a cluster's job does
there is in cluster_job.py.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from unclip.config.problems import Problem, Problems
from unclip.files import write_text
from unclip.runs import process
from unclip.runs.board import Board
from unclip.runs.cells import Cell, is_to_do
from unclip.runs.cluster_job import Layout, Task, layout
from unclip.runs.workers import heeding, outcome, unless_full

LOOK_SECONDS = 3.0  # between looks at the queue and at the runs
SUBMITTED = "slurm-job"  # in a run's folder: the job that was submitted for it
TIMEOUTS = 3  # how often a job at its time limit is queued again, where that is not said


@dataclass
class Job:
    """A cell submitted to submitit, by this command or by an earlier one: then there is no handle."""

    cell: Cell
    id: str
    handle: Any = None
    missed: int = 0  # looks at which it was not there


class Submitit:
    """One job for each cell, by Slurm or (`local`) as processes of this machine.

    What is live or queued already is waited for. Raises Problems where the cells' devices contradict the settings.
    """

    def __init__(self, cluster: str, settings: dict[str, Any], given: Collection[str], cells: list[Cell]):
        self.cluster, self.settings = cluster, settings
        if "max_num_timeout" in settings and "max_num_timeout" not in given:
            self.settings = {**settings, "max_num_timeout": settings["max_num_timeout"] or TIMEOUTS}
        self.layouts: dict[int, Layout] = {}
        problems: list[Problem] = []
        for cell in cells:
            try:
                if cell.run is not None:
                    asked = layout(cell.config["trainer"], settings, given)
                    self.layouts[cell.number] = self._alone(asked) if self._own_ranks(cell) else asked
            except Problems as found:
                problems += found.problems
        if problems:
            raise Problems(list(dict.fromkeys(problems)))
        self.n_jobs = int(settings.get("array_parallelism") or max(len(cells), 1))
        self.stopping = False

    def _own_ranks(self, cell: Cell) -> bool:
        """Whether Lightning starts the processes, not Slurm: without a Slurm, and in each stage of a whole run."""
        return self.cluster == "local" or cell.verb == "run"

    def _alone(self, asked: Layout) -> Layout:
        if asked.nodes > 1:
            why = "has one node here: `unclip train -m` with hydra/launcher=submitit_slurm takes more"
            raise Problems([Problem("trainer.num_nodes", asked.nodes, why)])
        return replace(asked, tasks=1)

    def carry_out(self, cells: list[Cell], sweep: str, changed: Callable[[], None]) -> bool:
        """Submit what is to do and wait for it; Ctrl-C ends the waiting, not Slurm's jobs."""
        self.board, self.sweep = Board(max(self.n_jobs, 2), len(cells)), sweep
        with heeding(self._stop), self.board:
            jobs = self._submitted([c for c in cells if is_to_do(c)])
            unless_full(changed)
            while jobs and not self.stopping:
                if settled := list(self._settled(jobs)):
                    jobs = [job for job in jobs if job not in settled]
                    unless_full(changed)
                running = [job.cell for job in jobs if job.cell.state == "live"]
                self.board.show(running, len(jobs) - len(running))
                time.sleep(LOOK_SECONDS if jobs else 0)
            if jobs:
                self._leave(jobs)
        return self.stopping

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _leave(self, jobs: list[Job]) -> None:
        if self.cluster == "local":
            self.board.say(f"stopping: {len(jobs)} jobs save and end")
            for job in jobs:
                if job.handle is not None:
                    job.handle.cancel()
            while any(job.handle is not None and not job.handle.done() for job in jobs):
                time.sleep(0.1)
        else:
            ids = " ".join(job.id for job in jobs if job.id)
            self.board.say(
                f"{len(jobs)} jobs go on, and the same command waits for them again; scancel {ids}"
            )

    # --- submission ------------------------------------------------------------------------------------------

    def _submitted(self, cells: list[Cell]) -> list[Job]:
        known = queued() if self.cluster == "slurm" else set()
        jobs, new = [], []
        for cell in cells:
            before = _submitted_as(cell)
            if cell.state == "live" or before in (known or ()):
                jobs.append(Job(cell, before or ""))
            else:
                new.append(cell)
        if jobs:
            self.board.say(f"{len(jobs)} of them are queued or running already")
        for wanted in dict.fromkeys(self.layouts[c.number] for c in new):  # an array is of one shape
            jobs += self._array(wanted, [c for c in new if self.layouts[c.number] == wanted])
        return jobs

    def _array(self, wanted: Layout, cells: list[Cell]) -> list[Job]:
        try:
            executor = self._executor(wanted)
            with executor.batch():
                handles = [executor.submit(self._task(cell, wanted)) for cell in cells]
        except (RuntimeError, ValueError, OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            line = [line for line in str(said).strip().splitlines() if line.strip()][-1].strip()
            raise Problems([Problem("hydra/launcher", f"submitit_{self.cluster}", line)]) from None
        jobs = [Job(cell, handle.job_id, handle) for cell, handle in zip(cells, handles, strict=True)]
        for job in jobs:
            assert job.cell.run is not None
            if self.cluster == "slurm":
                write_text(job.cell.run.folder / SUBMITTED, job.id)
            self.board.say(f"[{job.cell.number}] job {job.id}: {job.cell.label}")
        return jobs

    def _task(self, cell: Cell, wanted: Layout) -> Any:
        assert cell.run is not None
        unsaid = wanted.tasks > 1 and cell.config["trainer"]["devices"] in ("auto", -1)
        devices = [f"trainer.devices={wanted.tasks}"] if unsaid else []
        overrides = [*cell.overrides, *devices, f"sweep={self.sweep}"]
        return Task(cell.verb, overrides, cell.run.folder.absolute(), wanted.nodes * wanted.tasks)

    def _executor(self, wanted: Layout) -> Any:
        import submitit

        settings = dict(self.settings)
        timeouts = settings.pop("max_num_timeout", TIMEOUTS)
        folder = settings.pop("submitit_folder")
        executor = submitit.AutoExecutor(folder, cluster=self.cluster, slurm_max_num_timeout=timeouts)
        shared = ("timeout_min", "cpus_per_task", "mem_gb", "stderr_to_stdout")
        own = {key: settings.pop(key, None) for key in ("nodes", "tasks_per_node", "gpus_per_node", "name")}
        given = {k if k in shared else f"{self.cluster}_{k}": v for k, v in settings.items() if v is not None}
        if self.cluster == "slurm":  # when a process ends badly the others would wait for it
            given["slurm_srun_args"] = ["--wait=60"]
        name = own["name"] if own["name"] not in (None, "train", "unclip train") else f"unclip-{self.sweep}"
        executor.update_parameters(
            name=name,
            nodes=wanted.nodes,
            tasks_per_node=wanted.tasks,
            **({"gpus_per_node": wanted.gpus} if wanted.gpus else {}),
            **given,
        )
        return executor

    # --- watching --------------------------------------------------------------------------------------------

    def _settled(self, jobs: list[Job]) -> Iterator[Job]:
        known = queued() if self.cluster == "slurm" else None
        for job in jobs:
            state = job.cell.look()
            if self._is_there(job, known):
                job.missed = 0
                if state != "finished":
                    continue
            elif state not in ("finished", "failed"):
                job.missed += 1
                if state == "live" or job.missed < 2:  # files may be seen late on a shared disk
                    continue
                job.cell.error = self._last_words(job)
                job.cell.state = "failed" if state == "new" else state
            self.board.say(outcome(job.cell))
            yield job

    def _is_there(self, job: Job, known: set[str] | None) -> bool:
        if self.cluster == "local":
            return job.handle is not None and not job.handle.done()
        return known is None or job.id in known  # None: the controller did not answer

    def _last_words(self, job: Job) -> str:
        from submitit.core.utils import JobPaths

        paths = JobPaths(self.settings["submitit_folder"], job_id=job.id or "0", task_id=0)
        lines: list[str] = []
        for path in (paths.stdout, paths.stderr):
            with suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()
        said = [
            line.strip() for line in lines if line.strip() and not line.startswith(("submitit ", "srun: "))
        ]
        ends = [line for line in said if "***" in line]  # Slurm's own: time limit, memory, cancelled
        word = (ends or said or ["it said nothing"])[-1]
        return f"job {job.id} ended without finishing it: {word} ({paths.stdout.parent})"


def queued() -> set[str] | None:
    """The ids of one's jobs that are pending or running; None where the controller does not answer."""
    try:
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(asked.stdout.split()) if asked.returncode == 0 else None


def _submitted_as(cell: Cell) -> str | None:
    assert cell.run is not None
    try:
        return (cell.run.folder / SUBMITTED).read_text(encoding="utf-8").strip()
    except OSError:
        return None


class Joblib:
    """One worker of joblib for each cell, with one device. Raises Problems for a run of several processes."""

    def __init__(self, settings: dict[str, Any], cells: list[Cell]):
        for cell in cells:
            trainer = cell.config["trainer"] if cell.run is not None else {"devices": 1, "num_nodes": 1}
            if trainer["devices"] != 1 or trainer["num_nodes"] != 1:
                why = "joblib's workers cannot start further processes: hydra/launcher=local, or trainer.devices=1"
                raise Problems([Problem("trainer.devices", trainer["devices"], why)])
        numbers = {"pre_dispatch", "batch_size", "max_nbytes"}
        self.settings = {k: _number(v) if k in numbers else v for k, v in settings.items()}
        asked = int(settings.get("n_jobs") or 1)
        self.n_jobs = asked if asked > 0 else max((os.cpu_count() or 1) + 1 + asked, 1)

    def carry_out(self, cells: list[Cell], sweep: str, changed: Callable[[], None]) -> bool:
        """Each by `unclip VERB` in a worker; Ctrl-C stops all."""
        from joblib import Parallel, delayed

        todo = [c for c in cells if is_to_do(c)]
        settings = {**self.settings, "backend": "loky", "return_as": "generator_unordered"}
        work = (delayed(_carried_out)(c.number, c.verb, [*c.overrides, f"sweep={sweep}"]) for c in todo)
        by_number = {c.number: c for c in todo}
        try:
            for number, status in Parallel(**settings)(work):
                cell = by_number[number]
                if cell.look() not in ("finished", "failed") and status not in process.WAS_STOPPED:
                    cell.state, cell.error = "failed", f"its process ended with status {status}"
                print(outcome(cell), flush=True)
                unless_full(changed)
        except KeyboardInterrupt:
            for cell in todo:
                cell.look()
            return True
        return False


def _carried_out(number: int, verb: str, overrides: list[str]) -> tuple[int, int]:
    return number, process.run_child("unclip", verb, *overrides)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdigit() else value
