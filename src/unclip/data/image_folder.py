"""A folder of pictures with their captions: in .txt files beside them, or in one JSON, JSON-lines or CSV file.
Pictures may have any size and mode; how they are decoded is in collected.py."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from unclip.data.collected import SPLITS, Collected, Picture, hashed_split, listed
from unclip.data.fingerprint import fingerprint
from unclip.data.image_text import Split
from unclip.data.places import DataUnavailable
from unclip.reading import parse_json

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
CAPTION_FILES = ("*.jsonl", "*.json", "*.csv")
FILE_KEYS = ("file_name", "file", "image", "path")
CAPTION_KEYS = ("caption", "text", "prompt")
FOLDERS: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}


class ImageFolder(Collected):
    """path: the folder, searched with its subfolders. captions: the file with the captions, relative to it; None: the
    one .jsonl, .json or .csv file in it (also in train, validation and test), else a .txt beside each picture.

    Splits are the subfolders train, validation (or val) and test; what has no folder of its own is taken from train,
    or from everything where there is none, by the hash of the name. A picture's class is the folder that it is in.
    folder: where the decoded pixels are kept.
    """

    licence = "that of your pictures"

    def __init__(self, folder: str, path: str, captions: str | None = None, **collected: Any) -> None:
        super().__init__(folder, **collected)
        self.path = Path(path).expanduser()
        self.caption_file = captions
        self.title = str(path)

    def identity(self) -> str:
        """Of names, sizes and times of the pictures, and of all captions."""
        stats = {name: [file.stat().st_size, file.stat().st_mtime_ns] for name, file in self._files().items()}
        return fingerprint("image folder", stats, [list(row) for row in self._captions()])

    def pictures(self) -> list[Picture]:
        files = self._files()
        captions = self._checked(files)
        folders = {split for name in files if (split := FOLDERS.get(name.split("/")[0]))}
        by_hash = [split for split in SPLITS if split not in folders]
        found = []
        for name, caption in captions.items():
            *parents, _ = name.split("/")
            split = FOLDERS.get(parents[0]) if parents else None
            label = parents[-1] if len(parents) > (split is not None) else "image"
            if split in (None, "train"):
                split = hashed_split(name, by_hash)
            found.append(Picture(name, split, caption, label, partial(Image.open, files[name])))
        return found

    def _files(self) -> dict[str, Path]:
        """The pictures by their name relative to the folder, in order."""
        if not self.path.is_dir():
            raise DataUnavailable(f"{self.path}: there is no such folder; give data.path=FOLDER")
        found = {
            file.relative_to(self.path).as_posix(): file
            for file in sorted(self.path.rglob("*"))
            if file.suffix.lower() in SUFFIXES and file.is_file()
        }
        if not found:
            raise DataUnavailable(f"{self.path}: holds no picture; possible: {', '.join(SUFFIXES)}")
        return found

    def _captions(self) -> Iterator[tuple[str, str]]:
        """(name, caption) as they are written down, mistakes and all."""
        listings = self._listings()
        for listing in listings:
            below = listing.parent.relative_to(self.path).as_posix()
            for name, caption in _rows(listing):
                yield name if below == "." else f"{below}/{name}", caption.strip()
        if not listings:
            for name, file in self._files().items():
                text = file.with_suffix(".txt")
                if text.is_file():
                    yield name, _text(text).strip()

    def _listings(self) -> list[Path]:
        if self.caption_file is not None:
            path = self.path / self.caption_file
            if not path.is_file():
                raise DataUnavailable(f"{path}: there is no such file of captions (data.captions)")
            return [path]
        found = []
        for folder in (self.path, *(self.path / name for name in FOLDERS)):
            here = [path for pattern in CAPTION_FILES for path in sorted(folder.glob(pattern))]
            if len(here) > 1:
                names = ", ".join(path.name for path in here)
                raise DataUnavailable(f"{folder}: which of {names} holds the captions? data.captions=FILE")
            found += here
        return found

    def _checked(self, files: dict[str, Path]) -> dict[str, str]:
        """The captions of the pictures that have just one."""
        rows = list(self._captions())
        times = Counter(name for name, _ in rows)
        captions = dict(reversed(rows))  # of a duplicate the first
        problems = {
            "captions are missing": [name for name in files if name not in captions],
            "captions are empty": [
                name for name, caption in captions.items() if name in files and not caption
            ],
            "pictures have more than one caption": [name for name, n in times.items() if n > 1],
            "captions have no picture": [name for name in captions if name not in files],
        }
        said = [f"{len(names)} {what}: {listed(names)}" for what, names in problems.items() if names]
        if said:
            self.refuse_or_say("; ".join(said))
        return {name: captions[name] for name in files if captions.get(name)}


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """(file, caption) of a JSON, JSON-lines or CSV file. Raises DataUnavailable for what cannot be read so."""
    try:
        if path.suffix == ".csv":
            records: Any = list(csv.DictReader(io.StringIO(_text(path), newline="")))
        elif path.suffix == ".jsonl":
            records = [parse_json(line) for line in _text(path).split("\n") if line.strip()]
        else:
            records = parse_json(_text(path))
    except (ValueError, csv.Error) as error:
        raise DataUnavailable(f"{path}: cannot be read as {path.suffix[1:]} ({error})") from None
    if isinstance(records, dict):
        records = [{"file": name, "caption": caption} for name, caption in records.items()]
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataUnavailable(f"{path}: must be a list of records, or a mapping from file to caption")
    for number, record in enumerate(records, 1):
        file = next((record[key] for key in FILE_KEYS if key in record), None)
        caption = next((record[key] for key in CAPTION_KEYS if key in record), None)
        if not isinstance(file, str) or not isinstance(caption, str):
            needs = f"a file ({'|'.join(FILE_KEYS)}) and a caption ({'|'.join(CAPTION_KEYS)})"
            raise DataUnavailable(
                f"{path}: record {number} has {', '.join(map(str, record))}; it needs {needs}"
            )
        yield file, caption


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataUnavailable(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
