"""Emoji by two vendors with their names as captions: 7,572 colour images of 64x64, from two npm packages.
Nothing here is drawn or renamed: names, keywords and categories are the packages' own."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from unclip.data.cache import DamagedFile
from unclip.data.collected import Collected, Picture, hashed_split
from unclip.data.fingerprint import fingerprint
from unclip.data.places import Npm, Place, complete

SKIN_TONES = {
    "1F3FB": "light skin",
    "1F3FC": "medium light skin",
    "1F3FD": "medium skin",
    "1F3FE": "medium dark skin",
    "1F3FF": "dark skin",
}


@dataclass(frozen=True)
class PinnedFile:
    """A file known by its sha256."""

    sha256: str

    def read(self, path: Path) -> Path:
        """The path itself, once its content is verified. Raises FileNotFoundError or DamagedFile."""
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise DamagedFile(
                f"{path} is not the published file: its sha256 begins {found[:12]}, not {self.sha256[:12]}"
            )
        return path


class Emoji(Collected):
    """Captions are "{vendor} {name} {keywords}", classes are the categories of the Unicode charts.

    Split by base code point, the first one of the emoji without its skin tone: so neither the other vendor's picture
    nor another skin tone of a test image is ever trained on. folder: where packages and decoded pixels are kept.
    """

    title = "Emoji"
    licence: str = "Noto Emoji (google): Apache-2.0; Twemoji (twitter): CC-BY-4.0; names: MIT"
    attribution: str = (
        "Noto Emoji by Google; Twemoji by Twitter, Inc and other contributors; "
        "emoji-data (npm: emoji-datasource) by Cal Henderson"
    )
    files: ClassVar[Mapping[str, PinnedFile]] = {
        "emoji-datasource-google-16.0.0.tgz": PinnedFile(
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
        ),
        "emoji-datasource-twitter-16.0.0.tgz": PinnedFile(
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
        ),
    }
    places: ClassVar[Sequence[Place]] = (Npm(),)

    def identity(self) -> str:
        return fingerprint("emoji", {name: file.sha256 for name, file in self.files.items()})

    def fetch(self) -> None:
        complete(self.title, self.folder, self.files, self.places, command="unclip data fetch emoji")

    def pictures(self) -> list[Picture]:
        found = []
        for name in self.files:
            vendor = name.split("-")[2]
            members = _members(self.folder / name, f"package/img/{vendor}/64/")
            for emoji in json.loads(members["package/emoji.json"]):
                for file, caption in described(emoji, vendor):
                    png = members[f"package/img/{vendor}/64/{file}"]
                    split = hashed_split(base_code_point(emoji))
                    found.append(Picture(file, split, caption, emoji["category"], _opener(png)))
        return found


def base_code_point(emoji: Mapping[str, Any]) -> str:
    """`1F469` of the woman, of the woman astronaut, and of either in any skin tone."""
    return str(emoji["unified"]).split("-")[0]


def described(emoji: Mapping[str, Any], vendor: str) -> Iterator[tuple[str, str]]:
    """(file, caption) of an entry of emoji.json and of its skin tones, where the vendor has drawn them."""
    name = str(emoji["name"] or emoji["short_name"]).lower()
    words = (
        " ".join([*emoji["short_names"], emoji["subcategory"]]).lower().replace("_", " ").replace("-", " ")
    )
    keywords = [word for word in dict.fromkeys(words.split()) if word not in name]
    for tones, drawn in {"": emoji, **emoji.get("skin_variations", {})}.items():
        if drawn[f"has_img_{vendor}"]:
            skin = [SKIN_TONES[tone] for tone in dict.fromkeys(tones.split("-")) if tone]
            yield (
                drawn["image"],
                " ".join([vendor, name, *(["with", " and ".join(skin)] if skin else []), *keywords]),
            )


def _members(path: Path, folder: str) -> dict[str, bytes]:
    """The images in a folder of a package, and its emoji.json."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.startswith(folder) or member.name == "package/emoji.json":
                file = archive.extractfile(member)
                found[member.name] = file.read() if file else b""
    return found


def _opener(png: bytes) -> Callable[[], Image.Image]:
    return partial(lambda content: Image.open(io.BytesIO(content)), png)
