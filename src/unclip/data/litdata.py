"""Large sets in the chunks of the library `litdata`: training images stay where they are and are read by the batch.
The order of an epoch, ranks and resumption are the loader's, as with sets in memory; litdata's own loader is not used.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip.data.cache import DamagedFile, load_tensors, locked, save_tensors, say
from unclip.data.collected import UNREADABLE, fitted, hashed_split
from unclip.data.fingerprint import fingerprint
from unclip.data.image_text import ImageText, Split
from unclip.data.loader import BatchLoader, Order
from unclip.data.module import ImageTextData
from unclip.data.places import DataUnavailable
from unclip.diffusion.bounds import bounded
from unclip.progress import Bar
from unclip.randomness import key


class Stored:
    """A set in chunks by sample number, as long as its chunks stay as they were when it was opened.

    Raises DataUnavailable where a chunk is gone or has changed, and for a set that holds pickles: reading a pickle runs
    what it says.
    """

    def __init__(self, where: str, samples: Any):
        self.where, self.samples = where, samples
        self.folder = Path(samples.input_dir.path)  # where the set is, or is copied to from elsewhere
        text = (self.folder / "index.json").read_bytes()
        self.index = hashlib.sha256(text).hexdigest()
        index = json.loads(text)
        if pickled := [
            kind for kind in index["config"]["data_format"] if "pickle" in kind or "graph" in kind
        ]:
            why = f"its samples hold {pickled[0]}, which would run what the set's author wrote"
            raise DataUnavailable(f"{where}: {why}; write pictures, text, numbers and tensors only")
        self.chunks = [str(chunk["filename"]) for chunk in index["chunks"]]
        local = Path(where).is_dir()
        self.states = {name: _state(self.folder / name) for name in self.chunks} if local else {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Any:
        try:
            sample = self.samples[number]
            name = self.chunks[self.samples.cache._get_chunk_index_from_index(number)[1]]
        except Exception as error:  # of the library, of the file system, of clouds
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataUnavailable(
                f"{self.where}: sample {number} cannot be read ({why}); {RESTORE}"
            ) from None
        if self.states and _state(self.folder / name) != self.states[name]:
            raise DataUnavailable(f"{self.folder / name}: is not what it was when it was opened; {RESTORE}")
        return sample


RESTORE = "restore the set, and try again"


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class Streamed:
    """What stands for the tensor uint8 (N,C,size,size) of a split: images are decoded when they are asked for.

    rows: which samples of the stored set these are. chunk: samples that are stored together.
    """

    dtype = torch.uint8

    def __init__(
        self, stored: Stored, column: str, rows: Tensor, size: int, channels: int, print_: str, chunk: int
    ):
        self.stored, self.column, self.rows, self.chunk = stored, column, rows, chunk
        self.shape = torch.Size([len(rows), channels, size, size])
        self.fingerprint = fingerprint(print_, rows, list(self.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Images by number: uint8 (n,C,size,size). Only of the first dimension."""
        assert dim == 0
        images = torch.empty(len(index), *self.shape[1:], dtype=torch.uint8)
        numbers = self.rows[index].tolist()
        for place in np.argsort(numbers):  # in the order in which they are stored
            images[place] = self._decoded(numbers[place])
        return images

    def __getitem__(self, which: Any) -> Tensor:
        chosen = torch.arange(len(self))[which]
        images = self.index_select(0, chosen.reshape(-1))
        return images if chosen.ndim else images[0]

    def split(self, count: int) -> Iterator[Tensor]:
        for part in torch.arange(len(self)).split(count):
            yield self.index_select(0, part)

    def _decoded(self, number: int) -> Tensor:
        value = self.stored[number][self.column]
        try:
            if isinstance(value, bytes):
                value = Image.open(io.BytesIO(value))
            elif not isinstance(value, Image.Image):
                value = Image.fromarray(np.asarray(value))
            return fitted(value, self.shape[-1], self.shape[1])
        except (*UNREADABLE, TypeError) as error:
            raise DataUnavailable(
                f"sample {number} has no picture that can be used in {self.column} ({error})"
            ) from None


class WindowedLoader(BatchLoader):
    """Shuffles chunks, then samples within windows of them: neighbours in time are near each other on the disk, and
    still every sample comes once an epoch, on one rank."""

    def order(self, epoch: int) -> Order:
        drawn = super().order(epoch)
        assert isinstance(self.data.images, Streamed)
        generator = torch.Generator().manual_seed(key(self.seed, "chunks", epoch))
        chunks = torch.arange(len(self.data)).split(self.data.images.chunk)
        order = torch.randperm(len(chunks), generator=generator).tolist()
        mixed = []
        for first in range(0, len(order), WINDOW):
            window = torch.cat([chunks[i] for i in order[first : first + WINDOW]])
            mixed.append(window[torch.randperm(len(window), generator=generator)])
        return drawn._replace(permutation=torch.cat(mixed))


WINDOW = 16  # chunks that are shuffled together


