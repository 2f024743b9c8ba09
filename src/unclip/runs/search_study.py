"""A search's trials in Optuna's storage: which is next, whose it is, what has come of it. Starts no process; no torch.

Several processes share a study. Each holds a lock of its own for as long as it lives, and marks its trials as its own;
a trial whose process is gone is closed and enters the queue again with the same values, to go on from its run's
checkpoint. What is decided about the next trial is decided under one lock in the search's folder.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import optuna
from hydra.utils import instantiate
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from unclip.config.problems import Problem, Problems
from unclip.runs.search import Request
from unclip.runs.search_space import Point, short
from unclip.runs.search_storage import distribution, importance, storage
from unclip.runs.store import Run

TO_TELL = 10  # complete trials, from which on there is a best tenth
STALE_SECONDS = 300.0  # without a beat, where the lock of the trial's process cannot be seen from here
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True)
class Trial:
    """What is known of a trial, apart from Optuna. `course`: the metric on the way, by step."""

    number: int
    state: str
    point: Point
    values: list[float]
    error: str | None
    folder: str | None
    seconds: float
    course: dict[int, float]
    best: bool = False

    @property
    def label(self) -> str:
        return " ".join(f"{name}={short(value)}" for name, value in self.point.items())


class Ledger:
    """The study of a search. `with Ledger(request) as ledger` takes part in it; without, it is only read.

    Raises Problems: a storage that cannot be read, a study of something else, a sampler that cannot do this.
    """

    @staticmethod
    def exists(asked: Request) -> bool:
        """Whether there may be trials of it: a journal, or a database that was named."""
        return "://" in (asked.config["storage"] or "") or _journal(asked).is_file()

    def __init__(self, asked: Request):
        self.asked, self.folder = asked, asked.folder
        self.space: dict[str, BaseDistribution] = {n: distribution(axis) for n, axis in asked.space.items()}
        ways = optuna.study.StudyDirection
        self.directions = [ways[o.direction.upper()] for o in asked.objectives]
        self._try()
        self.target = int(asked.config["trials"])
        points = getattr(self._sampler(0), "points", None)  # a grid has an end
        self.target = min(self.target, len(points)) if points else self.target
        self.place = asked.config["storage"] or str(_journal(asked))
        self.shared = "://" in self.place  # perhaps by machines that do not see this folder
        self.name = f"{platform.node()}-{os.getpid()}-{time.time_ns() % 10**9}"
        self.study = self._opened()

    def __enter__(self) -> Ledger:
        self.alive = self._worker(self.name).lock()
        self.alive.__enter__()
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is None:  # else it stays, with a lock that nobody holds: its trials are free at once
            shutil.rmtree(self._worker(self.name).folder, ignore_errors=True)
        self.alive.__exit__(kind, *error)

    def _worker(self, name: str) -> Run:
        """The folder of a process that takes part: its lock shows whether the process is alive."""
        return Run(self.folder / ".workers" / name)

    def take(self) -> tuple[optuna.Trial, Point] | None:
        """The next trial and its values; None where there is none to start, now or ever."""
        with self._lock():
            self._take_up()
            trials = self._all()
            waiting = any(t.state == TrialState.WAITING for t in trials)
            if not waiting and len(self._counted(trials)) >= self.target:
                return None
            self.study.sampler = self._sampler(len(trials))
            trial = self.study.ask(self.space)
            trial.set_user_attr("beat", time.time())
            trial.set_user_attr("worker", self.name)
            return trial, {name: trial.params[name] for name in self.space}

    def under_way(self) -> bool:
        """Whether trials are left that somebody works at, or that nobody has taken yet."""
        return any(not t.state.is_finished() for t in self._all())

    def settle(
        self,
        trial: optuna.Trial,
        state: str,
        values: Sequence[float] | None = None,
        **known: Any,
    ) -> None:
        """complete with its values, pruned or failed. Nothing is done where another has taken it up meanwhile."""
        to = next(s for s, word in STATES.items() if word == state)
        with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError), self._lock():
            for key, value in known.items():
                trial.set_user_attr(key, value)
            self.study.tell(trial, values, to)

    def release(self, trial: optuna.Trial) -> None:
        """Give the trial up, for the next process that takes part in the search to take over."""
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr("worker", None)

    def beat(self, trials: Sequence[optuna.Trial]) -> None:
        """Say that these are being worked at."""
        for trial in trials:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                trial.set_user_attr("beat", time.time())

    def trials(self) -> list[Trial]:
        """All but those that were taken up again, in order; the best are marked."""
        counted = self._counted(self._all())
        complete = [t for t in counted if t.state == TrialState.COMPLETE]
        best = {t.number for t in complete if not any(self._dominates(o, t) for o in complete)}
        if len(self.study.directions) == 1:
            best = set(sorted(best)[:1])
        return [_known(t, t.number in best) for t in counted]

    def importance(self) -> list[Point]:
        """Of each objective by name the share of an axis in what makes the best tenth of the complete trials
        (PED-ANOVA, Watanabe et al. 2023); {} where there are too few trials to tell."""
        if sum(t.state == TrialState.COMPLETE for t in self._all()) < TO_TELL:
            return []
        return [importance(self.study, list(self.space), i) for i in range(len(self.directions))]

    def counts(self) -> str:
        """`12 of 20 trials: 9 complete, 3 pruned; best 3.81`."""
        trials = self.trials()
        gone = {t.number for t in self._all() if t.state == TrialState.RUNNING and self._is_gone(t)}
        said = ["interrupted" if t.number in gone else t.state for t in trials]
        words = ", ".join(f"{said.count(s)} {s}" for s in (*STATES.values(), "interrupted") if s in said)
        settled = sum(t.state in ("complete", "pruned", "failed") for t in trials)
        one, tail = len(self.asked.objectives) == 1, ""
        if best := [t for t in trials if t.best]:
            tail = f"; best {best[0].values[0]:.5g}" if one else f"; {len(best)} on the front"
        return f"{settled} of {self.target} trials{': ' if words else ''}{words}{tail}"

    def _take_up(self) -> None:
        """Queue again the trials whose process is gone and, with retry=true, those that failed."""
        trials = self._all()
        retry = self.asked.config["retry"]
        continued = {t.user_attrs.get("continues") for t in trials}
        for trial in trials:
            gone = trial.state == TrialState.RUNNING and self._is_gone(trial)
            again = retry and trial.state == TrialState.FAIL and trial.number not in continued
            if (gone and trial.number not in continued) or again:
                self.study.enqueue_trial(trial.params, user_attrs={"continues": trial.number})
            if gone:
                with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
                    self.study.tell(trial.number, state=TrialState.FAIL)

    def _is_gone(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is None and ("worker" in trial.user_attrs or not self.shared):
            return True  # released; or its process ended within take(), whose lock is ours now
        if worker and self._worker(worker).folder.is_dir():
            return not self._worker(worker).held
        beat = trial.user_attrs.get("beat") or (trial.datetime_start or datetime.now()).timestamp()
        return time.time() - float(beat) > STALE_SECONDS

    def _counted(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        continued = {t.user_attrs.get("continues") for t in trials}
        return [t for t in trials if t.number not in continued]

    def _all(self) -> list[FrozenTrial]:
        with self._readable():
            return self.study.get_trials(deepcopy=False)

    def _dominates(self, one: FrozenTrial, other: FrozenTrial) -> bool:
        better = [
            (a - b) * (1 if way == optuna.study.StudyDirection.MAXIMIZE else -1)
            for a, b, way in zip(one.values, other.values, self.study.directions, strict=True)
        ]
        return min(better) >= 0 and max(better) > 0

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A new sampler for each trial, its seed increased by the trial's number: a search that is resumed or shared
        by several processes draws what an uninterrupted one would draw, and never the same twice."""
        node = dict(self.asked.config["suggest"])
        if node.get("seed") is not None:
            node["seed"] += number
        return cast("optuna.samplers.BaseSampler", instantiate(node, _convert_="all"))

    def _try(self) -> None:
        """Try sampler and pruner on a study in memory: what they cannot do is reported before anything is recorded."""
        for key in ("suggest", "prune"):
            try:
                if key == "prune":
                    self.pruner = instantiate(self.asked.config[key], _convert_="all")
                    continue
                study = optuna.create_study(directions=self.directions, sampler=self._sampler(0))
                study.tell(study.ask(self.space), [0.0] * len(self.directions))
                study.ask(self.space)  # some look at the space only when there was a trial
            except Exception as error:  # whatever a sampler's own code raises
                cause = error.__cause__ or error
                why = str(cause).strip().splitlines()[0]
                raise Problems([Problem(key, self.asked.config[key]["_target_"], why)]) from None

    def _opened(self) -> optuna.Study:
        if not self.shared:
            Path(self.place).parent.mkdir(parents=True, exist_ok=True)
        with self._readable():
            study = optuna.create_study(
                study_name=self.asked.name,
                storage=storage(self.place),
                directions=self.directions,
                pruner=self.pruner,
                load_if_exists=True,
            )
            made_of = study.user_attrs.get("what")
            if made_of is None:
                study.set_user_attr("what", self.asked.what)
        other = [k for k, v in self.asked.what.items() if made_of and made_of.get(k) != v]
        if other:
            names = ", ".join(other)
            why = f"{self.place} has it with other {names}: remove that, or name another place by storage="
            raise Problems([Problem("search", self.asked.name, why)])
        return study

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, Problems):
            raise
        except Exception as error:  # a journal's or a database's own, of many kinds
            why = f"cannot be read ({_first_line(error)}): repair it, remove it, or name another by storage="
            raise Problems([Problem("storage", self.place, why)]) from None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _journal(asked: Request) -> Path:
    named = asked.config["storage"]
    return Path(named) if named else asked.folder.with_name(f"{asked.name}.journal")


def _known(trial: FrozenTrial, best: bool) -> Trial:
    attrs = trial.user_attrs
    return Trial(
        number=trial.number,
        state=STATES[trial.state],
        point=dict(trial.params),
        values=list(trial.values or []) if trial.state == TrialState.COMPLETE else [],
        error=attrs.get("error"),
        folder=attrs.get("folder"),
        seconds=float(attrs.get("seconds", 0.0)),
        course=dict(trial.intermediate_values),
        best=best,
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
