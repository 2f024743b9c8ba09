"""Config groups as the reference shows them: each option's keys with default, what they take and what they mean. Reads
files and sources alone, and writes nothing.

What a key means is the comment beside it in its file, or what its target's docstring says of it, or the comment in
another file of the group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from docstrings import plain

from unclip.config import sketch, targets, tree
from unclip.config.schema import Train

LEFT_OUT = (((), "sampler"), (("stage",), "name"))  # no group's choice, the stage's own word


def cell(text: str) -> str:
    """A table's cell, in which a | outside of backticks would end it."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)


@dataclass(frozen=True)
class Key:
    """One row."""

    name: str
    default: Any
    takes: str
    meaning: str

    @property
    def row(self) -> str:
        shown = (
            yaml.safe_dump(self.default, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
        )
        cells = [f"`{self.name}`", f"`{shown}`", f"`{self.takes}`" if self.takes else "", plain(self.meaning)]
        return "| " + " | ".join(map(cell, cells)) + " |"


def said(path: Path) -> tuple[str, dict[str, str]]:
    """A configuration file's opening comment, and the comments on its keys: beside them, or on lines above."""
    opening: list[str] = []
    found: dict[str, str] = {}
    above: list[str] = []
    stack: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        comment = re.match(r"\s*#\s?(.*)", line)
        key = re.match(r"(\s*)([\w ]+):(?:$|\s)(.*)", line)
        if comment:
            place = opening if not stack else above
            place += [] if comment[1].startswith("@package") else [comment[1]]
        elif key:
            while stack and stack[-1][0] >= len(key[1]):
                stack.pop()
            stack.append((len(key[1]), key[2]))
            beside = re.search(r"(?:^|\s)#\s(.*)", key[3])
            words = " ".join([*above, *([beside[1]] if beside else [])])
            found |= {".".join(k for _, k in stack): words} if words else {}
            above = []
    return " ".join(opening), found


def explained(target: str) -> dict[str, str]:
    """What a target's docstring says of its parameters: sentences that begin with `name: ` or `one, other: `."""
    names, (_, text) = targets.parameters(target) or {}, targets.defined(target) or ("", "")
    found: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        marks = list(re.finditer(r"(?:(?<=^)|(?<=[.;] ))(\w+(?:, \w+)*): ", words))
        marks = [m for m in marks if all(name in names for name in m[1].split(", "))]
        ends = [*(m.start() for m in marks), len(words)][1:]
        for mark, end in zip(marks, ends, strict=True):
            found |= dict.fromkeys(mark[1].split(", "), words[mark.end() : end].strip())
    return found


class Group:
    """The options of a group, and what all of them together say of a key of a target."""

    def __init__(self, name: str):
        self.name = name
        self.files = dict(zip(tree.options(name), map(said, self._paths()), strict=True))
        texts = [path.read_text(encoding="utf-8") for path in self._paths()]
        # its keys are those of the request itself
        self.everywhere = name in sketch.GLOBAL or any("# @package _global_" in text for text in texts)
        self.meanings: dict[tuple[str, str], str] = {}  # (target or "", key)
        for option, (_, comments) in self.files.items():
            for path, target, _ in leaves(sketch.content(f"{name}/{option}")):
                if words := comments.get(".".join(path)):
                    self.meanings.setdefault((target, path[-1]), words)
                    self.meanings.setdefault(("", path[-1]), words)

    def _paths(self) -> list[Path]:
        return [tree.config_folder() / self.name / f"{option}.yaml" for option in tree.options(self.name)]

    def keys(self, option: str) -> Iterator[Key]:
        comments = self.files[option][1]
        for path, target, value in leaves(sketch.content(f"{self.name}/{option}")):
            name, leaf = ".".join(path), path[-1]
            accepted = targets.parameters(target or f"{Train.__module__}.{Train.__name__}") or {}
            known = comments.get(name), self.meanings.get((target, leaf)), explained(target).get(leaf)
            meaning = next(filter(None, known), self.meanings.get(("", leaf), ""))
            full = name if self.everywhere else f"{self.name}.{name}"
            yield Key(full, value, accepted[leaf].takes if leaf in accepted else "", meaning)


def leaves(
    node: dict[str, Any], above: tuple[str, ...] = (), target: str = ""
) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Every value: its path, the target that it goes to, itself."""
    target = node.get("_target_", target if not above else "")
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        elif not str(key).startswith("_") and (above, key) not in LEFT_OUT:
            yield (*above, key), target, value
