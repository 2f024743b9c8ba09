"""Folders of pictures: every mode and size, every way to write captions down, and what is wrong with either."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.data.collected import fitted, hashed_split
from unclip.data.image_folder import ImageFolder
from unclip.data.places import DataUnavailable


def folder_of(path: Path, count: int = 40, below: str = "", captions: str | None = "txt") -> Path:
    """`count` pictures whose red says which they are, with a caption each."""
    (path / below).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (20, 12), (i, 0, 0)).save(path / below / f"{i:03d}.png")
        if captions == "txt":
            (path / below / f"{i:03d}.txt").write_text(f"number {i}\n")
    return path


def data_of(path: Path, tmp_path: Path, **settings) -> ImageFolder:
    return ImageFolder(str(tmp_path / "decoded"), str(path), **{"image_size": 8, **settings})


def pairs(data: ImageFolder) -> dict[str, int]:
    """caption -> red of its picture."""
    splits = [data.split(s) for s in ("train", "validation", "test")]
    return {
        s.captions[c]: int(x[0, 0, 0]) for s in splits for c, x in zip(s.caption_ids, s.images, strict=True)
    }


class TestDecoding:
    def test_a_picture_of_the_right_size_is_unchanged(self):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        assert torch.equal(fitted(Image.fromarray(pixels), 8, 3), torch.from_numpy(pixels).permute(2, 0, 1))

    def test_the_middle_is_cut_out_and_resized(self):
        wide = Image.new("RGB", (48, 16), "black")
        wide.paste((255, 255, 255), (16, 0, 32, 16))
        assert fitted(wide, 8, 3).min() > 230, "the filter sees a little of what is beside the edges"
        assert fitted(wide, 8, 3)[:, :, 1:-1].min() == 255

    def test_sixteen_bit_grey_keeps_its_range(self):
        deep = Image.fromarray(np.array([[0, 257, 32896, 65535]] * 4, dtype=np.uint16))
        assert fitted(deep, 4, 1)[0, 0].tolist() == [0, 1, 128, 255]

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
    def test_white_is_white_in_every_mode(self, mode: str, tmp_path: Path):
        Image.new("RGB", (4, 4), "white").convert(mode).save(path := tmp_path / "x.tiff")
        assert fitted(Image.open(path), 4, 3).min() == 255

    def test_a_transparent_palette_is_on_white(self):
        picture = Image.new("P", (4, 4), 0)
        picture.info["transparency"] = 0
        assert fitted(picture, 4, 3).min() == 255

    def test_a_turned_photograph_is_upright(self, tmp_path: Path):
        picture = Image.new("RGB", (4, 8), "black")
        picture.paste((255, 255, 255), (0, 0, 4, 4))
        exif = picture.getexif()
        exif[0x0112] = 3  # upside down
        picture.save(path := tmp_path / "x.png", exif=exif)
        assert fitted(Image.open(path), 4, 1)[0, 3].min() == 255

    def test_so_is_a_turned_one_of_sixteen_bits(self, tmp_path: Path):
        picture = Image.fromarray(np.array([[65535] * 4] * 2 + [[0] * 4] * 2, dtype=np.uint16))
        exif = picture.getexif()
        exif[0x0112] = 3  # upside down
        picture.save(path := tmp_path / "x.png", exif=exif)
        assert fitted(Image.open(path), 4, 1)[0, :, 0].tolist() == [0, 0, 255, 255]

    def test_other_numbers_are_named(self):
        with pytest.raises(ValueError, match="mode F: possible are 8 bit grey"):
            fitted(Image.new("F", (4, 4)), 4, 3)


class TestCaptions:
    @pytest.mark.parametrize("kind", ["txt", "json", "mapping", "jsonl", "csv"])
    def test_however_they_are_written_they_meet_their_pictures(self, kind: str, tmp_path: Path):
        path = folder_of(tmp_path / "set", captions=kind)
        records = [{"file_name": f"{i:03d}.png", "caption": f"number {i}"} for i in range(40)]
        if kind == "json":
            (path / "captions.json").write_text(json.dumps(records))
        elif kind == "mapping":
            (path / "captions.json").write_text(json.dumps({r["file_name"]: r["caption"] for r in records}))
        elif kind == "jsonl":
            (path / "captions.jsonl").write_text("\n".join(map(json.dumps, records)))
        elif kind == "csv":
            with (path / "captions.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, ["file_name", "caption"])
                writer.writeheader()
                writer.writerows(records)
        assert pairs(data_of(path, tmp_path)) == {f"number {i}": i for i in range(40)}

    def test_captions_of_several_lines_stay_one_each(self, tmp_path: Path):
        """A line ends where JSON lines and CSV end it, not at each character that Unicode calls a line's end."""
        said = ["one\nand more", "two\u2028and more", "three\x85, \x1c and more"]
        records = [{"file_name": f"{i:03d}.png", "caption": said[i % 3]} for i in range(40)]
        text = "\n".join(json.dumps(r, ensure_ascii=False) for r in records)
        (folder_of(tmp_path / "lines", captions=None) / "captions.jsonl").write_text(text)
        path = folder_of(tmp_path / "table", captions=None)
        with (path / "captions.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", "caption"])
            writer.writeheader()
            writer.writerows(records)
        for name in ("lines", "table"):
            assert set(data_of(tmp_path / name, tmp_path).captions) == set(said)

    def test_what_is_wrong_is_counted_and_named_and_left_out_if_asked(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        path = folder_of(tmp_path / "set", captions=None)
        records = [(f"{i:03d}.png", f"number {i}") for i in range(40)]
        records[3] = ("003.png", " ")
        records[4] = ("999.png", "nothing")
        records.append(("005.png", "another five"))
        (path / "captions.jsonl").write_text(
            "\n".join(json.dumps({"file": file, "text": text}) for file, text in records)
        )
        wrong = (
            r"1 captions are missing: 004\.png; 1 captions are empty: 003\.png; "
            r"1 pictures have more than one caption: 005\.png; 1 captions have no picture: 999\.png"
        )
        with pytest.raises(DataUnavailable, match=wrong):
            data_of(path, tmp_path).split("train")
        found = pairs(data_of(path, tmp_path, skip_bad=True))
        assert found == {f"number {i}": i for i in range(40) if i not in (3, 4)}
        assert "1 captions are empty" in capsys.readouterr().err

    def test_a_listing_without_the_columns_says_what_it_has(self, tmp_path: Path):
        path = folder_of(tmp_path / "set", captions=None)
        (path / "captions.csv").write_text("name,words\n000.png,x\n")
        with pytest.raises(DataUnavailable, match=r"record 1 has name, words; it needs a file \(file_name\|"):
            data_of(path, tmp_path).split("train")

    def test_two_listings_are_not_guessed_between(self, tmp_path: Path):
        path = folder_of(tmp_path / "set", captions=None)
        (path / "a.csv").write_text("file,text\n")
        (path / "b.json").write_text("[]")
        with pytest.raises(DataUnavailable, match=r"which of b\.json, a\.csv holds the captions"):
            data_of(path, tmp_path).split("train")


def test_files_that_are_no_pictures_are_named(tmp_path: Path):
    path = folder_of(tmp_path / "set")
    (path / "007.png").write_bytes(b"not a picture")
    with pytest.raises(DataUnavailable, match=r"1 of 40 pictures cannot be used: 007\.png"):
        data_of(path, tmp_path).split("train")
    assert len(pairs(data_of(path, tmp_path, skip_bad=True))) == 39


def test_subfolders_are_splits_and_the_rest_is_by_the_name(tmp_path: Path):
    path = folder_of(tmp_path / "set", 60, "train/red")
    folder_of(path, 5, "test/red")
    data = data_of(path, tmp_path)
    assert len(data.split("test")) == 5
    held_out = [hashed_split(f"train/red/{i:03d}.png", ["validation"]) for i in range(60)].count("validation")
    assert [len(data.split("validation")), len(data.split("train"))] == [held_out, 60 - held_out]
    assert data.class_names == ("red",)


def test_a_sample_keeps_its_split_when_others_are_added(tmp_path: Path):
    path = folder_of(tmp_path / "set", 40)
    before = data_of(path, tmp_path)
    tests = {before.captions[i] for i in before.split("test").caption_ids.tolist()}
    folder_of(path, 80)
    after = data_of(path, tmp_path)
    now = {after.captions[i] for i in after.split("test").caption_ids.tolist()}
    assert tests == {c for c in now if int(c.split()[1]) < 40}


def test_a_changed_folder_is_decoded_again(tmp_path: Path):
    path = folder_of(tmp_path / "set")
    first = data_of(path, tmp_path).fingerprint
    assert data_of(path, tmp_path).fingerprint == first
    (path / "000.txt").write_text("zero")
    assert "zero" in data_of(path, tmp_path).captions


def test_no_folder_and_no_picture_are_said(tmp_path: Path):
    with pytest.raises(DataUnavailable, match=r"there is no such folder; give data\.path=FOLDER"):
        data_of(tmp_path / "none", tmp_path).split("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataUnavailable, match="holds no picture"):
        data_of(tmp_path / "empty", tmp_path).split("train")
