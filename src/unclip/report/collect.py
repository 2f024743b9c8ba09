"""From sweep records, results folders, run folders and folders of runs to cells with their seeds. Imports no torch, and
writes nothing.

A cell is what differs in more than the seed; its trials are its seeds.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unclip.config.problems import Problem, Problems
from unclip.reading import DamagedFile, demand, read_json
from unclip.report import measures
from unclip.report.statistics import Estimate, estimate
from unclip.report.trials import WORDS, Trial, is_results, is_run, is_seed, located, read
from unclip.runs import shapes
from unclip.runs.listing import DEPTH, UNREADABLE

# keys that are typed, and no settings of what is run
PLUMBING = re.compile(r"results|sweep|retry|dry_run|clip|prior|experiment|paths\..*|hydra.*")


@dataclass
class Cell:
    """What was run under one name, seed by seed."""

    name: str
    values: dict[str, str]  # of the axes
    trials: list[Trial] = field(default_factory=list)

    def seeds(self, metric: str) -> dict[str, float]:
        """The values of the trials that finished, by seed."""
        return {t.seed: t.metrics[metric] for t in self.trials if t.finished and metric in t.metrics}

    def estimate(self, metric: str) -> Estimate:
        return estimate(list(self.seeds(metric).values()))

    @property
    def done(self) -> list[Trial]:
        return [t for t in self.trials if t.finished]

    @property
    def states(self) -> str:
        """`2 finished, 1 failed`."""
        counts = Counter(WORDS[t.state] for t in self.trials)
        return ", ".join(f"{counts[w]} {w}" for w in WORDS.values() if counts[w])

    @property
    def errors(self) -> list[tuple[str, str]]:
        """(seed, last line of the error) of each trial that has one."""
        return [(t.seed, t.error) for t in self.trials if t.error]


@dataclass
class Collection:
    """All cells. axes: of several values, without seeds. ablation: what its file claims, {} of a plain sweep."""

    name: str
    cells: list[Cell]
    axes: dict[str, list[str]] = field(default_factory=dict)
    ablation: dict[str, Any] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    command: str = ""
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Cell:
        return next(cell for cell in self.cells if cell.name == name)

    @property
    def trials(self) -> list[Trial]:
        return [trial for cell in self.cells for trial in cell.trials]

    @property
    def present(self) -> list[str]:
        """The names of all numbers that a finished trial has."""
        return list(dict.fromkeys(name for t in self.trials if t.finished for name in t.metrics))

    def seeds(self, metric: str) -> dict[str, dict[int, float]]:
        """cell -> seed -> value, seeds numbered as statistics.py takes them; a seed has one number everywhere."""
        labels = sorted({t.seed for t in self.trials}, key=_in_order)
        number = {label: int(label) if label.isdecimal() else -1 - i for i, label in enumerate(labels)}
        return {c.name: {number[s]: v for s, v in c.seeds(metric).items()} for c in self.cells}

    def ranked(self, metric: str) -> list[Cell]:
        """The cells that have a metric, the best first, in their order where no way is better; without a finite mean
        last."""
        having = [(cell.estimate(metric).mean, cell) for cell in self.cells if cell.seeds(metric)]
        sign = {"lower": 1, "higher": -1, "": 0}[measures.measure(metric).better]
        finite = sorted((one for one in having if math.isfinite(one[0])), key=lambda one: sign * one[0])
        return [cell for _, cell in [*finite, *(one for one in having if not math.isfinite(one[0]))]]


def collect(paths: Sequence[Path]) -> Collection:
    """What the paths hold, one after the other; what several sources call the same is kept apart by the source's name.

    Raises Problems for a path that is not there or holds no runs, and a record that cannot be read.
    """
    problems, found, loose = [], [], []
    for path in paths:
        if path.is_file():
            try:
                found.append(_record(path))
            except DamagedFile as damaged:
                problems.append(Problem("", None, str(damaged)))
        elif not path.is_dir():
            why = "there is no such file or folder; give a sweep's record, a results folder, a run or a folder of runs"
            problems.append(Problem("", None, f"{path}: {why}"))
        elif folders := list(_folders(path)):
            loose += folders
        else:
            problems.append(Problem("", None, f"{path}: holds no run and no results of one"))
    if problems:
        raise Problems(problems)
    if loose:
        found.append(_loose(list(dict.fromkeys(loose))))
    whole = found[0] if len(found) == 1 else _together(found)
    whole.sources = [str(path) for path in paths]
    whole.name = whole.name or "+".join(path.resolve().stem for path in paths)[:80]
    whole.notes += list(_warnings(whole))
    return whole


# ---- records ----------------------------------------------------------------------------------------------------


def _record(path: Path) -> Collection:
    record = read_json(path)
    if not isinstance(record.get("cells"), list):
        raise DamagedFile(f"{path} is no record of a sweep: it has no list of cells")
    demand(record, f"{shapes.__name__}.Sweep", str(path))
    for number, one in enumerate(record["cells"], 1):
        demand(one, f"{shapes.__name__}.Cell", f"{path}: cell {number}")
    ablation = record.get("ablation") or {}
    demand(ablation, f"{shapes.__name__}.Ablation", f"{path}: ablation")
    for kind, shape in (("claims", "Claim"), ("published", "Published")):
        for number, one in enumerate(ablation.get(kind) or [], 1):
            demand(one, f"{shapes.__name__}.{shape}", f"{path}: ablation.{kind}[{number}]")
    trials = [_cell_of_record(cell, path) for cell in record["cells"]]
    axes = _axes([t.values for t in trials])
    short = [_name(t.values, axes) for t in trials]
    clear = len(set(short)) == len({tuple(_fixed(t.values).items()) for t in trials})
    names = short if clear else [" ".join(f"{k}={v}" for k, v in _fixed(t.values).items()) for t in trials]
    return Collection(
        str(record.get("name") or path.stem),
        _grouped(zip(names, trials, strict=True)),
        axes,
        ablation,
        command=str(record.get("command") or ""),
    )


def _cell_of_record(cell: Mapping[str, Any], path: Path) -> Trial:
    """As its folder says; what has no folder or no state there, as the record says."""
    values = {str(k): str(v) for k, v in (cell.get("values") or {}).items()}
    seed = "/".join(v for k, v in values.items() if is_seed(k)) or None
    overrides = [str(o) for o in cell.get("overrides") or []]
    written, error = str(cell.get("state") or "new"), str(cell.get("error") or "")
    folder = located(Path(cell["folder"]), path) if cell.get("folder") else None
    trial = read(folder, values, seed) if folder and folder.is_dir() else Trial(values, seed or "", folder)
    trial.overrides = overrides
    if trial.state in ("new", "interrupted") and written == "failed":
        # a wrong request, or a run that never came to its own status
        trial.state, trial.error = "failed", error
    elif trial.state == "new" and written in ("finished", "interrupted"):
        trial.state = "new" if written == "finished" else "interrupted"
        trial.error = f"was {WORDS[written]}; its folder {folder} is not there" if folder else ""
    return trial


# ---- loose folders ----------------------------------------------------------------------------------------------


def _folders(folder: Path) -> Iterator[Path]:
    """Results folders, where there are none runs: a run is a part of its results."""
    if is_results(folder) or is_run(folder):
        yield folder
        return
    within = list(_within(folder, DEPTH))
    yield from [f for f in within if is_results(f)] or within


def _within(folder: Path, depth: int) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if not depth or entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        path = Path(entry.path)
        if is_run(path) and not is_results(path):
            yield path
            continue
        if is_results(path):
            yield path
        yield from _within(path, depth - 1)


def _loose(folders: Sequence[Path]) -> Collection:
    """Folders that no record describes: alike but for the seed is one cell, named by what was typed differently."""
    groups: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    for trial in map(read, folders):
        alike = tuple(sorted((k, str(v)) for k, v in trial.config.items() if not is_seed(k)))
        groups.setdefault(alike or (("", str(trial.folder)),), []).append(trial)
    typed = [_typed(group[0]) for group in groups.values()]
    common = set.intersection(*map(set, typed)) if typed else set()
    names = [" ".join(_said(*one) for one in some if one not in common) for some in typed]
    named = []
    for name, group in zip(names, groups.values(), strict=True):
        folder = group[0].folder
        place = folder.name if folder else ""
        unclear = name and names.count(name) > 1
        named += [(f"{name} ({place})" if unclear else name or place, t) for t in group]
    return Collection("", _grouped(named))


def _typed(trial: Trial) -> list[tuple[str, str]]:
    """Key and value of the overrides that are settings, seeds apart."""
    parts = [override.lstrip("+~").partition("=") for override in trial.overrides]
    return [(key, value) for key, _, value in parts if not PLUMBING.fullmatch(key) and not is_seed(key)]


# ---- cells ------------------------------------------------------------------------------------------------------


def _grouped(named: Iterable[tuple[str, Trial]]) -> list[Cell]:
    cells: dict[str, Cell] = {}
    for name, trial in named:
        cells.setdefault(name, Cell(name, _fixed(trial.values))).trials.append(trial)
    for cell in cells.values():
        cell.trials.sort(key=lambda t: _in_order(t.seed))
    return list(cells.values())


def _fixed(values: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in values.items() if not is_seed(k)}


def _axes(every: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Axis -> its values, of several, without seeds and names."""
    found: dict[str, list[str]] = {}
    for values in every:
        for key, value in _fixed(values).items():
            if key != "cell" and value not in found.setdefault(key, []):
                found[key].append(value)
    return {key: values for key, values in found.items() if len(values) > 1}


