"""Between a search and Optuna: axes as distributions, a grid over them, a journal that survives kill -9, importance."""

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from unclip.runs.search_space import Axis, Point, axes_of

ENTRY = b'{"op_code":'  # how every line of a journal begins


class Grid(RandomSampler):
    """Every combination of the axes' values, in order: a trial gets the first that no other trial has.

    Raises ValueError where an axis is a range of numbers without a step.
    """

    def __init__(self, space: dict[str, dict[str, Any]]):
        super().__init__()
        axes, _ = axes_of(space)
        values = itertools.product(*(_values(axis) for axis in axes.values()))
        self.points = [dict(zip(axes, point, strict=True)) for point in values]
        self.mine: Point = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Under the ledger's lock, so that the others' values are known."""
        taken = [t.params for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        self.mine = next((p for p in self.points if p not in taken), self.points[0])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.mine[param_name]


def _values(axis: Axis) -> list[Any]:
    found = distribution(axis)
    if isinstance(found, CategoricalDistribution):
        return list(found.choices)
    step = found.step
    if step is None or axis.log:
        raise ValueError(f"a grid needs a step for space.{axis.name}, or choices")
    count = int((found.high - found.low) / step + 1e-9) + 1
    return [found.low + i * step for i in range(count)]


def distribution(axis: Axis) -> CategoricalDistribution | IntDistribution | FloatDistribution:
    """An axis as Optuna knows it."""
    if axis.choices:
        return CategoricalDistribution(axis.choices)
    whole = all(isinstance(v, int) for v in (axis.low, axis.high, axis.step or 1))
    if whole:
        return IntDistribution(int(axis.low), int(axis.high), axis.log, int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, axis.log, axis.step)


def storage(place: str) -> Any:
    """The database, where the place is a URL; else the journal, without the half line that a killed process may have
    left at its end: the journal could not be read with it."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    if "://" in place:
        return RDBStorage(place)
    lock = JournalFileSymlinkLock(place)
    path = Path(place)
    if path.is_file() and _torn(path):
        lock.acquire()
        try:
            os.truncate(path, path.stat().st_size - _torn(path))
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(place, lock_obj=lock))


def _torn(path: Path) -> int:
    """The length in bytes of an unfinished last entry of a journal; 0 where there is none."""
    tail = path.read_bytes().rpartition(b"\n")[2]
    return len(tail) if tail[: len(ENTRY)] == ENTRY[: len(tail)] else 0


def importance(study: optuna.Study, names: list[str], objective: int) -> Point:
    """The importance of each parameter for an objective, by name (PED-ANOVA); {} where it cannot be computed."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    maximized = study.directions[objective] == optuna.study.StudyDirection.MAXIMIZE
    sign = -1.0 if maximized else 1.0  # with a target, the evaluator takes the lower for the better
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return get_param_importances(
                study,
                evaluator=PedAnovaImportanceEvaluator(),
                params=names,
                target=lambda trial: sign * trial.values[objective],
            )
    except (ValueError, RuntimeError):
        return {}
