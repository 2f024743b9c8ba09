"""What is said to whoever typed something that cannot be done: every message is provoked by some test, names what was
given, and reads like the others."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra.errors import HydraException
from tests.conftest import ROOT
from tests.messages import sad_endings, wrong_calls, wrong_data, wrong_numbers, wrong_requests
from tests.messages.phrases import Phrase, Source, expected_in
from tests.report.left_by_runs import results, train_run

from unclip import cli
from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.data.places import PlaceUnavailable
from unclip.runs import process


def likes(expected: str) -> re.Pattern[str]:
    """The expected line, in which `...` stands for anything."""
    return re.compile(".*".join(map(re.escape, expected.split("..."))))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished decoder, a finished classifier, results without a decoder and of one to come."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "outputs").mkdir()
    for name, line in {"decoder": "clip=random", "classifier": "seed=0"}.items():
        train_run(folder / name, compose("train", [f"stage={name}", line]).config)
    results(folder / "results", {}, {"classifier": folder / "classifier"})
    results(folder / "begun", {}, {"decoder": folder / "never"})
    return folder


@pytest.fixture
def types(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Type a command: its exit status and the lines said of it on stderr. What would begin long work fails."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("UNCLIP_CONFIG_DIR", "")
    for long_work in ("become", "run_child", "start_child"):
        monkeypatch.setattr(process, long_work, lambda *_, **__: pytest.fail("the request is sound"))

    def typed(line: str) -> tuple[int, list[str]]:
        status = cli.main(shlex.split(line, posix="'" not in line))
        return status, capsys.readouterr().err.splitlines()

    return typed


@pytest.mark.parametrize("line", wrong_requests.PROBLEMS)
def test_a_wrong_request_is_told_all_its_problems(line: str, types) -> None:
    expected = wrong_requests.PROBLEMS[line]
    status, (head, *said) = types(line)
    count = "1 problem" if len(expected) == 1 else f"{len(expected)} problems"
    assert (status, head) == (cli.WRONG_REQUEST, f"unclip {line.split()[0]}: {count} in this request:")
    assert len(said) == len(expected), said
    for one, wanted in zip(said, expected, strict=True):
        assert likes(f"  {wanted}").fullmatch(one), one


@pytest.mark.parametrize("line", wrong_requests.LINES)
def test_a_wrong_command_is_told_in_one_line(line: str, types) -> None:
    status, (said,) = types(line)
    assert status == cli.WRONG_REQUEST
    assert likes(wrong_requests.LINES[line]).fullmatch(said)


@pytest.mark.parametrize("said", wrong_numbers.CALLS)
def test_numbers_that_cannot_be_are_told_in_one_line(said: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        wrong_numbers.CALLS[said]()
    assert likes(said).fullmatch(str(error.value)), str(error.value)


CALLS = {**wrong_calls.CALLS, **wrong_data.CALLS}


@pytest.mark.parametrize("said", CALLS)
def test_what_is_there_and_of_no_use_is_told_with_its_name(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNCLIP_CONFIG_DIR", "nowhere" if said.startswith("UNCLIP_CONFIG_DIR") else "")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises((ValueError, Problems, PlaceUnavailable, HydraException)) as error:
        CALLS[said](tmp_path)
    told = str(error.value).replace(str(tmp_path), "FOLDER").removeprefix("1 problem in this request:\n  ")
    assert likes(said).fullmatch(told), told


@pytest.mark.parametrize("said", sad_endings.SAID)
def test_what_ends_badly_is_told_with_what_goes_on_from_there(
    said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sad_endings.SAID[said](tmp_path)
    told = capsys.readouterr().err.strip().replace(str(tmp_path), "FOLDER")
    assert likes(said).fullmatch(told), told


# ---- all of them ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phrases() -> list[Phrase]:
    return Source(ROOT / "src" / "unclip").phrases()


def test_every_phrase_that_may_be_said_is_expected_by_a_test(phrases: list[Phrase]) -> None:
    assert len(phrases) > 400, "messages are found where they are made"
    unheard = [str(phrase) for phrase in expected_in(ROOT / "tests", phrases)]
    assert not unheard, "provoke these in a test that says what is expected:\n" + "\n".join(unheard)


def test_a_message_that_no_test_provokes_is_found(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "unclip").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("match = 'must be told to somebody'")
    (tmp_path / "unclip" / "new.py").write_text(NEW)
    found = Source(tmp_path / "unclip").phrases()
    said = ["must be told to somebody", "is told by another function", "is told to nobody at all,"]
    assert [piece for phrase in found for piece in phrase.pieces] == [f": {said[0]}", *said[1:]]
    assert [p.place for p in expected_in(tmp_path / "tests", found)] == ["new.py:7", "new.py:12"]


NEW = """
def heard(x):
    if x:
        raise ValueError(f"x = {x}: must be told to somebody")

def why():
    return "is told by another function"

def unheard(x):
    problem = Problem("x", x, why())
    if x > 3:
        words = f"is told to nobody at all, {x} of"
        raise Failure(words)
    return problem
"""


WHOLE = [
    *wrong_requests.LINES.values(),
    *(line for lines in wrong_requests.PROBLEMS.values() for line in lines),
]
WHOLE += [*wrong_numbers.CALLS, *CALLS, *sad_endings.SAID]


@pytest.mark.parametrize("line", dict.fromkeys(WHOLE))
def test_a_message_is_one_line_without_flourish(line: str) -> None:
    assert "\n" not in line or line.splitlines()[0].endswith((":", "x", "failed", "..."))
    assert not re.search(r"[^.]\.$|[!;:,]$|\s$", line)


@pytest.mark.parametrize("word", ["Error", "rror:", "nvalid", "llegal", "lease ", "orry", "Oops", "can't"])
def test_phrases_say_what_is_there_and_what_is_possible(word: str, phrases: list[Phrase]) -> None:
    assert [str(p) for p in phrases if any(word in piece for piece in p.pieces)] == []
