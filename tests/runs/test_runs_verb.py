"""`unclip runs` on made-up runs: a thousand at once, filters, comparison, and a removal that takes nothing needed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from unclip import cli
from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.reading import DamagedFile
from unclip.runs import cleaning, listing, where
from unclip.runs.store import Run

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def decoder() -> dict[str, Any]:
    """A decoder's whole configuration, as a run keeps it."""
    config = compose("train", ["stage=decoder", "clip=random", "callbacks=default"]).config
    return {**config, "experiment": "made"}


def made(
    outputs: Path,
    signature: str,
    config: dict[str, Any],
    state: str = "finished",
    days: float = 0,
    metrics: dict[str, float] | None = None,
    **status: Any,
) -> Run:
    run = Run(outputs / config["experiment"] / signature)
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    stamp = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    known = {"state": state, "heartbeat": stamp, "step": 20, "metrics": metrics or {}, **status}
    (run.folder / "status.json").write_text(json.dumps(known))
    (run.folder / ".lock").touch()
    for name in ("config.yaml", "status.json"):
        os.utime(run.folder / name, (time.time() - 86400 * days,) * 2)
    if state == "finished":
        run.weights.write_bytes(bytes(500_000))
    return run


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["runs", *arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def signatures(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    status, out, err = typed(capsys, *arguments, "--json")
    assert status == 0, err
    return [one["signature"] for one in json.loads(out)]


@pytest.fixture
def three(tmp_path: Path, decoder: dict[str, Any]) -> Path:
    """Two finished decoders and a failed one, three, one and two days old."""
    outputs = tmp_path / "outputs"
    a = {**decoder, "seed": 1}
    b = {**decoder, "seed": 3, "optim": {**decoder["optim"], "lr": 0.5}}
    made(outputs, "aaaaaaaaa1", a, days=3, metrics={"val/fd_n500": 12.5, "val/loss": 0.1}, loss=9.0)
    made(outputs, "bbbbbbbbb2", b, days=1, metrics={"val/fd_n500": 31.0, "val/loss": 0.2})
    made(outputs, "ccccccccc3", a, "failed", days=2, error="RuntimeError: out of memory\nand more")
    return outputs


# ---- the list ---------------------------------------------------------------------------------------------------


def test_a_thousand_runs_are_listed_in_two_seconds(
    unclip: Command, tmp_path: Path, decoder: dict[str, Any]
) -> None:
    """0.4 s on an idle core; the bound of four seconds is for a busy machine."""
    for i in range(1000):
        varied = {**decoder, "seed": i, "optim": {**decoder["optim"], "lr": 1e-4 * (i % 7 + 1)}}
        made(tmp_path / "outputs", f"{i:010x}", varied, days=i / 50, metrics={"val/fd_n500": float(i)})
    start = time.monotonic()
    done = unclip("runs", "where=fd_n500<20 and optim.lr>0.00015", "sort=-fd_n500")
    assert time.monotonic() - start < 4
    assert done.stdout.splitlines()[1].split()[2] == f"{19:010x}"
    assert done.stdout.splitlines()[-1] == "17 runs of 1000: 17 finished"
    start = time.monotonic()
    every = unclip("runs")
    assert time.monotonic() - start < 4
    assert every.stdout.splitlines()[-1] == "1000 runs: 1000 finished"


def test_it_says_state_age_steps_metrics_and_why_a_run_failed(
    three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = typed(capsys, str(three))
    assert (status, err) == (0, "")
    heads, newest, failed, oldest, _, total = out.splitlines()
    assert heads.split() == ["experiment", "stage", "signature", "state", "age", "steps"]
    assert newest.split(maxsplit=6)[2:] == [
        "bbbbbbbbb2",
        "finished",
        "1d",
        "20/1000",
        "fd_n500 31, loss 0.2",
    ]
    assert failed.split(maxsplit=6)[2:5] == ["ccccccccc3", "failed", "2d"]
    assert failed.endswith("RuntimeError: out of memory and more")
    assert "fd_n500 12.5, loss 0.1" in oldest
    assert total == "3 runs: 2 finished, 1 failed"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("fd_n500<20", "a"),
        ("state=failed", "c"),
        ("stage=decoder and seed=3", "b"),
        ("stage=clip", ""),
        ("not state=failed and (fd_n500 >= 12.5)", "ab"),
        ("state=failed or lr=0.5", "bc"),
        ("seed!=3", "ac"),
        ("fd_n500!=3", "ab"),
        ("age>36h", "ac"),
        ("loss<1", "ab"),
        ("schedule~cosine", "abc"),
        ("error~'out of memory'", "c"),
        ("optim.decay=cosine AND clip=random", "abc"),
        ("signature~bbb", "b"),
        ("compile=auto and retry=false and callbacks.ema.decay>0", "abc"),
    ],
)
def test_where(three: Path, capsys: pytest.CaptureFixture[str], expression: str, expected: str) -> None:
    found = signatures(capsys, str(three), f"where={expression}")
    assert "".join(sorted(name[0] for name in found)) == expected


def test_sort_and_limit(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def order(*arguments: str) -> str:
        return "".join(name[0] for name in signatures(capsys, str(three), *arguments))

    assert order() == "bca"
    assert order("sort=-age") == "acb"
    assert order("sort=fd_n500") == "abc"
    assert order("sort=-fd_n500") == "bac"
    assert order("sort=state", "limit=1") == "c"
    assert "3 runs: 2 finished, 1 failed, the first 2 shown" in typed(capsys, str(three), "limit=2")[1]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("where=fd_n50<20", "where = fd_n50: no run has such a field; nearest: fd_n500"),
        ("where=optim.rl<1", "where = optim.rl: no run has such a field; nearest: optim.lr"),
        ("where=max_step=1", "nearest: trainer.max_steps"),
        ("where=_target_=1", "is more than one field: "),
        ("where=state=", "a value is missing at its end"),
        ("where=state failed", "one of = != < <= > >= ~ is missing where failed stands"),
        ("where=seed<three", "< compares numbers and times (30d, 12h), three is neither"),
        ("where=(seed=1", "a bracket is not closed"),
        ("where=seed=1 seed=2", "seed is not expected there"),
        ("where=seed=1 and", "a field's name is missing at its end"),
        ("where=seed='1", "'1 cannot be read"),
        (f"where={'(' * 5000}seed=1", "more than 50 brackets deep"),
        ("where=__import__('os').remove('x')", "is missing where ( stands"),
        ("sort=fd_n501", "sort = fd_n501: no run has such a field; nearest: fd_n500"),
        ("limit=0", "limit = 0: is no whole number above 0"),
        ("wher=seed=1", "wher = seed=1: no such key; nearest: where"),
        ("--all", "is no option of it"),
    ],
)
def test_wrong_requests_are_a_line(
    three: Path, capsys: pytest.CaptureFixture[str], argument: str, said: str
) -> None:
    status, out, err = typed(capsys, str(three), argument)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 2


