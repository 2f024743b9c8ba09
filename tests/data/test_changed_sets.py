"""Streamed sets that change while they are read, and sets that would run something: named, and not read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unclip.data.litdata import LitData
from unclip.data.places import DataUnavailable

pytest.importorskip("litdata")


def written(path: Path, word: str = "number", shade: int = 0, **more: Any) -> Path:
    """Fifty pictures in chunks of seven."""
    from litdata.streaming.writer import BinaryWriter

    path.mkdir()
    writer = BinaryWriter(str(path), chunk_size=7)
    for i in range(50):
        writer[i] = {"image": Image.new("RGB", (8, 8), (i, shade, 0)), "caption": f"{word} {i}", **more}
    writer.done()
    writer.merge(1)
    return path


def opened(path: Path, tmp_path: Path) -> LitData:
    return LitData(str(tmp_path / "kept"), str(path), image_size=8, batch_size=12)


def test_a_chunk_that_changes_or_vanishes_is_named(tmp_path: Path):
    path = written(tmp_path / "set")
    images = opened(path, tmp_path).split("train").images
    number = int(images.rows[20])
    assert int(images[20][0, 0, 0]) == number
    chunk = path / f"chunk-0-{number // 7}.bin"
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        DataUnavailable, match=rf"{chunk.name}: is not what it was when it was opened; restore"
    ):
        images[20]
    other = int(images.rows[0])
    (path / f"chunk-0-{other // 7}.bin").unlink()
    with pytest.raises(DataUnavailable, match=r"is not what it was|cannot be read"):
        images[0]


@pytest.mark.parametrize("how", [{"word": "shadow"}, {"shade": 9}])
def test_a_set_written_anew_in_as_many_bytes_is_another_one(tmp_path: Path, how: dict[str, Any]):
    first = opened(written(tmp_path / "set"), tmp_path).split("train")
    assert {caption.split()[0] for caption in first.captions} == {"number"}
    (tmp_path / "set").rename(tmp_path / "copy")
    os.utime(tmp_path / "copy" / "chunk-0-0.bin", (1, 1))
    copied = opened(tmp_path / "copy", tmp_path).split("train")
    assert copied.fingerprint == first.fingerprint, "where it is, and since when, is not what it holds"
    other = opened(written(tmp_path / "set", **how), tmp_path).split("train")
    sizes = [[f.stat().st_size for f in sorted((tmp_path / s).glob("*.bin"))] for s in ("set", "copy")]
    assert sizes[0] == sizes[1]
    assert other.fingerprint != first.fingerprint
    assert {caption.split()[0] for caption in other.captions} == {how.get("word", "number")}


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def test_a_set_with_pickles_is_refused_before_one_is_read(tmp_path: Path):
    path = written(tmp_path / "set", more=Malicious(tmp_path / "executed"))
    with pytest.raises(DataUnavailable, match="its samples hold pickle, which would run"):
        opened(path, tmp_path).prepare_data()
    assert not (tmp_path / "executed").exists()