def _name(values: Mapping[str, str], axes: Mapping[str, Any]) -> str:
    """`cosine lr=0.001`: the values that vary, with their key where the value alone would say nothing."""
    if "cell" in values:
        return values["cell"]
    return " ".join(_said(key, values[key]) for key in axes if key in values) or "the only one"


def _said(key: str, value: str) -> str:
    word = value.rpartition("/")[2]
    bare = word[:1].isdigit() or word.lower() in ("true", "false", "null", "none")
    return word if word.replace("_", "a").isalnum() and not bare else f"{key.rpartition('.')[2]}={word}"


def _together(found: Sequence[Collection]) -> Collection:
    """Several sources side by side: no two of their cells are one, whatever they are called."""
    names = Counter(cell.name for one in found for cell in one.cells)
    cells = []
    for one in found:
        for cell in one.cells:
            name = f"{cell.name} ({one.name or 'folders'})" if names[cell.name] > 1 else cell.name
            cells.append(Cell(name, cell.values, cell.trials))
    titles = [one.name for one in found if one.name]
    notes = [n for one in found for n in one.notes]
    if any(one.ablation for one in found):
        notes.append("several sources: the claims of an ablation are judged in a report of its record alone")
    return Collection("+".join(titles)[:80], cells, _axes([c.values for c in cells]), notes=notes)


def _warnings(whole: Collection) -> Iterator[str]:
    """What a reader must know before comparing."""
    for trial in whole.trials:
        if trial.state == UNREADABLE:
            yield f"left out: {trial.error}"
    for name in measures.shown(whole.present):
        ways = {h for t in whole.trials if t.finished and (h := measures.how(name, t.measured))}
        if len(ways) > 1:
            yield f"{name} was not measured alike, its values do not compare: {'; '.join(sorted(ways))}"
        for cell in whole.cells:
            if wrong := [seed for seed, value in cell.seeds(name).items() if not math.isfinite(value)]:
                yield f"{cell.name}: {name} of seed {', '.join(wrong)} is not finite, so that the cell has no mean"
    steps = {tuple(t.steps.items()) for t in whole.trials if t.finished}
    if len(steps) > 1 and len({tuple(n for n, _ in s) for s in steps}) == 1:
        yield "the cells were not trained for equal steps: differences are not only those of the settings (see cost)"


def _in_order(seed: str) -> tuple[int, str]:
    return (int(seed), "") if seed.isdecimal() else (10**9, seed)
