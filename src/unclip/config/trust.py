"""Which `_target_`s may be called: all that the user's own configuration names, and of those that only a run's folder
or a file names, the ones that do no more than compute. Composes and instantiates nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unclip.config.problems import Failure
from unclip.config.tree import config_folder

ALLOW = "UNCLIP_ALLOW"  # packages or dotted names, with commas; children inherit it
BLOCKS = (
    *(
        f"unclip.{part}."
        for part in ("callbacks", "data", "diffusion", "evaluate", "lit", "nets", "sampling")
    ),
    *(f"torch.{part}." for part in ("nn", "optim")),
    *(f"lightning.pytorch.{part}." for part in ("callbacks", "loggers", "strategies", "trainer")),
    "lightning.pytorch.Trainer.",
)
NOT_BLOCKS = ("unclip.data.cache.", "unclip.data.places.")  # they write files, and fetch them
NAMED = re.compile(r"""_target_["']?\s*:\s*["']?([\w.]+)""")


def allow(config: dict[str, Any]) -> None:
    """Whatever this configuration names may be called, here and in processes started from here."""
    _allow(target for target in targets_in(config) if not _is_block(target))


def allow_files(folder: Path, names: Sequence[str] = ()) -> None:
    """As allow(), of a configuration tree: of the groups and requests in it of these names, else of those that this
    package has too, so that runs which lie in a user's own folder are nobody's own."""
    places = [folder / name for name in names or [path.name for path in config_folder().iterdir()]]
    files = [file for place in places for file in (place, *place.rglob("*.yaml")) if file.is_file()]
    _allow(name for file in files for name in NAMED.findall(file.read_text(errors="replace")))


def _allow(targets: Iterator[str]) -> None:
    before = _allowed()
    if more := set(targets) - before:
        os.environ[ALLOW] = ",".join(sorted(before | more))


def _allowed() -> set[str]:
    return {name.strip() for name in os.environ.get(ALLOW, "").split(",") if name.strip()}


def check(node: Any) -> None:
    """Raises Failure where a target is neither allowed nor a building block of this package, torch or lightning, by its
    name and by the module that defines it (`torch.os.system` is defined in os)."""
    from hydra.utils import get_object

    allowed = _allowed()
    for target in targets_in(node):
        if any(f"{target}.".startswith(f"{name}.") for name in allowed):
            continue
        home = getattr(get_object(target), "__module__", None) if _is_block(target) else None
        if home is None or not _is_block(home):
            why = "is not of this package, torch or lightning, and not of your own configuration or command"
            how = f"where you trust it: {ALLOW}={target.rpartition('.')[0] or target}"
            raise Failure(f"_target_ = {target}: {why}; {how}")


def targets_in(node: Any) -> Iterator[str]:
    """Every `_target_` in it."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets_in(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from targets_in(value)


def _is_block(name: str) -> bool:
    return f"{name}.".startswith(BLOCKS) and not f"{name}.".startswith(NOT_BLOCKS)
