"""What runs there are under a folder, and what is known of each: state, age, metrics, configuration. Imports no torch.

Reads only; a run whose files cannot be read is listed with what is wrong with it.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from unclip.config.problems import Problem, Problems, in_words
from unclip.reading import DamagedFile, parse_yaml, read_text, read_yaml
from unclip.runs import where
from unclip.runs.store import RECORD, REQUEST, Run

DEPTH = 5  # <outputs>/<experiment, which may be a/b/c>/<signature>
UNREADABLE = "unreadable"
KEY = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)


@dataclass
class Listed:
    """One run, as its files say."""

    run: Run
    now: float
    status: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    state: str = UNREADABLE
    problem: str = ""  # why it is unreadable

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def age(self) -> float:
        """Seconds since it finished, or was last heard of."""
        finished = (
            self.status.get("finished") if self.state == "finished" else None
        )  # not before it began again
        for stamp in (finished, self.status.get("heartbeat")):
            try:
                return self.now - datetime.fromisoformat(stamp or "").timestamp()
            except (TypeError, ValueError):
                continue
        try:
            return self.now - self.folder.stat().st_mtime
        except OSError:
            return 0.0

    @property
    def metrics(self) -> dict[str, Any]:
        """By their short names: fd_n500 for val/fd_n500."""
        found = self.status.get("metrics")
        return {k.removeprefix("val/"): v for k, v in found.items()} if isinstance(found, dict) else {}

    def fields(self) -> dict[str, Any]:
        """All fields that where= and sort= may name: columns, metrics, status, and configuration by dotted name."""
        found = dict(dotted(self.config))
        found |= {k: v for k, v in self.status.items() if k not in ("metrics", "loss", "finished")}
        found |= self.metrics
        return found | self.columns()

    def columns(self) -> dict[str, Any]:
        """What the list shows."""
        stage, trainer = self.config.get("stage"), self.config.get("trainer")
        error = self.status.get("error")
        return {
            "experiment": self.config.get("experiment") or self.folder.parent.name,
            "stage": stage.get("name") if isinstance(stage, dict) else None,
            "signature": self.run.signature,
            "state": self.state,
            "age": round(self.age),
            "step": self.status.get("step"),
            "steps": trainer.get("max_steps") if isinstance(trainer, dict) else None,
            "seconds": self.status.get("seconds"),
            "error": self.problem or (error if self.state == "failed" else None),
            "folder": str(self.folder),
        }


def scan(folder: Path) -> tuple[list[Listed], list[str]]:
    """The runs under a folder, itself included, and what could not be looked into."""
    now = datetime.now(UTC).timestamp()
    notes: list[str] = []
    return [_listed(Run(path), now) for path in folders(folder, notes)], notes


def folders(folder: Path, notes: list[str], depth: int = DEPTH) -> Iterator[Path]:
    """The folders of runs: those with a config.yaml, or a status.json that is not a results folder's. Nothing inside a
    run is one; links and hidden folders are not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        notes.append(f"{folder} cannot be looked into: {error.strerror}")
        return
    names = {entry.name for entry in entries}
    if "config.yaml" in names or ("status.json" in names and not _holds_results(folder, names)):
        yield folder
        return
    for entry in entries:
        if depth and not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from folders(Path(entry.path), notes, depth - 1)


def _holds_results(folder: Path, names: set[str]) -> bool:
    if names & {RECORD, REQUEST}:
        return True
    try:
        return "signature" in Run(folder).status
    except (OSError, DamagedFile):
        return False


def configuration(path: Path) -> dict[str, Any]:
    """A config.yaml. Its top-level blocks are read one by one and kept, as the runs of a sweep share most of them: a
    thousand in a second instead of half a minute. Raises OSError, DamagedFile."""
    text = read_text(path)
    head, *blocks = KEY.split(text)
    if not head.strip() and "&" not in text:  # an anchor may be used in another block
        try:
            return {key: value for block in blocks for key, value in _block(block).items()}
        except ValueError:
            pass  # not as we write it: a string over several lines, say
    return read_yaml(path)


@lru_cache(maxsize=4096)
def _block(text: str) -> dict[str, Any]:
    found = parse_yaml(text)
    if not isinstance(found, dict):
        raise ValueError(text)
    return found


def dotted(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every node of a configuration under its dotted name."""
    for key, value in node.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


def chosen(every: list[Listed], expression: str | None) -> list[Listed]:
    """The runs that where= describes. Raises Problems where it names a field that no run has."""
    if expression is None:
        return every
    asked = where.parse(expression)
    fields = [one.fields() for one in every]
    full = {name: field_of("where", name, fields) for name in asked.names}

    def named(found: dict[str, Any]) -> dict[str, Any]:
        return {name: found[key] for name, key in full.items() if key in found}

    return [one for one, found in zip(every, fields, strict=True) if asked.holds(named(found))]


def in_order(found: list[Listed], every: list[Listed], by: str) -> list[Listed]:
    """Smallest first, with a minus largest first; runs without the field last."""
    fields = {one.folder: one.fields() if by != "age" else one.columns() for one in every}
    key = field_of("sort", by.removeprefix("-"), list(fields.values())) if every else by
    having = [one for one in found if fields[one.folder].get(key) is not None]
    numbers = all(where.number(fields[one.folder][key]) is not None for one in having)

    def order(one: Listed) -> Any:
        value = fields[one.folder][key]
        return value if numbers else where.as_text(value)

    comparable = [one for one in having if not numbers or not math.isnan(order(one))]
    ordered = sorted(comparable, key=order, reverse=by.startswith("-"))
    placed = {one.folder for one in ordered}
    return [*ordered, *(one for one in found if one.folder not in placed)]


def field_of(option: str, name: str, fields: Sequence[dict[str, Any]]) -> str:
    """The full name of a field: its own, or the only one that ends in it (lr for optim.lr)."""
    known = {key for found in fields for key in found}
    if name in known or not fields:
        return name
    ending = sorted(key for key in known if key.endswith((f".{name}", f"/{name}")))
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise Problems([Problem(option, name, f"is more than one field: {', '.join(ending[:6])}")])
    leaves = {key.rpartition(".")[2]: key for key in sorted(known)}
    close = difflib.get_close_matches(name, [*known, *leaves], 3, 0.5)
    close += [key for key in sorted(known) if key.startswith(name) and key not in close]
    near = f"; nearest: {', '.join(dict.fromkeys(leaves.get(c, c) for c in close[:3]))}" if close else ""
    raise Problems([Problem(option, name, f"no run has such a field{near}")])


def _listed(run: Run, now: float) -> Listed:
    listed = Listed(run, now)
    try:
        listed.config = configuration(run.folder / "config.yaml")
    except FileNotFoundError:
        listed.problem = f"{run.folder / 'config.yaml'} is not there"
    except (OSError, DamagedFile) as error:
        listed.problem = in_words(error)
    try:
        listed.status = run.status
        state = run.state
    except (OSError, DamagedFile) as error:
        listed.problem = in_words(error)
    else:
        listed.state = UNREADABLE if listed.problem else state
    return listed
