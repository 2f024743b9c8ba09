"""What the command line tells its user: everything that is wrong with a request in one message, or what prevents a
sound one from being carried out. Knows neither keys nor files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One line of it."""

    key: str
    given: Any
    why: str

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        given = "" if self.given is None else f" = {self.given}"
        return f"{self.key}{given}: {self.why}" if self.key else self.why


class Problems(Exception):
    """All problems of one request; the command line prints it and leaves with status 2."""

    def __init__(self, problems: list[Problem], config: dict[str, Any] | None = None):
        self.problems = problems
        self.config = config  # what could be composed of the request all the same
        super().__init__(str(self))

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return "\n".join([f"{count} in this request:", *(f"  {p}" for p in self.problems)])


def nearest(given: str, possible: Iterable[str], first: Iterable[str] = ()) -> str:
    """`; nearest: a or b`, those of `first` before the two spelled most alike; empty where there are none."""
    close = dict.fromkeys([*first, *difflib.get_close_matches(given, list(possible), 2)])
    return f"; nearest: {' or '.join(list(close)[:3])}" if close else ""


class Failure(ValueError):
    """What stands in the way of a sound request: a damaged file, data that cannot be had. The message says what to do;
    the command line prints it and leaves with status 1."""


def cause(error: BaseException) -> BaseException:
    """The error itself, out of the wrapper in which Hydra raises what a `_target_` raised."""
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__
    return error


def in_words(error: BaseException) -> str:
    """An error as one line: with the file's name if it is about a file, with its type if it was not foreseen."""
    if isinstance(error, Failure | Problems):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return first if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {first}"


def last_line(error: Any) -> str:
    """The last line of a run's recorded error, which in a traceback names it; empty where there is none."""
    return (str(error).strip().splitlines() or [""])[-1] if error else ""


def foreseen(error: BaseException) -> bool:
    """Whether these words are enough, and a traceback would say nothing more."""
    return isinstance(error, Failure | Problems | OSError)
