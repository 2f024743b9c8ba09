"""Two processes at the same run: whoever looks stands in nobody's way, and what one has ended or removed meanwhile is
noticed."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from unclip.cli import INTERRUPTED
from unclip.files import write_json
from unclip.runs import cleaning, listing, process, store, train
from unclip.runs.cells import Cell
from unclip.runs.job import beat
from unclip.runs.results import RECORD, Results, digest
from unclip.runs.search_jobs import measured
from unclip.runs.store import Busy, Run, provenance
from unclip.runs.workers import Job, ending

CONFIG: dict[str, Any] = {
    "stage": {"name": "clip"},
    "data": {},
    "model": {},
    "paths": {"outputs": "outputs"},
    "seed": 0,
    "retry": False,
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that was prepared, and that no process has begun."""
    found = Run(tmp_path / "default" / "0123456789")
    found.prepare(CONFIG, "unclip train stage=clip")
    return found


def finish(run: Run) -> None:
    run.weights.touch()
    run.mark("finished")


def test_a_look_at_the_lock_refuses_it_to_nobody(run: Run) -> None:
    """`held` asks by a shared lock; who takes the lock for itself meanwhile must wait that moment, not leave."""
    with (run.folder / ".lock").open("rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(store.LOOK_SECONDS / 5, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        with run.lock():
            assert run.held
    with run.lock(), pytest.raises(Busy), run.lock():
        pass


def test_a_lock_is_that_of_the_folder_in_its_place(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal may come between opening the lock's file and locking it: then it locks nothing."""
    flock = fcntl.flock

    def late(handle: Any, how: int) -> None:
        if how & fcntl.LOCK_EX and (run.folder / "config.yaml").exists():
            shutil.rmtree(run.folder)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with run.lock():
        assert run.held
        with pytest.raises(Busy), run.lock():
            pass


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_run_that_ends_while_one_looks_is_not_taken_for_interrupted(
    run: Run, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    run.mark("running")

    def ends(self: Run) -> bool:
        run.weights.touch()
        run.mark(state)
        return False

    monkeypatch.setattr(Run, "held", property(ends))
    assert run.state == state


def test_so_it_is_with_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record: dict[str, Any] = {"stages": {}, "sample": {}, "evaluate": {}}
    results = Results(tmp_path, digest(record))
    results.mark("running", signature=results.signature)

    def ends(self: Run) -> bool:
        write_json(tmp_path / RECORD, record)
        return False

    monkeypatch.setattr(Run, "held", property(ends))
    assert results.state == "finished"


def test_what_another_process_trains_or_has_finished_keeps_its_configuration(run: Run) -> None:
    before = (run.folder / "config.yaml").read_bytes()
    with run.lock(), pytest.raises(Busy):
        run.prepare({**CONFIG, "extractor": "another"}, "")
    finish(run)
    run.prepare({**CONFIG, "extractor": "another"}, "")
    assert (run.folder / "config.yaml").read_bytes() == before


def test_who_is_not_the_quicker_to_begin_a_run_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As live, although it was not yet when its state was read."""
    monkeypatch.setattr(process, "become", lambda *_: pytest.fail("it is trained by another"))
    monkeypatch.setattr(Run, "state", property(lambda self: "new"))
    with run.lock():
        assert train.start(run, CONFIG, "unclip train stage=clip") == 2
    assert f"is being trained by process {os.getpid()}" in capsys.readouterr().err


def test_a_run_that_is_begun_again_while_removals_are_planned_stays(run: Run) -> None:
    long_ago = time.time() - 3600
    for name in ("config.yaml", "status.json"):
        os.utime(run.folder / name, (long_ago, long_ago))
    ((one,), _) = listing.scan(run.folder)
    assert cleaning.stays(one, cleaning.References([])) == ""
    run.prepare(CONFIG, "unclip train stage=clip")  # its process has not come to the lock yet
    with pytest.raises(Busy, match="has changed since it was looked at"):
        cleaning.remove(one)
    assert (run.folder / "config.yaml").is_file()


def test_what_another_removal_has_taken_is_not_made_again(run: Run) -> None:
    ((one,), _) = listing.scan(run.folder)
    shutil.rmtree(run.folder)
    assert cleaning.size(run.folder) == 0
    cleaning.remove(one)
    assert not run.folder.exists()


def test_the_age_of_a_run_that_is_trained_again_is_not_that_of_its_first_end(run: Run) -> None:
    run.mark("finished", finished="2020-01-01T00:00:00+00:00")
    ((one,), _) = listing.scan(run.folder)
    assert one.state == "interrupted"
    assert one.age < 60


def test_what_cannot_be_read_ends_neither_a_sweep_nor_a_search(run: Run, tmp_path: Path) -> None:
    """Said of the cell alone: a folder that vanished, a disk that answers with an error."""
    (run.folder / "status.json").unlink()
    (run.folder / "status.json").mkdir()
    cell = Cell(1, [], {}, run)
    assert cell.look() == "failed"
    assert cell.error == f"{run.folder / 'status.json'}: Is a directory"
    assert (cell.status, cell.seconds, measured(run)) == ({}, None, {})
    above = Cell(2, [], {}, None, {"trainer": {"max_steps": 3}}, needs=[run])
    assert above.training() == (None, "", 3)
    shutil.rmtree(run.folder)
    assert cell.look() == "new"
    child: Any = type("Ended", (), {"returncode": -9})
    assert ending(Job(cell, child, [], tmp_path / "gone" / "log.txt", 0)) == "killed by signal 9"


@pytest.mark.parametrize("status", process.WAS_STOPPED)
def test_who_is_stopped_while_it_waits_for_its_upstream_was_stopped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "run_child", lambda *_: status)
    assert train.main(["stage=prior", "data=synthetic"]) == INTERRUPTED


def test_without_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    found = provenance()
    monkeypatch.setenv("PATH", "")
    assert provenance() == {**found, "git": None}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_asked_to_stop_alone_passes_it_on_and_waits(tmp_path: Path, number: int) -> None:
    sleeper = "import os, signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: os._exit(1))\n"
    sleeper += "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), os._exit(130)))\n"
    sleeper += "print(os.getppid(), flush=True)\ntime.sleep(60)"
    (tmp_path / "sleeper.py").write_text(sleeper)
    code = "import sys; from unclip.runs.process import run_child; sys.exit(run_child('sleeper'))"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert int(parent.stdout.readline()) == parent.pid
    parent.send_signal(number)
    assert parent.communicate(timeout=20)[0] == "saved\n"
    assert parent.returncode == INTERRUPTED


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's end on Linux alone")
def test_a_child_whose_parent_has_ended_before_it_could_say_so_ends(tmp_path: Path) -> None:
    code = "import sys; from unclip.runs.process import end_with_parent; "
    code += "end_with_parent(parent=int(sys.argv[1])); print('goes on')"
    for parent, said in ((os.getpid(), "goes on\n"), (os.getpid() + 1, "")):
        assert (
            subprocess.run([sys.executable, "-c", code, str(parent)], capture_output=True, text=True).stdout
            == said
        )


def test_a_heartbeat_leaves_what_another_rank_has_failed_of(run: Run) -> None:
    run.mark("running")
    beat(run, step=3)
    assert (run.status["state"], run.status["step"]) == ("running", 3)
    run.mark("failed", error="rank 1: it broke")
    beat(run, step=4)
    assert (run.status["state"], run.status["error"]) == ("failed", "rank 1: it broke")
