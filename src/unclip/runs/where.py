"""The expressions of `where=`: `fd_n500<20`, `stage=decoder and seed=3`, `not (state=failed or age>30d)`.

A small language of its own: nothing typed here is ever run as Python.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unclip.config.problems import Problem, Problems

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
OPERATORS = "= != < <= > >= ~"
DEEPEST = 50
TOKEN = re.compile(
    r"""\s*(?:(?P<op><=|>=|!=|==|=|<|>|~)|(?P<bracket>[()])|(?P<quoted>"[^"]*"|'[^']*')|(?P<word>[^\s()<>=!~"']+))"""
)
ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Where:
    """A parsed expression: the field names it speaks of, and whether it holds of a run's fields. No comparison holds of
    a run that lacks the field."""

    names: tuple[str, ...]
    holds: Callable[[Fields], bool]


def parse(text: str) -> Where:
    """An expression of `field OPERATOR value` with and, or, not and brackets. `~` means contains; a value may be
    quoted, and 30d, 12h, 5m are times. Raises Problems with one line."""
    reader = _Reader(text)
    holds = reader.either()
    if reader.at < len(reader.tokens):
        raise reader.wrong(f"{reader.tokens[reader.at][1]} is not expected there")
    return Where(tuple(dict.fromkeys(reader.names)), holds)


def duration(text: str) -> float | None:
    """Seconds of 30d, 12h, 5m, 1.5w, 20s; None for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    return float(found[1]) * UNITS[found[2]] if found else None


def number(value: Any) -> float | None:
    """The value as a number, None where it is none (truth values are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value


def as_text(value: Any) -> str:
    """The value as one would type it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


class _Reader:
    """Recursive descent: either := both {or both}; both := one {and one}; one := not one | ( either ) | comparison."""

    def __init__(self, text: str):
        self.text, self.at, self.depth = text, 0, 0
        self.names: list[str] = []
        self.tokens: list[tuple[str, str]] = []
        end = 0
        for found in TOKEN.finditer(text):
            if found.start() != end:
                break
            end = found.end()
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
        if text[end:].strip():
            raise self.wrong(f"{text[end:].strip()[:20]} cannot be read")

    def wrong(self, why: str) -> Problems:
        form = f"an expression is FIELD {OPERATORS.replace(' ', '|')} VALUE, with and, or, not and brackets"
        return Problems([Problem("where", self.text[:200], f"{why}; {form}")])

    def either(self) -> Callable[[Fields], bool]:
        parts = [self.both()]
        while self.takes("or"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else lambda fields: any(part(fields) for part in parts)

    def both(self) -> Callable[[Fields], bool]:
        parts = [self.one()]
        while self.takes("and"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else lambda fields: all(part(fields) for part in parts)

    def one(self) -> Callable[[Fields], bool]:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.wrong(f"more than {DEEPEST} brackets deep")
        try:
            if self.takes("not"):
                inner = self.one()
                return lambda fields: not inner(fields)
            if self.takes("("):
                inner = self.either()
                if not self.takes(")"):
                    raise self.wrong("a bracket is not closed")
                return inner
            return self.comparison()
        finally:
            self.depth -= 1

    def comparison(self) -> Callable[[Fields], bool]:
        name, sign = self.next("word", "a field's name"), self.next("op", f"one of {OPERATORS}")
        quoted = self.at < len(self.tokens) and self.tokens[self.at][0] == "quoted"
        given = self.next("quoted" if quoted else "word", "a value")
        given = given[1:-1] if quoted else given
        self.names.append(name)
        value = None if quoted else _read_number(given)
        if sign in ORDER and value is None:
            raise self.wrong(f"{sign} compares numbers and times (30d, 12h), {given} is neither")
        return lambda fields: name in fields and _compare(sign, fields[name], given, value)

    def takes(self, word: str) -> bool:
        found = self.at < len(self.tokens) and self.tokens[self.at][1].lower() == word
        found = found and self.tokens[self.at][0] in ("word", "bracket")
        self.at += found
        return found

    def next(self, kind: str, what: str) -> str:
        if self.at == len(self.tokens) or self.tokens[self.at][0] != kind:
            there = f"where {self.tokens[self.at][1]} stands" if self.at < len(self.tokens) else "at its end"
            raise self.wrong(f"{what} is missing {there}")
        self.at += 1
        return self.tokens[self.at - 1][1]


def _read_number(given: str) -> float | None:
    try:
        value = float(given)
    except ValueError:
        return duration(given)
    return None if math.isnan(value) else value


def _compare(sign: str, value: Any, given: str, wanted: float | None) -> bool:
    measured = number(value)
    if sign in ORDER:
        return measured is not None and wanted is not None and ORDER[sign](measured, wanted)
    if sign == "~":
        return given.lower() in as_text(value).lower()
    same = as_text(value) == given or (measured is not None and measured == wanted)
    return not same if sign == "!=" else same
