"""Nobody is called who was not asked for: training, sampling, evaluation and reports open no connection beyond this
machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = """
import os, socket
_connect, _ask = socket.socket.connect, socket.getaddrinfo
HERE = ("127.0.0.1", "::1", "localhost", None, "", socket.gethostname())
def _told(what):
    with open(os.environ["CALLED"], "a") as file:
        file.write(f"{what}\\n")
    raise OSError(f"no network here: {what}")
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in HERE:
        _told(address)
    return _connect(self, address)
def getaddrinfo(host, *more, **options):
    if host not in HERE:
        _told(host)
    return _ask(host, *more, **options)
socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect, getaddrinfo
"""


class Guarded:
    """Commands in an empty folder, each interpreter of which says whom it calls."""

    def __init__(self, folder: Path):
        self.folder, self.called = folder, folder / "called.txt"
        (folder / "guard").mkdir()
        (folder / "guard" / "sitecustomize.py").write_text(GUARD)

    def __call__(self, *command: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(p for p in (str(self.folder / "guard"), os.environ.get("PYTHONPATH")) if p)
        environment = {**os.environ, "PYTHONPATH": path, "CALLED": str(self.called)}
        environment.pop("WANDB_MODE", None)
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


def test_the_guard_would_notice(guarded: Guarded) -> None:
    done = guarded("-c", "import urllib.request; urllib.request.urlopen('http://example.org')")
    assert done.returncode != 0
    assert guarded.called.read_text() == "example.org\n"


@pytest.mark.slow
def test_nothing_is_called_from_training_to_report(guarded: Guarded) -> None:
    """A minute: a whole run with W&B's records as they are by default, pictures, numbers and a report."""
    for line in (
        [
            "run",
            "experiment=smoke",
            "results=r",
            "clip.logger=wandb",
            "prior.logger=wandb",
            "decoder.logger=wandb",
        ],
        ["sample", "run=r", 'prompts=["a red circle"]'],
        ["evaluate", "run=r"],
        ["report", "r"],
        ["runs"],
    ):
        done = guarded("-m", "unclip", *line)
        assert done.returncode == 0, done.stderr
    assert not guarded.called.exists(), guarded.called.read_text()
