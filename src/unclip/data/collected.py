"""`Collected`: a data set made of single picture files or records of any size and mode, decoded once and kept.
Where the pictures come from, and which captions they have, is a subclass's business."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor

from unclip.data.cache import DamagedFile, load_tensors, locked, save_tensors, say
from unclip.data.fingerprint import fingerprint
from unclip.data.image_text import ImageText, Split
from unclip.data.module import ImageTextData
from unclip.data.places import DataUnavailable
from unclip.diffusion.bounds import bounded
from unclip.progress import Bar

SPLITS: tuple[Split, ...] = get_args(Split)
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
SHOWN = 3  # names in a message
VERSION = 1  # of what is kept; a new one where `fitted` gives other pixels
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what Pillow raises


class Picture(NamedTuple):
    """One sample that is not decoded yet. name: what a message calls it. open: gives the decoded picture."""

    name: str
    split: Split
    caption: str
    label: str
    open: Callable[[], Image.Image]


def fitted(picture: Image.Image, size: int, channels: int) -> Tensor:
    """Any picture -> uint8 (channels, size, size): turned upright, on white where it is transparent, the shorter side
    resized to `size` and the middle cut out. 16 bit grey becomes 8 bit. Raises ValueError for other modes."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in SIXTEEN_BITS:
        levels = np.asarray(picture, dtype=np.float64) / 257  # 65535 / 255
        picture = Image.fromarray(levels.round().astype(np.uint8))
    elif picture.mode not in MODES:
        raise ValueError(
            f"mode {picture.mode}: possible are 8 bit grey, colour, palette, transparency, and 16 bit grey"
        )
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    picture = picture.convert("L" if channels == 1 else "RGB")
    picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    pixels = np.array(picture).reshape(size, size, channels)
    return rearrange(torch.from_numpy(pixels), "h w c -> c h w")


def hashed_split(name: str, splits: Sequence[Split] = SPLITS) -> Split:
    """A tenth of all names each for validation and test (where these are among `splits`), the others for training; by
    the name alone, so that a sample stays where it is when others are added."""
    part = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if part >= 0.9 and "test" in splits:
        return "test"
    return "validation" if 0.8 <= part < 0.9 and "validation" in splits else "train"


def listed(names: Sequence[str]) -> str:
    """A few names and the number of the others, for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


class Collected(ImageTextData):
    """A subclass says `title`, which `pictures` there are, and their `identity`: a hash that differs where any of them
    would, cheap to get.

    folder: where the decoded pixels are kept, so that only the first run decodes. skip_bad: pictures that cannot be
    used are counted, named and left out; otherwise they are an error.
    """

    title: str

    @bounded
    def __init__(
        self,
        folder: str,
        image_size: Annotated[int, "image_size >= 1"] = 64,
        channels: Literal[1, 3] = 3,
        skip_bad: bool = False,
        **loader: Any,
    ) -> None:
        super().__init__(image_size, **loader)
        self.folder = Path(folder).expanduser()
        self.channels, self.skip_bad = channels, skip_bad
        self._decoded: dict[str, ImageText] | None = None

    def fetch(self) -> None:
        """Get what `pictures` reads; called before it, where something has to be decoded."""

    def identity(self) -> str:
        raise NotImplementedError

    def pictures(self) -> list[Picture]:
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Decode, unless that is done. Raises DataUnavailable."""
        if self._decoded is None:
            self._decoded = self._load_or_decode()

    def load(self, split: Split) -> ImageText:
        self.prepare_data()
        assert self._decoded is not None
        return self._decoded[split]

    def _load_or_decode(self) -> dict[str, ImageText]:
        name = fingerprint(VERSION, self.identity(), self.image_size, self.channels, self.skip_bad)
        path = self.folder / f"decoded-{name[:24]}.safetensors"
        if path.is_file() and (kept := self._kept(path)):
            return kept
        self.fetch()
        try:
            with locked(self.folder):
                if path.is_file() and (kept := self._kept(path)):  # by whoever held the lock
                    return kept
                decoded = self._decode(self.pictures())
                _keep(decoded, path)
        except OSError as error:
            say(
                f"{self.title}: decoded again at the next run, since {self.folder} cannot be written ({error})"
            )
            decoded = self._decode(self.pictures())
        return decoded

    def _kept(self, path: Path) -> dict[str, ImageText] | None:
        try:
            tensors, metadata = load_tensors(path)
        except DamagedFile as error:
            say(f"{self.title}: decoding again, {error}")
            return None
        captions, classes = tuple(json.loads(metadata["captions"])), tuple(json.loads(metadata["classes"]))
        return {
            split: ImageText(
                images=tensors[f"{split}.images"],
                caption_ids=tensors[f"{split}.captions"],
                captions=captions,
                labels=tensors[f"{split}.labels"],
                class_names=classes,
            )
            for split in SPLITS
        }

    def _decode(self, pictures: list[Picture]) -> dict[str, ImageText]:
        """Raises DataUnavailable for pictures that cannot be read or are of a mode that has no exact meaning."""
        pixels = torch.empty(
            len(pictures), self.channels, self.image_size, self.image_size, dtype=torch.uint8
        )
        bad: dict[int, str] = {}
        with Bar(f"decoding {self.title}", len(pictures)) as bar:
            for i, picture in enumerate(pictures):
                try:
                    pixels[i] = fitted(picture.open(), self.image_size, self.channels)
                except UNREADABLE as error:
                    bad[i] = f"{picture.name} ({(str(error) or type(error).__name__).splitlines()[0]})"
                if i % 100 == 99 or i + 1 == len(pictures):
                    bar.update(i + 1)
        if bad:
            self.refuse_or_say(
                f"{len(bad)} of {len(pictures)} pictures cannot be used: {listed([*bad.values()])}"
            )
        return self._in_splits(pictures, pixels, [i for i in range(len(pictures)) if i not in bad])

    def refuse_or_say(self, problem: str) -> None:
        """DataUnavailable, or with skip_bad a line."""
        if not self.skip_bad:
            raise DataUnavailable(
                f"{self.title}: {problem}; mend or remove them, or leave them out: data.skip_bad=true"
            )
        say(f"{self.title}: {problem}; left out")

    def _in_splits(self, pictures: list[Picture], pixels: Tensor, good: list[int]) -> dict[str, ImageText]:
        captions = {c: i for i, c in enumerate(dict.fromkeys(pictures[i].caption for i in good))}
        classes = {c: i for i, c in enumerate(sorted({pictures[i].label for i in good}))}
        found: dict[str, ImageText] = {}
        for split in SPLITS:
            mine = [i for i in good if pictures[i].split == split]
            if not mine:
                why = f"no picture of {len(good)} is in the split {split}"
                raise DataUnavailable(f"{self.title}: {why}; more pictures, or splits by name")
            found[split] = ImageText(
                images=pixels[mine],
                caption_ids=torch.tensor([captions[pictures[i].caption] for i in mine]),
                captions=tuple(captions),
                labels=torch.tensor([classes[pictures[i].label] for i in mine]),
                class_names=tuple(classes),
            )
        return found


def _keep(decoded: dict[str, ImageText], path: Path) -> None:
    tensors = {
        f"{split}.{what}": tensor
        for split, data in decoded.items()
        for what, tensor in (("images", data.images), ("captions", data.caption_ids), ("labels", data.labels))
    }
    first = decoded["train"]
    words = {"captions": json.dumps(first.captions), "classes": json.dumps(first.class_names)}
    save_tensors(path, tensors, words)
