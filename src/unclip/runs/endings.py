"""How a training ends early: what is said, in one line, and the state in which the run is left.

Imports no torch before something has gone wrong.
"""

from __future__ import annotations

import errno
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from unclip.cli import DONE, FAILED, INTERRUPTED
from unclip.config.problems import cause, foreseen, in_words
from unclip.runs.store import Run

GOES_ON = "the same command goes on from the last checkpoint"
OUTSIDE = {  # errors of the machine, not of the run, which resumes once they are mended
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "make room",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EIO: "see to the disk",
    errno.ESTALE: "see to the disk",
    errno.EPIPE: "what it prints must be read to the end, or go to a file",
}


class Interrupted(Exception):
    """Something outside the run has ended its training; the message says what."""


def stopped(run: Run, rank: int, seconds: float) -> int:
    """All ranks have stopped on request. Returns the exit status."""
    if rank:
        return DONE  # the first speaks for all; for another status Lightning would kill it
    _mark(run, "interrupted", seconds=seconds)
    print(f"interrupted, saved; the same command goes on from here\nrun: {run.folder}", flush=True)
    return INTERRUPTED


def broken_off(run: Run, rank: int, raised: Exception, seconds: float) -> int:
    """An error: say what, and leave the run interrupted or failed. Returns the exit status."""
    from unclip.lit.finite import NonFinite

    error = cause(raised)
    if rank and isinstance(error, NonFinite):
        return DONE  # as before: all ranks have raised it
    if isinstance(error, Interrupted):
        if not rank:
            _mark(run, "interrupted", seconds=seconds)
            _say(run, f"{error}; {GOES_ON}")
        return INTERRUPTED
    if what := outside(error, run.folder):
        _mark(run, "interrupted", seconds=seconds)
        _say(run, f"{what}; {GOES_ON}")
        return FAILED
    why = in_words(error)
    if not foreseen(error):
        with suppress(OSError):
            (run.folder / "error.txt").write_text(
                "".join(traceback.format_exception(error)), encoding="utf-8"
            )
            why += f" (traceback in {run.folder / 'error.txt'})"
    return failed(run, rank, why)


def outside(error: BaseException, folder: Path) -> str | None:
    """What is wrong with the machine and what to do, of an error that is not the run's own; else None."""
    if not isinstance(error, OSError) or error.errno not in OUTSIDE:
        return None
    return f"{error.filename or folder}: {error.strerror}: {OUTSIDE[error.errno]}"


def failed(run: Run, rank: int, why: str) -> int:
    """Mark the run as failed: it is tried again only with retry=true. What another rank reported first is kept. Returns
    the exit status."""
    why = f"rank {rank}: {why}" if rank else why
    known = run.status.get("state") == "failed"
    if not known:
        _mark(run, "failed", error=why)
    if rank or not known:
        _say(run, why)
    return FAILED


def _mark(run: Run, state: str, **fields: object) -> None:
    with suppress(OSError):  # a full disk, say: without a state and a lock a run is taken for interrupted
        run.mark(state, **fields)


def _say(run: Run, why: str) -> None:
    print(f"unclip train: {why}\nrun: {run.folder}", file=sys.stderr, flush=True)
