"""Files that are either whole or not there: written beside their place, synced, renamed into it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary path)`, then rename it to `path`: a reader sees the old file or the whole new one. Raises
    OSError that names `path`, also of a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide a shared folder's files from colleagues
        put(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def put(temporary: Path, path: Path) -> None:
    """Rename what was written to its place, once it is on the disk; the new name is there too when this returns."""
    sync(temporary)
    temporary.replace(path)
    with suppress(OSError):  # some network file systems sync no folders; the file itself is whole
        sync(path.parent)


def earlier(path: Path) -> Path:
    """Where the previous version of the file at `path` is kept."""
    return path.with_stem(f"{path.stem}.previous")


def sync(path: Path) -> None:
    """fsync a file, or a folder with the names in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """`text` into `path`, atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """`content` into `path`, atomically."""
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON into `path`, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")
