"""A run's folder: its configuration, its state on disk, its lock. Imports no torch.

<outputs>/<experiment>/<signature>/ holds config.yaml, status.json, metrics.csv, checkpoint.ckpt while it trains and
weights.safetensors once it is finished.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml

from unclip.files import earlier, write_json, write_text
from unclip.reading import MEND, DamagedFile, read_json, read_yaml
from unclip.runs import shapes
from unclip.runs.signature import signature

DAMAGED = "checkpoint.damaged.ckpt"  # a damaged checkpoint, set aside: training does not resume from it
RECORD, REQUEST = "pipeline.json", "request.json"  # of a results folder: what it holds, what is being made
CLOCKS_DIFFER = 60.0  # seconds: by more than that a clock has jumped, or two machines' disagree
LOOK_SECONDS = (
    0.5  # a lock that is refused for less may be that of a process which only looks whether it is held
)
State = Literal["new", "live", "interrupted", "failed", "finished"]
VERSIONS_OF = ("unclip-lab", "torch", "lightning", "hydra-core")


class Busy(Exception):
    """Another process holds the run's lock."""


@dataclass(frozen=True)
class Run:
    """One training run, by its folder."""

    folder: Path

    @classmethod
    def of(cls, config: dict[str, Any], experiment: str) -> Run:
        """The run of a resolved configuration whose upstream references are signatures."""
        return cls(Path(config["paths"]["outputs"]) / experiment / signature(config))

    @property
    def signature(self) -> str:
        return self.folder.name

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def product(self) -> Path:
        """The file whose presence means that the run has finished."""
        return self.weights

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.ckpt"

    @property
    def checkpoints(self) -> list[Path]:
        """Those of the last checkpoint and the one before it that exist, newest first."""
        return [path for path in (self.checkpoint, earlier(self.checkpoint)) if path.is_file()]

    def drop_checkpoints(self) -> None:
        """Remove every checkpoint, whole or not."""
        for path in self.folder.glob("*checkpoint*.ckpt*"):
            path.unlink(missing_ok=True)

    def drop_unfinished(self) -> None:
        """Remove temporary files of weights that a killed process left behind. Only for the holder of the lock."""
        for path in self.folder.glob(f".{self.weights.name}.*"):
            path.unlink(missing_ok=True)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration it was made with. Raises OSError, DamagedFile."""
        path = self.folder / "config.yaml"
        found = read_yaml(path, f"{shapes.__name__}.Config")
        for group, key in (("stage", "name"), ("paths", "outputs")):
            if not isinstance(found[group].get(key), str):
                raise DamagedFile(f"{path} has no {group}.{key}: {MEND}")
        return found

    @property
    def status(self) -> dict[str, Any]:
        """status.json, {} before there is one. Raises DamagedFile, OSError."""
        try:
            return read_json(self.folder / "status.json", f"{shapes.__name__}.Status")
        except FileNotFoundError:
            return {}

    @property
    def state(self) -> State:
        """new, live (a process holds its lock), interrupted, failed or finished."""
        if (found := self.state_unlocked) == "finished":
            return found
        return "live" if self.held else self.state_unlocked  # which may have changed while we looked

    @property
    def state_unlocked(self) -> State:
        """The state to a process that holds the lock itself."""
        written = self.status.get("state")
        if written == "finished" and self.product.is_file():
            return "finished"
        if written is None:
            return "new"
        return "failed" if written == "failed" else "interrupted"

    @property
    def held(self) -> bool:
        """Whether a process holds the lock: asked without writing, so also where nothing may be written."""
        try:
            handle = (self.folder / ".lock").open("rb")
        except FileNotFoundError:
            return False
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def lock(self) -> Iterator[int]:
        """The exclusive right to write here, released when its process ends. Yields the file descriptor of the lock: a
        child that inherits it holds the lock too. Raises Busy."""
        path, end = self.folder / ".lock", time.monotonic() + LOOK_SECONDS
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("a") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise Busy(f"{self.folder} is being trained by another process") from None
                    time.sleep(0.01)
                    continue
                if path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                    yield handle.fileno()
                    return
            # the folder was removed since the file was opened: again, in a new one

    def prepare(self, config: dict[str, Any], command: str) -> None:
        """Write the configuration, and the command that asked for it first; nothing where the run is finished by now.
        What cannot change the result (extractor, logger, devices) may be another than at an earlier attempt: the latest
        holds. Raises Busy."""
        with self.lock():
            if self.state_unlocked == "finished":
                return
            write_text(self.folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            if not self.status:
                self.mark("prepared", command=command, seed=config["seed"])

    def mark(self, state: str, **fields: Any) -> None:
        """Set state and further fields in status.json, atomically."""
        status = {
            **self.status,
            "state": state,
            "heartbeat": now(),
            "pid": os.getpid(),
            "host": platform.node(),
        }
        write_json(self.folder / "status.json", {**status, **fields})


def find(reference: str, outputs: Path) -> list[Run]:
    """The runs that a folder or a signature (or the beginning of one) names."""
    if (Path(reference) / "config.yaml").is_file():
        return [Run(Path(reference))]
    if not reference.isalnum():
        return []
    patterns = (f"{'*/' * depth}{reference}*/config.yaml" for depth in (1, 2, 3))
    return [Run(p.parent) for pattern in patterns for p in sorted(outputs.glob(pattern))]


def recorded(folder: Path) -> dict[str, Any] | None:
    """The record of a results folder, finished or not; None where the folder has none. Raises OSError, DamagedFile."""
    path = next((path for name in (RECORD, REQUEST) if (path := folder / name).is_file()), None)
    if path is None:
        return None
    record: dict[str, Any] = read_json(path, f"{shapes.__name__}.Record")
    for stage, one in record["stages"].items():
        if lacking := {"folder", "signature"} - one.keys():
            raise DamagedFile(f"{path} has no {min(lacking)} of stage {stage}: {MEND}")
    return record


def now() -> str:
    """The time, as status.json has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def age(stamp: str | None) -> str:
    """How long ago an ISO time was, in words."""
    try:
        seconds = time.time() - datetime.fromisoformat(stamp or "").timestamp()
    except ValueError:
        return "some time ago"
    if seconds < -CLOCKS_DIFFER:
        return "in the future, by this clock"
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def provenance() -> dict[str, Any]:
    """Versions, git revision (None where there is none) and machine: what one needs to know to trust a number later."""
    versions = {name: metadata.version(name) for name in VERSIONS_OF}
    revision, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {
        "versions": {"python": platform.python_version(), **versions},
        "git": None if revision is None else {"revision": revision, "dirty": bool(changed)},
        "machine": platform.machine(),
    }


def _git(*arguments: str) -> str | None:
    """What git says of this source; None where it is in no repository, or there is no git."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        said = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return said.stdout.strip() if said.returncode == 0 else None


def typed(verb: str, overrides: list[str]) -> str:
    """The command line that asks for this."""
    return shlex.join(["unclip", verb, *overrides])
