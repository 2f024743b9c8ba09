"""The IDX files of MNIST and its relatives, gzipped, read into tensors and verified against the published
content. Not a general reader: unsigned bytes only, and a file whose hash is unknown is not read at all."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unclip.data.cache import DamagedFile


@dataclass(frozen=True)
class IdxFile:
    """What a file must hold: its shape, and the sha256 of the uncompressed content (recompressing changes
    nothing)."""

    shape: tuple[int, ...]
    sha256: str

    def read(self, path: Path) -> Tensor:
        """-> uint8 of `shape`. Raises FileNotFoundError, or DamagedFile with the file's name and what is
        wrong."""
        header = 4 + 4 * len(self.shape)  # magic number, then one size a dimension, 4 bytes each
        expected = header + math.prod(self.shape)
        try:
            with gzip.open(path) as file:
                content = bytearray(file.read(expected + 1))
        except EOFError as error:
            raise DamagedFile(f"{path} is truncated") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DamagedFile(f"{path} is not a whole gzip file ({error})") from error
        if len(content) != expected:
            size = f"{len(content)}" if len(content) < expected else f"more than {expected}"
            raise DamagedFile(f"{path} holds {size} bytes instead of {expected}")
        if (digest := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise DamagedFile(
                f"{path} is not the published file (sha256 {digest[:12]}..., not {self.sha256[:12]}...)"
            )
        return torch.frombuffer(content, dtype=torch.uint8, offset=header).view(self.shape)
