"""What is demanded of every case: success, or one clear message by the project's own way of failing, in time and within
memory. Knows no case."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unclip import cli
from unclip.config.problems import foreseen
from unclip.runs import process

SECONDS = 60.0  # of the clock: the longest case takes 7 s of a core, and others may want it
MEMORY = 2 * 2**30  # bytes that a case may have more than there were before it


class Late(BaseException):
    """A case took too long."""


class Sound(BaseException):
    """A request is sound: what follows is long."""


def command(arguments: list[str]) -> str | None:
    """What is wrong with how `unclip ARGUMENTS` ends, here, without the long work; None where nothing is."""
    out, err = io.StringIO(), io.StringIO()
    with _without_long_work(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: Any = _limited(lambda: cli.main(arguments))
        except Sound:
            return None
        except (Late, SystemExit, Exception):
            return traceback.format_exc()[-3000:]
    said = err.getvalue()
    if kept := re.search(r"\(traceback in (\S+)\)", said):
        path = Path(kept[1])
        told = path.read_text()[-3000:]
        path.unlink()
        return told
    if status not in (cli.DONE, cli.FAILED, cli.WRONG_REQUEST) or "Traceback" in said:
        return f"status {status}: {said[-3000:]}"
    if status and not said.lstrip().startswith("unclip"):
        return f"status {status} without a word of why: {said[:500]!r}"
    return None


def call(function: Callable[[], Any]) -> str | None:
    """The same of a function that reads: it returns, or raises what names the file."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            _limited(function)
        except (Late, Exception) as error:
            return None if foreseen(error) and str(error).strip() else traceback.format_exc()[-3000:]
    return None


def _limited(function: Callable[[], Any]) -> Any:
    def late(*_: Any) -> None:
        raise Late(f"more than {SECONDS:.0f} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)  # again and again: somebody may have caught the first
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        return function()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def _without_long_work() -> Iterator[None]:
    def sound(*_: Any, **__: Any) -> None:
        raise Sound

    names = ("stop_at_once_when_asked", "run_child", "start_child", "become")
    before, environment = {name: getattr(process, name) for name in names}, dict(os.environ)
    for name in names:
        setattr(process, name, sound)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(process, name, function)
        os.environ.clear()
        os.environ.update(environment)
