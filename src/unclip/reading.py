"""Small text, JSON and YAML files, read whole; one that cannot be read, or has the wrong content, is named with what is
wrong with it. Writing is in files.py; knows no file by name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unclip.config import targets
from unclip.config.problems import Failure

DEEPEST = 100  # nested parts; what is nested deeper would end in the depth of Python's own calls
MOST = 1_000_000  # parts; a few lines of YAML with aliases can stand for more than memory holds
LONGEST_IN_C = 5000  # characters: the parser in C overflows its stack on a long text of brackets
MEND = "repair or remove it"


class DamagedFile(Failure):
    """A file that is there but does not hold what was written into it; the message names it and says what is wrong."""


def read_text(path: Path) -> str:
    """Raises OSError, DamagedFile where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 text ({error.reason} at byte {error.start})"
        raise DamagedFile(f"{path} {why}: {MEND}") from None


def read_json(path: Path, shape: str = "") -> dict[str, Any]:
    """The mapping in a JSON file. shape: the dotted name of a dataclass, which is read, not imported: fields
    without a default must be there, and values must have the fields' types; "": any mapping. Raises OSError,
    DamagedFile."""
    return _read(path, "JSON", parse_json, shape)


def read_yaml(path: Path, shape: str = "") -> dict[str, Any]:
    """The mapping in a YAML file, as read_json."""
    return _read(path, "YAML", parse_yaml, shape)


def parse_json(text: str) -> Any:
    """Raises ValueError."""
    try:
        return _checked(json.loads(text))
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} parts within one another") from None


def parse_yaml(text: str) -> Any:
    """Raises ValueError."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if len(text) < LONGEST_IN_C else yaml.SafeLoader
    try:
        return _checked(yaml.load(text, loader))
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} parts within one another") from None
    except (
        yaml.YAMLError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:  # some for `!!bool x`, `!!int ""`
        raise ValueError(" ".join(str(error).split())) from None


def _checked(found: Any) -> Any:
    """`found` itself. Raises ValueError where it is too deep or too large, or holds text that cannot be encoded."""
    level, count = [found], 0
    for _ in range(DEEPEST):
        for text in (x for x in level if isinstance(x, str)):
            text.encode()  # of a lone half of a surrogate pair: UnicodeEncodeError, a ValueError
        inner = ([*x, *x.values()] if isinstance(x, dict) else x for x in level if isinstance(x, dict | list))
        level = list(itertools.islice(itertools.chain.from_iterable(inner), MOST + 1))
        count += len(level)
        if not level:
            return found
        if count > MOST:
            raise ValueError(f"more than {MOST:,} parts")
    raise ValueError(f"more than {DEEPEST} parts within one another")


def _read(path: Path, kind: str, parse: Callable[[str], Any], shape: str) -> dict[str, Any]:
    text = read_text(path)
    try:
        found = parse(text)
    except ValueError as error:
        raise DamagedFile(f"{path} is not readable as {kind} ({str(error)[:200]}): {MEND}") from None
    demand(found, shape, str(path))
    if other := [key for key in found if not isinstance(key, str)]:
        raise DamagedFile(f"{path} has the key {other[0]}, which is no text: {MEND}")
    assert isinstance(found, dict)
    return found


def demand(found: Any, shape: str, where: str) -> None:
    """A mapping of this shape (see read_json). Raises DamagedFile, which says `where` it is."""
    if why := misfit(found, shape):
        raise DamagedFile(f"{where} {why}: {MEND}")


def misfit(found: Any, shape: str) -> str | None:
    """What is wrong with something that should be a mapping of this shape (see read_json); None where nothing is."""
    fields = targets.parameters(shape) or {} if shape else {}
    if not isinstance(found, dict):
        return f"holds no mapping{' of ' if fields else ''}{', '.join(fields)}"
    for name, field in fields.items():
        if name not in found and field.default is targets.REQUIRED:
            return f"has no {name}"
        if name in found and (why := field.check(found[name])):
            return f"has {name} = {str(found[name])[:80]}, which {why}"
    return None
