"""Which runs may go, and their removal. Imports no torch.

What another run's config.yaml or a results folder's record names stays, and so does what is being trained or cannot be
read: what is not understood is not deleted.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from unclip.runs.listing import DEPTH, UNREADABLE, Listed, folders
from unclip.runs.store import RECORD, REQUEST, Busy

RECORDS = (RECORD, REQUEST)
WORD = re.compile(r"[0-9a-f]+")
LEFT = ".removing-"  # a run's folder on its way out
STARTING = 60.0  # seconds: a process takes the lock some time after its folder is made, and says every 10 that it lives
SHORTEST = 4  # a reference may be the beginning of a signature


class References:
    """Who names which run, by what stands in config.yaml and in the records of results folders."""

    def __init__(self, files: Iterable[Path]):
        self.names: dict[str, set[Path]] = {}
        for path in files:
            for word in set(WORD.findall(path.read_text(encoding="utf-8", errors="replace"))):
                self.names.setdefault(word, set()).add(path)

    def to(self, signature: str) -> list[Path]:
        """The files that name a run, its own aside."""
        whole = [signature[:length] for length in range(SHORTEST, len(signature) + 1)]
        found = {path for word in whole for path in self.names.get(word, ())}
        return sorted(path for path in found if path.parent.name != signature)


def referring(listed: list[Listed], given: Path) -> References:
    """Whatever may name these runs: all runs and records under their outputs folders, and in the folders beside those.

    Raises OSError for a file or folder that cannot be read: then nobody knows what it names.
    """
    files: set[Path] = set()
    notes: list[str] = []
    for root in {_outputs(one) for one in listed} | {given.absolute()}:
        files |= {folder / "config.yaml" for folder in folders(root, notes)}
        files |= set(_records(root, DEPTH, notes))
        files |= set(_records(root.parent, 1, []))
    if notes:
        raise OSError(f"{notes[0]}; runs may be named there, so that nothing is removed")
    return References(path for path in files if path.is_file())


def stays(one: Listed, references: References) -> str:
    """Why a run may not go; nothing where it may."""
    if one.state == "live":
        return "is being trained"
    if one.state == UNREADABLE:
        return one.problem
    if why := _starting(one):
        return why
    if by := references.to(one.run.signature):
        more = f" and {len(by) - 1} more" if len(by) > 1 else ""
        return f"is named by {by[0]}{more}"
    return ""


def size(folder: Path) -> int:
    """Bytes of the files in it."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process removes it too
                total += os.lstat(os.path.join(at, name)).st_size
    return total


def remove(one: Listed) -> None:
    """Remove a run's folder while holding its lock. Raises Busy, OSError.

    It is renamed first: a removal that is cut off leaves no half of a run.
    """
    if not one.folder.is_dir():
        return  # another process was quicker; to lock it would make it again
    going = one.folder.with_name(f"{LEFT}{one.folder.name}")
    finish(going)  # a removal that was cut off
    with one.run.lock():
        if one.run.status != one.status or _starting(one):
            raise Busy(f"{one.folder} has changed since it was looked at")
        one.folder.rename(going)
    finish(going)


def rests(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """What removals that were cut off have left under a folder, where that can be looked into."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # said by whoever looks for runs there
    if any(entry.name == "config.yaml" for entry in entries):
        return  # a run
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            continue
        if entry.name.startswith(LEFT):
            yield Path(entry.path)
        elif depth and not entry.name.startswith("."):
            yield from rests(Path(entry.path), depth - 1)


def finish(rest: Path) -> None:
    """Remove such a rest, also where another process is about to. Raises OSError."""
    while rest.exists():
        with suppress(FileNotFoundError):  # the other was quicker with a file
            shutil.rmtree(rest)


def _outputs(one: Listed) -> Path:
    """The outputs folder of a run: its folder without signature and experiment, where it stands under those."""
    above = one.folder.absolute().parent
    experiment = Path(str(one.config.get("experiment") or "default")).parts
    return above.parents[len(experiment) - 1] if above.parts[-len(experiment) :] == experiment else above


def _starting(one: Listed) -> str:
    """Why a process may be about to take the lock of a run that is not finished; nothing where none is."""
    files = (one.folder / name for name in ("config.yaml", "status.json"))
    written = max((path.stat().st_mtime for path in files if path.exists()), default=0.0)
    seconds = time.time() - written
    if one.state == "finished" or seconds >= STARTING:
        return ""
    return f"was written {max(seconds, 0):.0f} s ago: its process may be starting, or be on another machine"


def _records(folder: Path, depth: int, notes: list[str]) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        notes.append(f"{folder} cannot be looked into: {error.strerror}")
        return
    if any(entry.name == "config.yaml" for entry in entries):
        return  # a run
    for entry in entries:
        if entry.name in RECORDS:
            yield Path(entry.path)
        elif depth and not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _records(Path(entry.path), depth - 1, notes)
