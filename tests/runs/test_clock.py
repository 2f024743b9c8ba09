"""A clock that jumps makes no live run look dead, and no age absurd."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from unclip.cli import main
from unclip.runs.store import Run, age

LONG = timedelta(days=40_000)


def stamp(offset: timedelta) -> str:
    return (datetime.now(UTC) + offset).isoformat(timespec="seconds")


@pytest.mark.parametrize("heartbeat", ["1970-01-01T00:00:00+00:00", "2136-05-28T12:00:00+00:00"])
def test_a_run_is_live_by_its_lock_whatever_its_heartbeat_says(tmp_path: Path, heartbeat: str) -> None:
    run = Run(tmp_path / "default" / "0123456789")
    run.folder.mkdir(parents=True)
    (run.folder / "status.json").write_text(json.dumps({"state": "running", "heartbeat": heartbeat}))
    with run.lock():
        assert run.state == "live"
    assert run.state == "interrupted"


@pytest.mark.parametrize(
    ("offset", "said"),
    [
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=30), "just now"),
        (timedelta(hours=-3), "3 hours ago"),
        (timedelta(hours=3), "in the future, by this clock"),
        (LONG, "in the future, by this clock"),
        (-timedelta(days=3), "3 days ago"),
    ],
)
def test_an_age_in_words(offset: timedelta, said: str) -> None:
    assert age(stamp(offset)) == said


def test_runs_of_another_clock_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, offset in (("a" * 10, timedelta(hours=5)), ("b" * 10, timedelta(hours=-5))):
        folder = tmp_path / "default" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("stage: {name: clip}\npaths: {outputs: outputs}\nseed: 0\n")
        (folder / "status.json").write_text(
            json.dumps({"state": "failed", "heartbeat": stamp(offset), "error": "x"})
        )
    assert main(["runs", str(tmp_path)]) == 0
    lines = {line.split()[2]: line for line in capsys.readouterr().out.splitlines() if "clip" in line}
    assert " future " in lines["a" * 10]
    assert " 5h " in lines["b" * 10]
