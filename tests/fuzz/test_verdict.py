"""The judge of the random cases: it lets no hang, traceback, hunger for memory or silent failure pass."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.fuzz import verdict

from unclip import cli
from unclip.config.problems import Failure
from unclip.runs import runs


def _raising(error: Exception) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise error

    return function


def _sleeps_on() -> None:
    """As code does that catches whatever is raised in it."""
    try:
        time.sleep(60)
    except BaseException:
        time.sleep(60)


@pytest.mark.parametrize("hang", [lambda: time.sleep(60), _sleeps_on])
def test_a_hang_is_ended_and_told(hang: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "SECONDS", 0.1)
    began = time.monotonic()
    assert "more than" in (verdict.call(hang) or "")
    assert time.monotonic() - began < 10
    time.sleep(0.2)  # the alarm is off


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda: 1, None),
        (_raising(Failure("a.npz: holds no pictures")), None),
        (_raising(Failure(" ")), "Failure"),
        (_raising(KeyError("images")), "KeyError: 'images'"),
        (lambda: bytearray(2 * verdict.MEMORY), "MemoryError"),
    ],
)
def test_a_reader_returns_or_says_what_stands_in_the_way(
    function: Callable[[], Any], told: str | None
) -> None:
    found = verdict.call(function)
    assert found is None if told is None else told in (found or "")


@pytest.mark.parametrize(
    ("main", "told"),
    [
        (lambda _: 0, None),
        (_raising(Failure("no")), None),
        (_raising(KeyError("stage")), "KeyError: 'stage'"),
        (lambda _: cli.FAILED, "without a word of why"),
        (lambda _: 7, "status 7"),
        (lambda _: print("Traceback", file=sys.stderr) or 0, "Traceback"),
        (lambda _: time.sleep(60), "more than"),
    ],
)
def test_a_command_ends_well_or_in_one_message(
    main: Callable[..., Any], told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "SECONDS", 0.5)
    monkeypatch.setattr(runs, "main", main)
    found = verdict.command(["runs"])
    assert found is None if told is None else told in (found or "")
