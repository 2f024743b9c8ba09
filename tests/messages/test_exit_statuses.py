"""0 done, 1 a run failed, 2 a wrong request, 130 interrupted: of every verb, typed in this very process."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.report.left_by_runs import sweep_of_runs, train_run

from unclip import cli
from unclip.config.compose import compose
from unclip.runs import job, process
from unclip.verbs import VERBS, usage

SMALL = "data=synthetic data.size=64 data.image_size=16 data.batch_size=16 logger=none"
NOWHERE = "/dev/null/outputs"  # where nothing can be written
Types = Callable[[str], int]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, a sweep and a decoder without its weights."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "pictures").mkdir()
    for i, noise in enumerate(np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)):
        Image.fromarray(noise).save(folder / "pictures" / f"{i}.png")
    train_run(folder / "decoder", compose("train", ["stage=decoder", "clip=random", *SMALL.split()]).config)
    sweep_of_runs(folder / "outputs", {"a": [1.0, 2.0], "b": [2.0, 3.0]})
    return folder


@pytest.fixture
def types(world: Path, monkeypatch: pytest.MonkeyPatch) -> Types:
    """Type a command there. Children fail; a training is in this process."""
    monkeypatch.chdir(world)
    handlers = {number: signal.getsignal(number) for number in process.ASKED_BY}

    def becomes(module: str, folder: str) -> None:
        raise SystemExit(job.main(folder))

    monkeypatch.setattr(process, "become", becomes)
    monkeypatch.setattr(process, "run_child", lambda *_, **__: cli.FAILED)

    def typed(line: str) -> int:
        try:
            return cli.main(shlex.split(line))
        except SystemExit as status:
            return int(str(status.code))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    return typed


@pytest.mark.parametrize("line", ["", "--help", "--version", *(f"{verb} --help" for verb in VERBS)])
def test_help_is_done(line: str, types: Types) -> None:
    assert types(line) == cli.DONE


@pytest.mark.parametrize(
    "line",
    [
        "train stage=clip --cfg job",
        "train stage=clip dry_run=true",
        pytest.param("run experiment=smoke dry_run=true", marks=pytest.mark.slow),
        "search --list",
        "evaluate images=pictures reference=pictures extractor=random metrics=brightness n=10",
        "report outputs/sweeps/sweep.json format=csv out=report",
        "runs",
        "runs clean",
        "data fetch synthetic",
        "completion fish",
    ],
)
def test_what_is_done_is_0(line: str, types: Types) -> None:
    assert types(line) == cli.DONE


FAILS = {
    "train": "train stage=clip data=image_folder data.path=pictures logger=none",
    "run": f"run experiment=smoke results={NOWHERE}",
    "ablate": f"ablate objective_weighting budget=smoke paths.outputs={NOWHERE}",
    "search": f"search smoke paths.outputs={NOWHERE}",
    "sample": "sample run=decoder prior=none",
    "evaluate": "evaluate run=decoder prior=none",
    "manipulate": "manipulate variations run=decoder prior=none",
    "schedules": f"schedules compare=cosine weightings=uniform data=synthetic out={NOWHERE}",
    "bench": "bench startup",
    "data": "data info image_folder data.path=pictures",
}


LONG = {"ablate", "schedules"}  # seconds of checks first


@pytest.mark.parametrize("verb", [pytest.param(v, marks=[pytest.mark.slow] * (v in LONG)) for v in FAILS])
def test_what_stands_in_the_way_of_a_sound_request_is_1(
    verb: str, types: Types, capsys: pytest.CaptureFixture[str]
) -> None:
    assert types(FAILS[verb]) == cli.FAILED
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "(traceback in " not in said, "this was foreseen"
    assert verb == "bench" or said.strip(), "a child has said it"


def test_a_loss_that_is_no_number_is_1(types: Types, capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        f"train stage=classifier {SMALL} model.widths=[8,16] trainer=cpu trainer.max_steps=12 optim.lr=1e30"
    )
    assert types(line) == cli.FAILED
    assert "unclip train: the loss is " in capsys.readouterr().err
    assert types(line) == cli.FAILED, "and stays so"
    assert "to try again: " in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_request_is_2(verb: str, types: Types, capsys: pytest.CaptureFixture[str]) -> None:
    assert types(f"{verb} --frobnicate") == cli.WRONG_REQUEST
    assert capsys.readouterr().err.startswith(f"unclip {verb}: ")
    if verb == "schedules":  # which looks at all there are first
        return
    assert types(f"{verb} frobnicate=1") == cli.WRONG_REQUEST
    assert capsys.readouterr().err.startswith(f"unclip {verb}: ")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("raised", "status"),
    [(KeyboardInterrupt(), cli.INTERRUPTED), (OSError(28, "No space left", "x"), cli.FAILED)],
)
def test_of_every_verb_an_interruption_is_130_and_a_full_disk_1(
    verb: str, raised: BaseException, status: int, types: Types, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(_: list[str]) -> int:
        raise raised

    monkeypatch.setattr(import_module(VERBS[verb].module), "main", main)
    assert types(verb) == status


def test_what_nobody_foresaw_is_1_with_its_traceback_in_a_file(
    types: Types, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(import_module(VERBS["runs"].module), "main", lambda _: 1 // 0)
    assert types("runs") == cli.FAILED
    said = capsys.readouterr().err
    assert said.startswith(
        "unclip runs: ZeroDivisionError: integer division or modulo by zero (traceback in /"
    )
    kept = Path(said.rstrip()[:-1].rpartition(" in ")[2])
    assert "ZeroDivisionError" in kept.read_text()
    kept.unlink()


@pytest.mark.parametrize(("unread", "status"), [(True, cli.DONE), (False, cli.FAILED)])
def test_output_that_nobody_reads_is_done_and_any_other_broken_pipe_is_1(
    unread: bool, status: int, tmp_path: Path
) -> None:
    code = "import sys; from unclip import cli; from unclip.runs import runs\n"
    code += "def main(_): raise BrokenPipeError(32, 'Broken pipe')\n"
    code += "runs.main = main; sys.exit(cli.main(['runs']))"
    read, write = os.pipe()
    if unread:
        os.close(read)
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert ended.returncode == status
    assert (b"Broken pipe" in ended.stderr) == (not unread)


def test_a_sweep_is_what_its_worst_cell_is(tmp_path: Path) -> None:
    """Of which sad_endings.py has the words."""
    from unclip.runs.sweep import Sweep

    made = Sweep("train", [], [], [], {})
    made.stopped = True
    assert made.end() == cli.INTERRUPTED
    made.stopped = False
    assert made.end() == cli.DONE


def test_the_statuses_are_said_where_users_look() -> None:
    said = "0 done, 1 a run failed, 2 a wrong request, 130 interrupted"
    assert said in usage()
    assert said in str(cli.__doc__)
    assert [cli.DONE, cli.FAILED, cli.WRONG_REQUEST, cli.INTERRUPTED] == [0, 1, 2, 130]
