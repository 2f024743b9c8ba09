"""What is wrong with a request, said in one message: the key, what was given, what is possible."""

from __future__ import annotations

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
