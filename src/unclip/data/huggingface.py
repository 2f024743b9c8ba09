"""Image-text sets of the library `datasets`: from its hub, from save_to_disk, or from an image folder in its layout.
Columns are named by the configuration; how pictures are decoded is in collected.py."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from unclip.data.cache import say
from unclip.data.collected import SPLITS, Collected, Picture, hashed_split
from unclip.data.fingerprint import fingerprint
from unclip.data.image_text import Split
from unclip.data.places import DataUnavailable


class HuggingFace(Collected):
    """path: a name on the hub (with revision and subset), or a folder. image, caption: columns; a caption of classes
    is the class's name, put into `template`. label: the column of classes; None: the caption's where that is one.

    train, validation, test: the set's own splits; None: a tenth of train, by the hash of the row's number.
    """

    def __init__(
        self,
        folder: str,
        path: str,
        subset: str | None = None,
        revision: str | None = None,
        image: str = "image",
        caption: str = "text",
        label: str | None = None,
        template: str = "{}",
        train: str = "train",
        validation: str | None = None,
        test: str | None = None,
        **collected: Any,
    ) -> None:
        super().__init__(folder, **collected)
        if "{}" not in template:
            raise ValueError(f"template = {template!r}: must hold {{}}, where the caption goes")
        self.path, self.subset, self.revision = path, subset, revision
        self.image, self.caption, self.label, self.template = image, caption, label, template
        self.own_splits: dict[Split, str | None] = {"train": train, "validation": validation, "test": test}
        self.title = path
        self._rows: Any = None

    def prepare_data(self) -> None:
        super().prepare_data()
        self.licence = self._any_split().info.license or "not stated"

    def identity(self) -> str:
        columns = [self.image, self.caption, self.label, self.template]
        prints = {
            name: rows._fingerprint for name, rows in self.rows.items() if name in self.own_splits.values()
        }
        return fingerprint("datasets", self.path, prints, columns, self.own_splits)

    def pictures(self) -> list[Picture]:
        by_hash = [split for split, name in self.own_splits.items() if name is None or split == "train"]
        found = []
        for split in SPLITS:
            if (name := self.own_splits[split]) is None:
                continue
            rows = self.rows[name]
            captions, labels = self._words(self.caption), self._words(self.label or self.caption)
            plain = self.label is None and not hasattr(rows.features[self.caption], "names")
            words = zip(rows[self.caption], rows[self.label or self.caption], strict=True)
            for i, (caption, label) in enumerate(words):
                mine = hashed_split(f"{name} {i}", by_hash) if split == "train" else split
                text = self.template.format(captions(caption)).strip()
                named = "image" if plain else labels(label)
                found.append(Picture(f"{name} {i}", mine, text, named, partial(self._picture, rows, i)))
        empty = [picture.name for picture in found if not picture.caption]
        if empty:
            self.refuse_or_say(f"{len(empty)} captions are empty, the first of row {empty[0]}")
        return [picture for picture in found if picture.caption]

    @property
    def rows(self) -> Any:
        """The library's splits by name, with the columns that are needed. Raises DataUnavailable."""
        if self._rows is None:
            self._rows = self._read()
            for name in filter(None, self.own_splits.values()):
                if name not in self._rows:
                    self._no("split", name, list(self._rows))
                for column in filter(None, (self.image, self.caption, self.label)):
                    if column not in self._rows[name].column_names:
                        self._no("column", column, self._rows[name].column_names)
        return self._rows

    def _any_split(self) -> Any:
        return self.rows[self.own_splits["train"]]

    def _no(self, what: str, given: str, possible: list[str]) -> None:
        raise DataUnavailable(f"{self.path} has no {what} {given}; possible: {', '.join(possible)}")

    def _words(self, column: str) -> Any:
        """From a value of a column to text: a class's name, the first of several captions, or the text itself."""
        feature = self._any_split().features[column]
        if hasattr(feature, "names"):
            return lambda value: str(feature.int2str(value)).replace("_", " ")
        return lambda value: str((value[0] if value else "") if isinstance(value, list) else value or "")

    def _picture(self, rows: Any, i: int) -> Image.Image:
        value = rows[i][self.image]
        if not isinstance(value, Image.Image):
            raise ValueError(f"column {self.image} holds {type(value).__name__}, not a picture")
        return value

    def _read(self) -> Any:
        try:
            import datasets
        except ImportError:
            why = "needs the library datasets, which is not installed: pip install 'unclip-lab[huggingface]'"
            raise DataUnavailable(f"data=huggingface {why}") from None
        for logger in ("httpx", "huggingface_hub", "datasets"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        local = Path(self.path).expanduser()
        try:
            if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
                read = datasets.load_from_disk(str(local))
            elif local.is_dir():
                read = datasets.load_dataset("imagefolder", data_dir=str(local))
            else:
                say(f"{self.path}: no such folder here; asking the hub for it")
                read = datasets.load_dataset(self.path, self.subset, revision=self.revision)
        except Exception as error:  # the library raises its own, the hub's, httpx's and plain OSErrors
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            what = "cannot be read" if local.is_dir() else "is no folder here and cannot be had from the hub"
            raise DataUnavailable(f"{self.path} {what}: {line}") from None
        return read if isinstance(read, dict) else {"train": read}