class LitData(ImageTextData):
    """path: a folder or address with a set that `litdata.optimize` wrote, whose samples are mappings; or with one a
    split in the subfolders train, validation, test. Where a split has none, it is a tenth of train, by the sample's
    number. image, caption, label: keys of a sample; label null: all one class.

    Captions are read once and kept in `folder`. Training images are read by the batch; those of validation and test
    are held in memory.
    """

    loader = WindowedLoader

    @bounded
    def __init__(
        self,
        folder: str,
        path: str,
        image: str = "image",
        caption: str = "caption",
        label: str | None = None,
        image_size: Annotated[int, "image_size >= 1"] = 64,
        channels: Literal[1, 3] = 3,
        **loader: Any,
    ) -> None:
        super().__init__(image_size, **loader)
        self.folder, self.path = Path(folder).expanduser(), path.rstrip("/")
        self.image, self.caption, self.label, self.channels = image, caption, label, channels
        self._stored: dict[str, Stored] = {}

    def prepare_data(self) -> None:
        """Raises DataUnavailable where there is no such set, or its samples are of another kind."""
        self._open("train")

    def load(self, split: Split) -> ImageText:
        source = split if self._has(split) else "train"
        if source == "train":
            by_hash: list[Split] = [s for s in ("validation", "test") if not self._has(s)]
            numbers = range(len(self._open("train")))
            rows = torch.tensor(
                [i for i in numbers if hashed_split(str(i), by_hash) == split], dtype=torch.int64
            )
        else:
            rows = torch.arange(len(self._open(source)))
        captions, classes, ids, labels = self._words()
        print_, chunk = self._print(source), self._chunk(source)
        images = Streamed(self._open(source), self.image, rows, self.image_size, self.channels, print_, chunk)
        return ImageText(
            images=images if split == "train" else images[:],  # type: ignore[arg-type]
            caption_ids=ids[source][rows],
            captions=captions,
            labels=labels[source][rows],
            class_names=classes,
        )

    def _has(self, split: str) -> bool:
        return Path(self.path, split, "index.json").is_file()

    def _where(self, split: str) -> str:
        return f"{self.path}/{split}" if self._has(split) else self.path

    def _open(self, split: str) -> Stored:
        if split not in self._stored:
            os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
            try:
                import litdata
            except ImportError:
                why = "needs the library litdata, which is not installed: pip install 'unclip-lab[litdata]'"
                raise DataUnavailable(f"data=litdata {why}") from None
            try:
                stored = Stored(self._where(split), litdata.StreamingDataset(self._where(split)))
                first = stored[0]
            except DataUnavailable:
                raise
            except Exception as error:  # of the library, of the file system, of clouds
                if "://" not in self._where(split) and not Path(self._where(split)).exists():
                    gone = "there is no such folder; give data.path=FOLDER, as litdata.optimize writes it"
                    raise DataUnavailable(f"{self._where(split)}: {gone}") from None
                why = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise DataUnavailable(f"{self._where(split)}: holds no set of litdata ({why})") from None
            wanted = [key for key in (self.image, self.caption, self.label) if key]
            if not isinstance(first, dict) or (missing := [key for key in wanted if key not in first]):
                has = ", ".join(first) if isinstance(first, dict) else type(first).__name__
                raise DataUnavailable(
                    f"{self._where(split)}: a sample has {has}; it needs {', '.join(missing or wanted)}"
                )
            self._stored[split] = stored
        return self._stored[split]

    def _print(self, split: str) -> str:
        """Hash of the set's index: its chunks, their sizes, and when litdata wrote them."""
        return self._open(split).index

    def _chunk(self, split: str) -> int:
        return int(self._open(split).samples.cache._reader.config._chunks[0]["chunk_size"])

    def _words(self) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Tensor], dict[str, Tensor]]:
        """Distinct captions and classes of the whole set, and by stored split each sample's numbers among them."""
        sources = [split for split in ("train", "validation", "test") if split == "train" or self._has(split)]
        prints = {split: self._print(split) for split in sources}
        path = self.folder / f"words-{fingerprint(prints, self.caption, self.label)[:24]}.safetensors"
        with locked(self.folder):
            try:
                tensors, kept = load_tensors(path)
            except (FileNotFoundError, DamagedFile):
                say(f"{self.path}: reading its captions, once")
                tensors, kept = self._read_words(sources)
                save_tensors(path, tensors, kept)
        ids = {split: tensors[f"{split}.captions"] for split in sources}
        labels = {split: tensors[f"{split}.labels"] for split in sources}
        return tuple(json.loads(kept["captions"])), tuple(json.loads(kept["classes"])), ids, labels

    def _read_words(self, sources: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
        captions: dict[str, int] = {}
        classes: dict[str, int] = {}
        tensors: dict[str, Tensor] = {}
        for split in sources:
            stored = self._open(split)
            ids, labels = (
                torch.empty(len(stored), dtype=torch.int64),
                torch.empty(len(stored), dtype=torch.int64),
            )
            with Bar(f"captions of {split}", len(stored)) as bar:
                for i in range(len(stored)):
                    sample = stored[i]
                    if not isinstance(caption := sample[self.caption], str) or not caption.strip():
                        raise DataUnavailable(
                            f"{self._where(split)}: sample {i} has the caption {caption!r}; it needs text"
                        )
                    ids[i] = captions.setdefault(caption.strip(), len(captions))
                    name = str(sample[self.label]) if self.label else "image"
                    labels[i] = classes.setdefault(name, len(classes))
                    if i % 1000 == 999 or i + 1 == len(stored):
                        bar.update(i + 1)
            tensors |= {f"{split}.captions": ids, f"{split}.labels": labels}
        return tensors, {"captions": json.dumps(list(captions)), "classes": json.dumps(list(classes))}
