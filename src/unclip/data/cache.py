"""Tensor files that are checked when read, a lock for whoever fills a folder, and the line that tells a
waiting user about it. Knows nothing of what is in the files."""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unclip.data.fingerprint import fingerprint
from unclip.files import write_atomic

CONTENT = "content_sha256"  # safetensors checks lengths, not bytes: the tensors' own hash goes with them


class DamagedFile(Exception):
    """A file that is there but does not hold what was written into it; the message names it and says what is
    wrong."""


def say(message: str) -> None:
    """One line of progress for whoever is waiting, on stderr, so that results on stdout stay clean."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in `folder` (made if missing); the lock goes with the process that held it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, with the hash of its content in the metadata."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(
        path, lambda temporary: save_file(whole, temporary, {**metadata, CONTENT: fingerprint(whole)})
    )


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """-> tensors, metadata. Content is verified if `save_tensors` wrote it.

    Raises FileNotFoundError or DamagedFile.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise DamagedFile(f"{path} is not a whole safetensors file ({error})") from error
    found = fingerprint(tensors)
    if metadata.pop(CONTENT, found) != found:
        raise DamagedFile(f"{path} does not hold what was written into it (its hash differs)")
    return tensors, metadata
