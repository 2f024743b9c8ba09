"""`@bounded`: enforces the ranges written in a signature, `Annotated[float, "0 <= dropout < 1"]`, at call
time. The same strings are read by the configuration's checks, so a range has one home. Not a type checker."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import torch

P = ParamSpec("P")
R = TypeVar("R")
FUNCTIONS = {"all": all, "any": any, "len": len, "min": min, "max": max, "abs": abs}  # as in config/hints.py


def bounded(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function or an `__init__`: parameters annotated `Annotated[type, "comparison"]` are checked.

    The comparison is a Python expression of the parameter's own name and of FUNCTIONS. None passes: it means
    "not set". What `torch.compile` traces is not checked.
    Raises ValueError, e.g. `T = 1: must satisfy T >= 2`.
    """
    signature = inspect.signature(function)

    @functools.cache
    def conditions() -> list[tuple[str, str, CodeType]]:
        # resolved at the first call: under `from __future__ import annotations` hints are strings until then
        hints = get_type_hints(function, include_extras=True)
        return [
            (name, text, compile(text, f"<bound of {name}>", "eval"))
            for name, hint in hints.items()
            for text in _texts(hint)
        ]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():  # a graph cannot read signatures
            return function(*args, **kwargs)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # a wrong call: Python's own message names the function
        for name, text, code in conditions():
            if given.get(name) is not None and not _holds(code, {name: given[name]}):
                raise ValueError(f"{name} = {given[name]!r}: must satisfy {text}")
        return function(*args, **kwargs)

    return checked


def _texts(hint: Any) -> Iterator[str]:
    """The bounds in a hint: of `Annotated[int, "..."]`, also as part of a union with None."""
    if get_origin(hint) is Annotated:
        yield from (note for note in hint.__metadata__ if isinstance(note, str))
    for part in get_args(hint):
        if get_origin(part) is Annotated:
            yield from _texts(part)


def _holds(code: CodeType, names: dict[str, Any]) -> bool:
    try:
        return bool(eval(code, {"__builtins__": {}, **FUNCTIONS, **names}))
    except (TypeError, LookupError):  # "abc" >= 2, a list that is too short
        return False
