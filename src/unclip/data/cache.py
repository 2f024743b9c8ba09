"""Tensor files that are checked when read, a lock for whoever fills a folder, and the line that tells a
waiting user about it. Knows nothing of what is in the files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unclip.data.fingerprint import fingerprint
from unclip.files import write_atomic
from unclip.reading import DamagedFile

# safetensors checks lengths, not bytes: a hash goes with them, of tensors and metadata; in older files, of the tensors
WHOLE, CONTENT = "sha256", "content_sha256"


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
    """Write a safetensors file atomically, with the hash of its content in the metadata. Raises OSError."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {**metadata, WHOLE: fingerprint(whole, metadata)}
    write_atomic(path, lambda temporary: _save(whole, temporary, described))


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # a full disk, say: the number is in the text alone
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


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
    whole, content = metadata.pop(WHOLE, None), metadata.pop(CONTENT, None)
    if (whole and whole != fingerprint(tensors, metadata)) or (content and content != fingerprint(tensors)):
        raise DamagedFile(f"{path} does not hold what was written into it (its hash differs)")
    return tensors, metadata
