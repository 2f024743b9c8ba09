"""One cell with one seed as it lies on disk: a training run's folder or the results folder of a whole run. Reads only,
never torch; what cannot be read is named in the trial's error, and left where it is."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from unclip.config.problems import in_words, last_line
from unclip.reading import DamagedFile, read_json
from unclip.report.measures import flat
from unclip.runs.listing import UNREADABLE, configuration, dotted
from unclip.runs.store import RECORD, REQUEST, Run, recorded

UPSTREAM = ("clip", "prior")  # keys that hold the signature of another run
NEVER = ("paths.", "logger.", "callbacks.progress.", "sweep", "retry", "dry_run", "results", "experiment")
WORDS = {
    "finished": "finished",
    "failed": "failed",
    "live": "running",
    "interrupted": "interrupted",
    "new": "not run yet",
    UNREADABLE: UNREADABLE,
}


@dataclass(frozen=True)
class Stage:
    """A training run that a trial stands on, or is."""

    folder: Path
    status: Mapping[str, Any]
    config: Mapping[str, Any]
    state: str
    problem: str = ""


@dataclass
class Trial:
    """What is known of one cell with one seed. metrics: numbers by their dotted path. config: leaves by their dotted
    names, those of a stage under its name where there are several."""

    values: dict[str, str]
    seed: str
    folder: Path | None = None
    state: str = "new"
    error: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)  # metrics.json
    config: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    extra: float = 0.0  # seconds beyond the stages': samples and metrics

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def seconds(self) -> float:
        return self.extra + sum(float(s.status.get("seconds") or 0) for s in self.stages.values())

    @property
    def steps(self) -> dict[str, int]:
        return {name: int(s.status["step"]) for name, s in self.stages.items() if s.status.get("step")}

    @property
    def parameters(self) -> int:
        return sum(int(s.status.get("parameters") or 0) for s in self.stages.values())

    @property
    def device(self) -> str:
        """Where it was trained, as far as its files say."""
        found = []
        for stage in self.stages.values():
            asked = stage.config.get("trainer") or {}
            many = asked.get("devices", 1)
            name = str(stage.status.get("device") or asked.get("accelerator") or "?")
            found.append(name if many in (1, "auto", None) else f"{many} x {name}")
        return ", ".join(dict.fromkeys(found))


def is_results(folder: Path) -> bool:
    """Whether it is a results folder of `unclip run`."""
    return any((folder / name).is_file() for name in (RECORD, REQUEST)) or (
        (folder / "metrics.json").is_file() and not (folder / "config.yaml").is_file()
    )


def is_run(folder: Path) -> bool:
    """Whether it is the folder of one training."""
    return any((folder / name).is_file() for name in ("config.yaml", "status.json"))


def read(folder: Path, values: dict[str, str] | None = None, seed: str | None = None) -> Trial:
    """The trial of a folder, whichever kind it is; `seed` where the sweep said which."""
    trial = Trial(values or {}, seed or "", folder)
    (_results if is_results(folder) or not is_run(folder) else _run)(trial)
    trial.seed = seed or _seed(trial)
    return trial


def _run(trial: Trial) -> None:
    """A training run: its metrics are those of its status.json."""
    assert trial.folder is not None
    stage = stage_of(trial.folder)
    trial.state = stage.state
    trial.error = stage.problem or last_line(stage.status.get("error") if stage.state == "failed" else "")
    trial.stages = {_stage_name(stage.config): stage} if stage.config or stage.status else {}
    trial.config = dict(_leaves(stage.config, trial.folder.parent))
    trial.overrides = _typed(stage.status)
    if stage.state == "finished":
        metrics = stage.status.get("metrics")
        trial.metrics = flat(metrics) if isinstance(metrics, Mapping) else {}


def _results(trial: Trial) -> None:
    """The results folder of a whole run: the metrics of metrics.json, the stages of pipeline.json."""
    assert trial.folder is not None
    folder = trial.folder
    try:
        status = Run(folder).status
        record = recorded(folder) or {"stages": {}}
        measured = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    except (OSError, DamagedFile) as damaged:
        trial.state, trial.error = UNREADABLE, in_words(damaged)
        return
    trial.stages = {
        name: stage_of(located(Path(s["folder"]), folder)) for name, s in record["stages"].items()
    }
    trial.extra = float(status.get("seconds") or 0)
    trial.overrides = _typed(status)
    for name, stage in trial.stages.items():
        trial.config |= {f"{name}.{key}": value for key, value in _leaves(stage.config, None)}
    for part in ("sample", "evaluate"):
        node = record.get(part)
        leaves = _leaves(node, None) if isinstance(node, dict) else ()
        trial.config |= {f"{part}.{key}": value for key, value in leaves}
    trial.state = _state_of_results(folder, status, bool(measured))
    trial.error = last_line(status.get("error")) if trial.state == "failed" else ""
    if trial.state == "finished":
        trial.measured, trial.metrics = measured, flat(measured)


def _typed(status: Mapping[str, Any]) -> list[str]:
    """What follows the verb on the command line, as the shell gave it; [] where no shell would take the line."""
    try:
        return shlex.split(str(status.get("command") or ""))[2:]
    except ValueError:
        return []


def _state_of_results(folder: Path, status: Mapping[str, Any], measured: bool) -> str:
    if measured and (folder / RECORD).is_file():  # written last, gone while another request is carried out
        return "finished"
    if Run(folder).held:
        return "live"
    if status.get("state") == "failed":
        return "failed"
    return "interrupted" if status or (folder / REQUEST).is_file() else "new"


@lru_cache(maxsize=8192)
def _stage_at(folder: Path, _changed: int) -> Stage:
    run = Run(folder)
    config: dict[str, Any] = {}
    status: dict[str, Any] = {}
    try:
        config = configuration(folder / "config.yaml")
    except FileNotFoundError:
        pass
    except (OSError, DamagedFile) as damaged:
        return Stage(folder, {}, {}, UNREADABLE, in_words(damaged))
    try:
        status = run.status
        return Stage(folder, status, config, run.state)
    except (OSError, DamagedFile) as damaged:
        return Stage(folder, {}, config, UNREADABLE, in_words(damaged))


def stage_of(folder: Path) -> Stage:
    """A training run's folder; stages that many trials share are read once while nobody writes there."""
    try:
        changed = (folder / "status.json").stat().st_mtime_ns
    except OSError:
        changed = 0
    return _stage_at(folder, changed)


