"""`unclip data`: what is said of a data set, and its sheet of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from unclip.cli import DONE, FAILED
from unclip.runs.data import main


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    lines = capsys.readouterr().out.splitlines()
    return {line[:12].strip(): line[13:].strip() for line in lines}


def test_info_counts_and_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["info", "synthetic", "data.channels=3", f"paths.outputs={tmp_path}"]) == DONE
    facts = said(capsys)
    assert facts["train"] == "512 images 3x32x32 torch.uint8, 8 captions"
    assert facts["captions"].startswith("8 distinct, longest 19 tokens of 64 (bytes), 0 truncated")
    assert facts["licence"].startswith("none needed")
    with Image.open(facts["pictures"]) as sheet:
        assert sheet.mode == "RGB"
        assert sheet.height > 8 * 64, "eight rows, in two columns"
    assert facts["pictures"] == str(tmp_path / "data" / "synthetic.png")


def test_captions_that_are_too_long_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    overrides = ["tokenizer.length=16", f"paths.outputs={tmp_path}"]
    assert main(["info", "synthetic", *overrides]) == DONE
    assert "longest 19 tokens of 16 (bytes), 3 truncated" in said(capsys)["captions"]
    assert main(["info", "synthetic", "tokenizer=bpe", *overrides]) == DONE
    assert "(subwords), 0 truncated" in said(capsys)["captions"]


def test_a_folder_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine").mkdir()
    for i in range(40):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / "mine" / f"{i}.png")
    (tmp_path / "mine" / "captions.json").write_text(
        json.dumps({f"{i}.png": f"number {i}" for i in range(40)})
    )
    overrides = [f"data.path={tmp_path / 'mine'}", f"paths.outputs={tmp_path}", f"paths.data={tmp_path}"]
    assert main(["fetch", "image_folder", *overrides]) == DONE
    assert main(["info", "image_folder", *overrides]) == DONE
    assert said(capsys)["licence"] == "that of your pictures"


def test_what_cannot_be_had_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "none").mkdir()
    assert main(["info", "image_folder", f"data.path={tmp_path}/none", f"paths.data={tmp_path}"]) == FAILED
    assert capsys.readouterr().err.startswith(f"unclip data: {tmp_path}/none: holds no picture; possible: ")