def test_no_folder_and_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = typed(capsys, f"paths.outputs={tmp_path / 'nowhere'}")
    assert status == 2
    assert "nowhere: there is no such folder" in err
    assert typed(capsys, str(tmp_path))[:2] == (0, f"no runs under {tmp_path}\n")
    assert typed(capsys, str(tmp_path), "--json", "where=seed=1")[:2] == (0, "[]\n")


def test_json_has_no_nan(three: Path, decoder: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    made(three, "ddddddddd4", decoder, metrics={"val/loss": float("nan")})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(typed(capsys, str(three), "--json")[1], parse_constant=refuse)
    assert found[0]["metrics"] == {"loss": None}
    assert (found[1]["seed"], found[1]["metrics"]["fd_n500"]) == (3, 31.0)
    assert signatures(capsys, str(three), "sort=-loss")[:2] == ["bbbbbbbbb2", "aaaaaaaaa1"]


@pytest.mark.parametrize("content", [b'{"state": "fin', b"[]", b"\xff\xfe", b""])
def test_a_corrupt_status_is_named_shown_and_never_deleted(
    three: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    broken = three / "made" / "aaaaaaaaa1" / "status.json"
    broken.write_bytes(content)
    status, out, err = typed(capsys, str(three))
    assert status == 0
    assert str(broken) in err
    assert "aaaaaaaaa1  unreadable" in out
    assert "3 runs" in out
    for expression in ("seed<9", "state=unreadable"):
        assert "stays: " in typed(capsys, "clean", str(three), f"where={expression}", "yes=true")[1]
    assert broken.read_bytes() == content


def test_a_run_without_a_readable_configuration_is_shown(
    three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (three / "made" / "aaaaaaaaa1" / "config.yaml").write_text("a: [1,\nb: 2")
    (three / "made" / "bbbbbbbbb2" / "config.yaml").unlink()
    _, out, err = typed(capsys, str(three))
    assert out.count("unreadable") == 3  # two rows and the sum
    assert "config.yaml is not there" in err
    assert "config.yaml is not readable as YAML (while parsing a flow sequence" in err
    typed(capsys, "clean", str(three), "where=age>0s", "yes=true")
    assert sorted(p.name for p in (three / "made").iterdir()) == ["aaaaaaaaa1", "bbbbbbbbb2"]


def test_configurations_are_read_as_yaml_does(decoder: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    shared = [1, 2]
    for config in (
        decoder,
        {
            **decoder,
            "text": "two\nlines: 1\n\nand",
            "long": "word " * 60,
            "empty": {},
            "list": [{"a": 1}, None],
        },
        {"a": shared, "b": shared},
        {"": 1, "1": 2, "quoted key: x": 3},
    ):
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        assert listing.configuration(path) == config
    by_hand = "# mine\n---\na: 'x\n\n  y'\nb: |\n  one\n  two\n"
    path.write_text(by_hand)
    assert listing.configuration(path) == yaml.safe_load(by_hand)
    path.write_text("- 1\n")
    with pytest.raises(DamagedFile, match=r"config\.yaml holds no mapping: repair or remove it"):
        listing.configuration(path)


def test_listing_writes_nothing_and_sees_who_is_at_work(
    three: Path, decoder: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(three, "ddddddddd4", decoder, "running")
    (three / "made" / "ccccccccc3" / ".lock").unlink()
    before = sorted(three.rglob("*"))
    assert signatures(capsys, str(three), "where=state=interrupted") == ["ddddddddd4"]
    with run.lock():
        assert signatures(capsys, str(three), "where=state=live") == ["ddddddddd4"]
    with (run.folder / ".lock").open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the list has let go of it
    assert sorted(three.rglob("*")) == before


# ---- two runs ---------------------------------------------------------------------------------------------------


def test_compare_shows_what_differs(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(three / "made" / "aaaaaaaaa1")
    status, out, _ = typed(capsys, "compare", folder, "bbb", f"paths.outputs={three}")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["aaaaaaaaa1", "bbbbbbbbb2"]
    assert ["seed", "1", "3"] in lines
    assert ["optim.lr", "0.0005", "0.5"] in lines
    assert ["fd_n500", "12.5", "31.0"] in lines
    assert out.splitlines()[-1] == "2 differing keys"
    found = json.loads(typed(capsys, "compare", folder, "bbb", f"paths.outputs={three}", "--json")[1])
    assert found["differences"].keys() == {"optim.lr", "seed"}
    assert found["differences"]["seed"] == [1, 3]


def test_compare_names_what_it_cannot_find(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (three / "made" / "aaaaaaaaa1").rename(three / "made" / "bbbbbbbbb1")
    for names, said in (
        (["bbb", "ccc"], "compare = bbb: names 2 runs"),
        (["ddd", "ccc"], "compare = ddd: names no run under"),
        (["ccc"], "compare: takes two runs, by signature or folder; 1 given: ccc"),
    ):
        status, _, err = typed(capsys, "compare", *names, f"paths.outputs={three}")
        assert status == 2
        assert said in err


# ---- removal ----------------------------------------------------------------------------------------------------


def names_in(outputs: Path) -> str:
    return "".join(sorted(p.name[0] for p in (outputs / "made").iterdir()))


def test_clean_lists_first_and_removes_with_yes(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "1 run would go" in typed(capsys, "clean", str(three))[1]
    assert "0 runs would go" in typed(capsys, "clean", str(three), "older=60h")[1]
    out = typed(capsys, "clean", str(three), "where=fd_n500<20", "older=2d")[1]
    assert "1 run would go, 0.5 MB; to remove: the same with yes=true" in out
    assert names_in(three) == "abc"
    assert "1 run removed, 0.0 MB freed" in typed(capsys, "clean", str(three), "yes=true")[1]
    assert names_in(three) == "ab", "without where= nothing finished goes"
    found = json.loads(typed(capsys, "clean", str(three), "where=seed=1", "yes=true", "--json")[1])
    assert [one["signature"] for one in found["removed"]] == ["aaaaaaaaa1"]
    assert found["mb"] == pytest.approx(0.5, abs=0.02)
    assert names_in(three) == "b"


def test_a_removal_that_was_cut_off_is_finished(
    three: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut_off(path: Path) -> None:
        (path / "config.yaml").unlink()
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as cut:
        cut.setattr(shutil, "rmtree", cut_off)
        assert typed(capsys, "clean", str(three), "where=fd_n500<20", "yes=true")[0] == 1
    rest = three / "made" / f"{cleaning.LEFT}aaaaaaaaa1"
    assert rest.is_dir()
    (three / "linked").symlink_to(rest.parent)
    out = typed(capsys, "clean", str(three), "where=seed=77")[1]
    assert out.count(f"rest of a removal that was cut off: {rest}, 0.5 MB") == 1
    assert "0 runs would go, 0.5 MB; to remove: the same with yes=true" in out
    assert rest.is_dir()
    found = json.loads(typed(capsys, "clean", str(three), "where=seed=77", "yes=true", "--json")[1])
    assert (found["rests"], found["removed"]) == ([str(rest)], [])
    assert not rest.exists()
    assert names_in(three) == "bc"
    assert "rest" not in typed(capsys, "clean", str(three), "where=seed=77")[1]


@pytest.mark.parametrize("reference", ["aaaaaaaaa1", "aaaaa", "outputs/made/aaaaaaaaa1"])
@pytest.mark.parametrize("key", ["clip", "extractor"])
def test_a_run_that_another_names_stays(
    three: Path, decoder: dict[str, Any], capsys: pytest.CaptureFixture[str], reference: str, key: str
) -> None:
    value = (
        {"_target_": "unclip.build.evaluation_clip", "run": reference} if key == "extractor" else reference
    )
    elsewhere = {**decoder, "experiment": "else/where", key: value}
    made(three, "ddddddddd4", elsewhere)
    # only this experiment is looked at, but who else needs its runs is known all the same
    out = typed(capsys, "clean", str(three / "made"), "where=age>0s", "yes=true")[1]
    assert f"stays: {three / 'made' / 'aaaaaaaaa1'} is named by" in out
    assert "2 runs removed" in out
    assert names_in(three) == "a"


@pytest.mark.parametrize("place", ["outputs/made/run-0123456789", "outputs/demo", "results"])
@pytest.mark.parametrize("record", cleaning.RECORDS)
def test_a_run_that_a_results_folder_names_stays(
    three: Path, capsys: pytest.CaptureFixture[str], place: str, record: str
) -> None:
    results = three.parent / place
    results.mkdir()
    stages = {"decoder": {"signature": "bbbbbbbbb2", "folder": "outputs/made/bbbbbbbbb2"}}
    (results / record).write_text(json.dumps({"experiment": "made", "stages": stages}))
    out = typed(capsys, "clean", str(three), "where=age>0s", "yes=true")[1]
    assert f"bbbbbbbbb2 is named by {results / record}" in out
    assert (three / "made" / "bbbbbbbbb2" / "weights.safetensors").is_file()
    assert not (three / "made" / "aaaaaaaaa1").exists()


@pytest.mark.parametrize(
    "found", [{"status.json"}, {"status.json", "request.json"}, {"status.json", "pipeline.json"}]
)
def test_a_results_folder_is_no_run_and_hides_none(
    three: Path, capsys: pytest.CaptureFixture[str], found: set[str]
) -> None:
    for name in found:
        (three / "made" / name).write_text(json.dumps({"state": "running", "signature": "0123456789"}))
    before = names_in(three)
    assert len(before) >= 2
    out = typed(capsys, str(three))[1]
    assert "unreadable" not in out
    assert f"{len(list((three / 'made').glob('*/config.yaml')))} runs" in out


def test_a_live_run_stays_also_if_it_comes_alive_meanwhile(
    three: Path, decoder: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(three, "ddddddddd4", decoder, "running")
    with run.lock():
        out = typed(capsys, "clean", str(three), "where=signature~ddd", "yes=true")[1]
        assert "ddddddddd4 is being trained" in out
        monkeypatch.setattr(cleaning, "stays", lambda one, references: "")
        status, _, err = typed(capsys, "clean", str(three), "where=signature~ddd", "yes=true")
        assert status == 1
        assert "is not removed: " in err
    every, _ = listing.scan(run.folder)
    run.mark("finished")
    with pytest.raises(Exception, match="has changed since it was looked at"):
        cleaning.remove(every[0])
    assert (run.folder / "config.yaml").is_file()


def test_a_run_whose_process_may_be_starting_stays(
    three: Path, decoder: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Between making its folder and taking its lock a process imports for a while; status.json may be old."""
    made(three, "ddddddddd4", decoder, "prepared")
    again = made(three, "eeeeeeeee5", decoder, "failed", days=3)
    os.utime(again.folder / "config.yaml")
    out = typed(capsys, "clean", str(three), "yes=true")[1]
    for name in ("ddddddddd4", "eeeeeeeee5"):
        assert f"{name} was written" in out
    assert "1 run removed" in out
    assert names_in(three) == "abde"
    for name in ("config.yaml", "status.json"):
        os.utime(three / "made" / "ddddddddd4" / name, (time.time() - 61,) * 2)
    typed(capsys, "clean", str(three), "yes=true")
    assert names_in(three) == "abe"


def test_the_list_may_be_cut_off_by_head(three: Path) -> None:
    command = f"{sys.executable} -m unclip runs {three} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_links_are_not_followed(three: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "precious"
    (three / "made" / "ccccccccc3").rename(precious)
    (three / "made" / "ccccccccc3").symlink_to(precious)
    assert "2 runs removed" in typed(capsys, "clean", str(three), "where=age>0s", "yes=true")[1]
    assert (precious / "config.yaml").is_file()


def test_a_folder_that_may_not_be_written_is_a_line(
    three: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated, as root may write everywhere."""

    def refuse(self: Path, target: Path) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    status, out, err = typed(capsys, "clean", str(three), "yes=true")
    assert status == 1
    assert "0 runs removed, 0.0 MB freed" in out
    assert err == f"unclip runs: {three / 'made' / 'ccccccccc3'} is not removed: Read-only file system\n"
    assert names_in(three) == "abc"


def test_where_nobody_can_look_nothing_is_removed(
    three: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (three / "closed").mkdir()
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert (
        typed(capsys, str(three))[2]
        == f"unclip runs: {three / 'closed'} cannot be looked into: Permission denied\n"
    )
    status, _, err = typed(capsys, "clean", str(three), "yes=true")
    assert status == 1
    assert "so that nothing is removed" in err
    assert names_in(three) == "abc"


def test_expressions_are_parsed_once_and_hold_of_any_fields() -> None:
    asked = where.parse("a=1 or b=2 and not c=3")  # and binds before or
    assert asked.names == ("a", "b", "c")
    assert asked.holds({"a": 1})
    assert asked.holds({"b": 2, "c": 4})
    assert not asked.holds({"b": 2, "c": 3})
    assert where.parse("x=null").holds({"x": None})
    assert where.parse("x=1e-4").holds({"x": 0.0001})
    assert not where.parse("x<5").holds({"x": float("nan")})
    assert not where.parse("x<5").holds({"x": True})
    with pytest.raises(Problems):
        where.parse("")


def test_times() -> None:
    expected = {"30d": 2592000.0, "12h": 43200.0, "1.5w": 907200.0, "5m": 300.0, "7s": 7.0}
    assert {text: where.duration(text) for text in expected} == expected
    for text in ("30", "d", "-3d", "3 d", "3y"):
        assert where.duration(text) is None
