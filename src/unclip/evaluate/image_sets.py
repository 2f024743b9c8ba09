"""Sets of images from a folder of PNG and JPEG files or from one .npz: stored pixels, as extractors read them.
Data sets with captions and splits are in unclip.data; nothing is resized or judged here."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unclip.data.cache import say

SUFFIXES = (".png", ".jpg", ".jpeg")
KEYS = ("images", "arr_0")  # of an .npz; the second is what numpy.savez calls an array without a name
CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3}  # by Pillow's mode; others have no exact greyscale or RGB form
SHOWN = 3  # file names in a message
# what Pillow raises for files that are not whole, or claim to be larger than anything sensible
UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)

Pixels = NDArray[np.uint8]


class ImageSetError(ValueError):
    """What is wrong with a set of images, in one line that follows its path."""


def load_images(path: str | Path, skip_corrupt: bool = False, at_least: int = 2) -> Tensor:
    """A folder, recursively and in the order of names, or an .npz (key `images` or `arr_0`, NHWC or NCHW) -> uint8
    (N,C,H,W), C = 1 or 3; greyscale among RGB files is repeated.

    skip_corrupt: files that cannot be read are counted, named and left out.

    Raises ImageSetError for a path that is neither, fewer images than at_least, sizes that differ, files that cannot be
    read, and numbers that are not uint8.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        images = _from_folder(path, skip_corrupt)
    elif path.is_file() and path.suffix == ".npz":
        images = _from_npz(path)
    else:
        what = f"a {path.suffix or 'plain'} file" if path.exists() else "not there"
        raise ImageSetError(f"is {what}; possible: a folder of {'|'.join(SUFFIXES)} files, or an .npz")
    if len(images) < at_least:
        needs = "; a distance needs at least 2" if at_least == 2 else ""
        raise ImageSetError(f"holds {len(images) or 'no'} image{'s' * (not len(images))}{needs}")
    return images


def _from_folder(folder: Path, skip_corrupt: bool) -> Tensor:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    names = [str(p.relative_to(folder)) for p in files]
    arrays: dict[str, Pixels] = {}
    corrupt: dict[str, str] = {}
    for name, file in zip(names, files, strict=True):
        try:
            arrays[name] = _pixels(file)
        except ImageSetError as error:
            raise ImageSetError(f"{name} {error}") from None
        except UNREADABLE as error:
            corrupt[name] = str(error).replace(str(file), name)
    if corrupt:
        which = f"{len(corrupt)} of {len(files)} files cannot be read: {_listed(list(corrupt))}"
        if not skip_corrupt:
            first = next(iter(corrupt.values()))
            raise ImageSetError(
                f"{which} ({first}); repair or remove them, or leave them out: skip_corrupt=true"
            )
        say(f"{folder}: {which}; left out")
    if not arrays:
        return torch.empty(0, 1, 1, 1, dtype=torch.uint8)
    _same(arrays, lambda a: f"{a.shape[1]}x{a.shape[0]}", "sizes")
    channels = max(a.shape[2] for a in arrays.values())
    height, width, _ = next(iter(arrays.values())).shape
    images = torch.empty(len(arrays), channels, height, width, dtype=torch.uint8)
    for image, name in zip(images, list(arrays), strict=True):
        array = arrays.pop(name)  # so that the set is in memory once, not twice
        image.copy_(torch.from_numpy(array).permute(2, 0, 1))  # one channel is repeated to three
    return images


def _pixels(file: Path) -> Pixels:
    """(H,W,C) of one file."""
    with Image.open(file) as image:
        if image.mode not in CHANNELS or "transparency" in image.info:
            mode = image.mode if image.mode not in CHANNELS else "transparent"
            raise ImageSetError(f"is {mode}; possible: 8 bit greyscale or RGB without transparency")
        array = np.array(
            image.convert("L" if CHANNELS[image.mode] == 1 else "RGB")
        )  # decodes: may find it damaged
    return array.reshape(*array.shape[:2], -1)


def _from_npz(path: Path) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as file:
            key = next((k for k in KEYS if k in file), None)
            if key is None:
                raise ImageSetError(
                    f"has the keys {', '.join(file) or 'none'}; images must be under {' or '.join(KEYS)}"
                )
            array = file[key]
    except ImageSetError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ImageSetError(f"cannot be read as an .npz of numbers ({str(error).splitlines()[0]})") from None
    if array.dtype != np.uint8:
        raise ImageSetError(f"holds {array.dtype}; must be uint8, 0 to 255, as images are stored")
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4:
        raise ImageSetError(f"holds an array {array.shape}; must be (N,H,W,C) or (N,C,H,W)")
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if first == last:
        why = "either end may be the channels" if first else "neither end is 1 or 3 channels"
        raise ImageSetError(f"holds an array {array.shape}, in which {why}; must be (N,H,W,C) or (N,C,H,W)")
    return torch.from_numpy(np.ascontiguousarray(array if first else array.transpose(0, 3, 1, 2)))


def _same(arrays: dict[str, Pixels], of: Callable[[Pixels], str], what: str) -> None:
    """Raises ImageSetError where files differ; it names those that are not as most are."""
    found = {name: of(array) for name, array in arrays.items()}
    counts = Counter(found.values()).most_common()
    if len(counts) > 1:
        usual = counts[0][0]
        others = [f"{name} ({value})" for name, value in found.items() if value != usual]
        raise ImageSetError(
            f"holds images of {len(counts)} {what}: {counts[0][1]} are {usual}, {len(others)} not: {_listed(others)}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
