"""A published CLIP as a reference: `clip=open_clip:NAME`, with `:TAG` or `:FILE` of its weights. Imports no torch.

Without weights it is random ones from a fixed seed. The model itself is in nets/open_clip.py.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PREFIX = "open_clip"
HASH = "#sha256="  # after a file's path, once it was read
FORM = "clip=open_clip:ViT-B-32:laion2b_s34b_b79k, or a file in the place of the tag"
ENDINGS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class Reference:
    """open_clip:name:weights, of a file with the hash of its content."""

    name: str
    weights: str | None = None  # a tag or a path
    digest: str | None = None

    @classmethod
    def of(cls, text: str | None) -> Reference | None:
        """What a reference says; None where it is no published CLIP's."""
        if text is None or text.split(":")[0] != PREFIX:
            return None
        name, _, weights = text[len(PREFIX) + 1 :].partition(":")
        weights, _, digest = weights.partition(HASH)
        return cls(name, weights or None, digest or None)

    @property
    def is_file(self) -> bool:
        """Tags have no slash and no ending."""
        weights = self.weights or ""
        return "/" in weights or Path(weights).suffix in ENDINGS or Path(weights).is_file()

    def problem(self) -> str | None:
        """What is wrong with it, so far as that can be said without the library's help."""
        if not self.name:
            return f"of which model? {FORM}"
        spec = find_spec(PREFIX)
        if spec is None:
            return 'needs its library: pip install "unclip-lab[open_clip]"'
        known = names(str((spec.submodule_search_locations or [""])[0]))
        if self.name not in known:
            near = difflib.get_close_matches(self.name, known, 5, 0.4) or sorted(known)[:5]
            return f"open_clip has no such model; possible: {', '.join(near)}, ..."
        if self.weights and self.is_file and not Path(self.weights).is_file():
            return (
                "there is no such file of weights; give the path of one, or a tag such as laion2b_s34b_b79k"
            )
        return None

    def read(self) -> str:
        """The reference as it stands in a run's configuration: a file by its whole path and the hash of its content."""
        text = ":".join([PREFIX, self.name, *([self.weights] if self.weights else [])])
        if not self.is_file:
            return text
        path = Path(self.weights or "").resolve()
        return f"{PREFIX}:{self.name}:{path}{HASH}{_content(path)}"

    def changed(self) -> bool:
        """Whether the file is another one than it was when it was read."""
        path = Path(self.weights or "")
        return self.digest is not None and path.is_file() and _content(path) != self.digest


def identity(text: str | None) -> str | None:
    """A reference without what cannot change the CLIP: a file is its content, wherever it lies."""
    found = Reference.of(text)
    return f"{PREFIX}:{found.name}:{HASH}{found.digest}" if found and found.digest else text


@cache
def names(folder: str) -> frozenset[str]:
    """The models that the library describes."""
    return frozenset(path.stem for path in Path(folder, "model_configs").glob("*.json"))


def _content(path: Path) -> str:
    stat = path.stat()
    return _sha256(str(path), stat.st_mtime_ns, stat.st_size)


@cache
def _sha256(path: str, changed: int, size: int) -> str:
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]
