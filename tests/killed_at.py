"""Kills a process at every moment at which it changes something on the disk. Not a test itself."""

from __future__ import annotations

import builtins
import io
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

CALLS = (
    "fsync",
    "replace",
    "rename",
    "link",
    "unlink",
    "chmod",
    "mkdir",
)  # of os, beside opening and writing


def every_change(action: Callable[[], Any]) -> Iterator[int]:
    """Carries out `action` in a child that is killed -9 at its n-th change of files, n = 1, 2, ..., until there are no
    more; after each kill it is the caller's turn to look at what is left. What is being written is written by half."""
    n = 1
    while True:
        child = os.fork()
        if not child:
            try:
                _die_at(n)
                action()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert status == 0, "it failed by itself"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield n
        n += 1


def _die_at(n: int) -> None:
    left = n

    def change(half: Callable[[], Any] = lambda: None) -> None:
        nonlocal left
        left -= 1
        if not left:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            change()
            return function(*arguments, **options)

        return call

    class Written(io.FileIO):
        def write(self, data: Any) -> int:
            change(lambda: io.FileIO.write(self, bytes(data)[: len(data) // 2]))
            return super().write(data)

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not isinstance(path, int) and set(mode) & set("wxa"):
            change()
            if "b" in mode:
                return Written(path, mode.replace("b", ""))
            return io.TextIOWrapper(io.BufferedWriter(Written(path, mode.replace("t", ""))), "utf-8")
        return open_as_before(path, mode, *arguments, **options)

    open_as_before = builtins.open
    builtins.open = io.open = opened  # type: ignore[assignment]
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
