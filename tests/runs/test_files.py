"""Files are whole or not there, whatever the disk says."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from unclip.cli import main
from unclip.files import write_json, write_text
from unclip.runs import runs


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str, **options: object) -> int:
        path.write_bytes(text[:3].encode())
        raise OSError(errno.ENOSPC, "No space left on device")  # without a name, as write() says it

    monkeypatch.setattr(Path, "write_text", refuse)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(b"{}")
    with pytest.raises(OSError, match=r"No space left on device: '.*status\.json'"):
        write_json(path, {"state": "finished"})
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
    assert path.read_bytes() == b"{}"


@pytest.mark.usefixtures("full_disk")
def test_a_command_says_which_file_it_could_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "main", lambda arguments: write_text(tmp_path / "report.md", "text"))
    assert main(["runs"]) == 1
    assert capsys.readouterr().err == (f"unclip runs: {tmp_path / 'report.md'}: No space left on device\n")