def located(folder: Path, anchor: Path) -> Path:
    """A folder that the file or folder `anchor` names relative to where a command was typed: seen from one of the
    anchor's own folders, which holds after all was moved or copied as a whole; else as it is written."""
    if folder.is_absolute():
        return folder
    bases = (anchor.absolute(), *anchor.absolute().parents)
    for start in range(len(folder.parts)):
        for base in bases:
            if (found := base.joinpath(*folder.parts[start:])).is_dir():
                return found
    return folder


def _leaves(config: Mapping[str, Any], neighbours: Path | None) -> Any:
    """Dotted names and values of what may make a difference; an upstream's signature as a digest of what it was made
    with, seeds apart, so that two seeds of one thing are alike. None: the stages' own configurations say it."""
    for key, value in dotted(dict(config)):
        if isinstance(value, dict) and value:
            continue
        if key in UPSTREAM:
            if neighbours is not None:
                yield key, _like(str(value), neighbours)
        elif not f"{key}.".startswith(NEVER) and not key.startswith(NEVER):
            yield key, value


def _like(reference: str, neighbours: Path) -> str:
    if not reference.isalnum() or not (neighbours / reference / "config.yaml").is_file():
        return reference
    leaves = dict(_leaves(stage_of(neighbours / reference).config, neighbours))
    deciding = {key: value for key, value in leaves.items() if not is_seed(key)}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True, default=str).encode()).hexdigest()[:6]
    return f"{_stage_name(leaves)} like {digest}"


def is_seed(key: str) -> bool:
    """Whether a key is a training seed."""
    return key.rpartition(".")[2] == "seed" and not key.startswith(("sample.", "evaluate.", "data."))


def _seed(trial: Trial) -> str:
    """Its training seeds: one where the stages agree."""
    seeds = [str(s.config.get("seed", s.status.get("seed", ""))) for s in trial.stages.values()]
    seeds = [seed for seed in seeds if seed]  # a stage that has not begun has none yet
    return "/".join(dict.fromkeys(seeds)) if len(set(seeds)) < 2 else "/".join(seeds)


def _stage_name(config: Mapping[str, Any]) -> str:
    stage = config.get("stage")
    name = stage.get("name") if isinstance(stage, Mapping) else config.get("stage.name")
    return str(name or "run")
