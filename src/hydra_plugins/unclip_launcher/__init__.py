"""Hydra's plugins of this project, found by Hydra in this namespace package: how sweeps on this machine are launched.

The work is in unclip/runs/sweep.py; Hydra imports this at every composition, so nothing heavy is imported here.
"""

# no `from __future__ import annotations`: Hydra executes this before it is in sys.modules, and dataclasses look there

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher


class LocalLauncher(Launcher):
    """Each job in a process of its own, `n_jobs` at a time (null: as many as the GPUs hold, one where there is none),
    `jobs_per_gpu` on a GPU. The task function does it: an unclip.runs.sweep.Sweep."""

    def __init__(self, n_jobs: int | None = None, jobs_per_gpu: int = 1):
        self.n_jobs, self.jobs_per_gpu = n_jobs, jobs_per_gpu

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.sweep = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """One return a job, in order; its value is the state its run is in. A failed job raises nothing."""
        return _launched(self.sweep, job_overrides, self._workers)

    def _workers(self, cells: list[Any]) -> Any:
        from unclip.runs.workers import Workers

        return Workers(self.n_jobs, self.jobs_per_gpu)


def _launched(
    sweep: Any, job_overrides: Sequence[Sequence[str]], launched: Any, also: Sequence[str] = ()
) -> list[JobReturn]:
    cells = [[o for o in job if not o.startswith(("hydra.", "hydra/"))] for job in job_overrides]
    states = sweep.launch(cells, launched, also)
    returns = []
    for job, state in zip(job_overrides, states, strict=True):
        done = JobReturn(overrides=list(job), status=JobStatus.COMPLETED)
        done.return_value = state
        returns.append(done)
    return returns


class OthersLauncher(Launcher):
    """The launchers of submitit and joblib by their settings; `name` is the chosen option of hydra/launcher."""

    def __init__(self, name: str, settings: dict[str, Any], config: Any):
        self.name, self.settings = name, settings
        typed = (str(o).lstrip("+").split("=")[0] for o in config.hydra.overrides.hydra)
        self.given = {key.removeprefix("hydra.launcher.") for key in typed}

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.sweep = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """As LocalLauncher's."""
        return _launched(self.sweep, job_overrides, self._by, [f"hydra/launcher={self.name}"])

    def _by(self, cells: list[Any]) -> Any:
        from unclip.runs.launchers import Joblib, Submitit

        if self.name == "joblib":
            return Joblib(self.settings, cells)
        return Submitit(self.name.removeprefix("submitit_"), self.settings, self.given, cells)


class LocalSweeper(BasicSweeper):
    """Hydra's cartesian product. The request was checked as a whole, and every cell is composed once, by the launcher
    or by its own process: composing each here too would take minutes for a thousand."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        launcher: Any = self.launcher
        kind = type(launcher).__module__.split(".")[1]
        if kind in ("hydra_submitit_launcher", "hydra_joblib_launcher"):
            settings = launcher.params if hasattr(launcher, "params") else launcher.joblib
            self.launcher = OthersLauncher(
                config.hydra.runtime.choices["hydra/launcher"], dict(settings), config
            )
            self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass


@dataclass
class LocalLauncherConf:
    """The keys of `hydra/launcher=local`."""

    _target_: str = "hydra_plugins.unclip_launcher.LocalLauncher"
    n_jobs: int | None = None
    jobs_per_gpu: int = 1


@dataclass
class LocalSweeperConf(BasicSweeperConf):
    """The keys of `hydra/sweeper=local`."""

    _target_: str = "hydra_plugins.unclip_launcher.LocalSweeper"


_store = ConfigStore.instance()
_store.store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="unclip")
_store.store(group="hydra/sweeper", name="local", node=LocalSweeperConf, provider="unclip")
