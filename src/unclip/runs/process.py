"""Child processes that carry out runs: they end with their parent and handle Ctrl-C themselves. Imports no torch."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from typing import Any

from unclip.cli import INTERRUPTED

PARALLEL = (
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "WORLD_SIZE",
    "RANK",
    "MASTER_",
    "SLURM_",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_",
    "TORCHELASTIC_",
    "PL_GLOBAL_SEED",
    "UNCLIP_RANKS",
    "UNCLIP_ATTEMPT",
)
# of a W&B agent: for the run that it asked for, not for upstream runs
STEERED = ("WANDB_SWEEP_", "WANDB_RUN_ID")
PR_SET_PDEATHSIG = 1
SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it
WAIT = "UNCLIP_WAIT"  # set for children: a run that is live is waited for, not refused
WAIT_SECONDS = 2.0
# a launcher's variables as JSON, for the first of several ranks: only its training sees them
RANKS = "UNCLIP_RANKS"
# names a cluster's attempt at a run: by it in status.json the other ranks see that training has begun
ATTEMPT = "UNCLIP_ATTEMPT"
ASKED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # Ctrl-C and a cluster's signals
# exit statuses of a child that was asked to stop
WAS_STOPPED = (INTERRUPTED, *(-number for number in ASKED_BY))


def before_becoming(module: str, *given: str) -> None:
    """A hook, called with the module and arguments that this process is about to be replaced by."""


def refused(busy: Exception) -> bool:
    """Whether a run that another process holds ends this one. A command that was typed is refused, in one line; a child
    of a sweep is to try again, after a pause that is over when this returns."""
    if os.environ.get(WAIT):
        time.sleep(WAIT_SECONDS)
        return False
    print(f"unclip train: {busy}", file=sys.stderr)
    return True


def run_child(*arguments: str, **options: Any) -> int:
    """Run `python -m <arguments>` to its end, with Popen's options, and return its exit status.

    The child gets none of the variables by which launchers number their processes. Ctrl-C reaches it through the
    terminal, and what only this process is asked is passed on; it waits while the child saves and ends. If it is
    killed, the child gets SIGTERM.
    """
    children: list[subprocess.Popen[bytes]] = []
    asked = False

    def pass_on(*_: object) -> None:
        nonlocal asked
        asked = True
        for child in children:
            child.terminate()  # no SIGINT: after that of a terminal it would be a second one, which forbids to save

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        children.append(start_child(*arguments, **options))
        if asked:
            children[0].terminate()
        return children[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_child(
    *arguments: str, more: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start `python -m <arguments>` as run_child does, with `more` in its environment and Popen's options."""
    inherited = {k: v for k, v in _alone().items() if not k.startswith(STEERED)}
    environment = inherited | {WAIT: "1", **(more or {})}
    command = [sys.executable, "-m", *arguments]
    ends = partial(end_with_parent, parent=os.getpid())
    return subprocess.Popen(command, env=environment, preexec_fn=ends, **options)


def become(*arguments: str) -> None:
    """Replace this process by `python -m <arguments>`: same process id, same terminal."""
    before_becoming(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    ranks = json.loads(os.environ.get(RANKS, "{}"))
    more = {ATTEMPT: os.environ[ATTEMPT]} if ATTEMPT in os.environ else {}
    os.execve(sys.executable, [sys.executable, "-m", *arguments], _alone() | ranks | more)


def _alone() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(PARALLEL)}


def stop_at_once_when_asked(saying: str = "") -> None:
    """When asked to stop leave at once, with one line: for work whose files are whole at every moment."""

    def leave(*_: object) -> None:
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), SHOW_CURSOR)
        if saying:
            os.write(sys.stderr.fileno(), f"\n{saying}\n".encode())
        os._exit(INTERRUPTED)

    for number in ASKED_BY:
        signal.signal(number, leave)


def end_with_parent(by: signal.Signals = signal.SIGTERM, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when its parent ends, and end at once where `parent`, if that is
    known, has ended before. Linux only; elsewhere it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
        if parent is not None and os.getppid() != parent:
            os._exit(INTERRUPTED)
