"""Files and data that cannot be used, and what is said of them, word for word; `...` stands for what is long, FOLDER
for the folder. A table; test_messages.py makes the calls."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

from unclip import reading
from unclip.data import image_folder, litdata, places
from unclip.data.emoji import PinnedFile
from unclip.data.huggingface import HuggingFace
from unclip.data.idx import IdxFile
from unclip.data.image_folder import ImageFolder
from unclip.data.images import resized
from unclip.data.loader import BatchLoader
from unclip.evaluate import pretrained


def _written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _idx(folder: Path) -> object:
    return IdxFile((2,), "0" * 64).read(_written(folder / "x.gz", gzip.compress(bytes(10))))


def _pictures(folder: Path, captions: int) -> object:
    for i in range(2):
        Image.new("L", (8, 8)).save(folder / f"{i}.png")
    for i in range(captions):
        (folder / f"{i}.txt").write_text("a caption")
    return ImageFolder(str(folder / "decoded"), str(folder), image_size=8).split("train")


def _stored(folder: Path, kind: str) -> litdata.Stored:
    (folder / "index.json").write_text(json.dumps({"config": {"data_format": [kind]}, "chunks": []}))
    samples: Any = SimpleNamespace(input_dir=SimpleNamespace(path=str(folder)))
    return litdata.Stored("FOLDER", samples)


def _no_picture(_: Path) -> object:
    stored: Any = [{"image": "text"}]
    return litdata.Streamed(stored, "image", torch.arange(1), 8, 1, "", 1)[0]


def _npm(folder: Path) -> object:
    ended = SimpleNamespace(returncode=3, stderr="")
    with patch.object(places, "_run", lambda *_: ended), patch("shutil.which", lambda _: "npm"):
        return places.Npm().fetch(["emoji-1.0.tgz"], folder)


def _debian(folder: Path) -> object:
    def run(command: list[str], where: Path, _: float) -> Any:
        (where / "x.deb").touch()
        return SimpleNamespace(returncode=int(command[0] == "dpkg"), stderr="dpkg: no archive", stdout="")

    with patch.object(places, "_run", run), patch("shutil.which", lambda name: name):
        return places.DebianPackage("package", Path("usr")).fetch(["x"], folder)


def _no_litdata(folder: Path) -> object:
    with patch.dict(sys.modules, {"litdata": None}):
        return litdata.LitData(str(folder), "set")._open("train")


CALLS: dict[str, Callable[[Path], object]] = {
    # files
    "FOLDER/x is not UTF-8 text (invalid start byte at byte 0): ...": lambda folder: reading.read_text(
        _written(folder / "x", b"\xff")
    ),
    "FOLDER/x is not readable as JSON (more than ... parts within one another): ...": lambda folder: reading.read_json(
        _written(folder / "x", "[" * 100_000)
    ),
    "FOLDER/x is not readable as YAML (more than ... parts within one another): ...": lambda folder: reading.read_yaml(
        _written(folder / "x", "[" * 300 + "]" * 300)
    ),
    "FOLDER/x has the key 3, which is no text: ...": lambda folder: reading.read_yaml(
        _written(folder / "x", "3: 4")
    ),
    "FOLDER/x is not the published file: its sha256 begins e3b0c44298fc, not 000000000000": lambda folder: PinnedFile(
        "0" * 64
    ).read(_written(folder / "x", "")),
    "FOLDER/x.gz is not the published file (sha256 ..., not 000000000000...)": _idx,
    "extractor.weights = FOLDER/x: not a dictionary of tensors; give the path of the file that URL is": lambda folder: (
        torch.save([1], folder / "x"),
        pretrained._safely_loaded(str(folder / "x"), "URL"),
    ),
    # data
    "FOLDER: ... captions are missing: 0.png, 1.png; mend or remove them, or leave them out: data.skip_bad=true": (
        lambda folder: _pictures(folder, 0)
    ),
    "FOLDER: no picture of 2 is in the split ...; more pictures, or splits by name": (
        lambda folder: _pictures(folder, 2)
    ),
    "FOLDER/x.json: must be a list of records, or a mapping from file to caption": lambda folder: list(
        image_folder._rows(_written(folder / "x.json", "[3]"))
    ),
    "FOLDER/x.json: record 1 has a; it needs a file (...) and a caption (...)": lambda folder: list(
        image_folder._rows(_written(folder / "x.json", '[{"a": 1}]'))
    ),
    "FOLDER/x: is not UTF-8 text (invalid start byte at byte 0)": lambda folder: image_folder._text(
        _written(folder / "x", b"\xff")
    ),
    "template = 'a photo': must hold {}, where the caption goes": lambda folder: HuggingFace(
        str(folder), "set", template="a photo"
    ),
    "column image holds str, not a picture": lambda folder: HuggingFace(str(folder), "set", image="image")._picture(
        [{"image": "a"}], 0
    ),
    "image_size = 4: padding cannot shrink 8x8 images; use resize=bilinear": lambda _: resized(
        torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 4, "pad"
    ),
    "FOLDER: its samples hold pickle, which would run what the set's author wrote; write pictures, text, numbers and "
    "tensors only": lambda folder: _stored(folder, "pickle"),
    "FOLDER: sample 0 cannot be read (...); restore the set, and try again": lambda folder: _stored(folder, "png")[0],
    "sample 0 has no picture that can be used in image (...)": _no_picture,
    "batch_size = 3: the global size must be divisible by the 2 devices": lambda _: BatchLoader(
        [1] * 4, 3, training=True, ranks=2  # type: ignore[arg-type]
    ),
    "data.batch_size = 8: the training split has only 4 images; give data.batch_size=4 or less": lambda _: BatchLoader(
        [1] * 4, 8, training=True  # type: ignore[arg-type]
    ),
    "the 4 devices: the validation split has only 3 images, less than one for each; give trainer.devices=3 or less":
    lambda _: BatchLoader([1] * 3, 8, training=False, rank=3, ranks=4),  # type: ignore[arg-type]
    "data=litdata needs the library litdata, which is not installed: pip install 'unclip-lab[litdata]'": _no_litdata,
    "npm pack ended with status 3": _npm,
    "cannot be unpacked: dpkg: no archive": _debian,
    "Set is not complete in FOLDER: x\nPut the file(s) there by hand or, where there is a network, run: unclip data": (
        lambda folder: places.complete("Set", folder, {"x": PinnedFile("0")}, [], "unclip data")
    ),
}  # fmt: skip
