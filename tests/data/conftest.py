"""A tiny Fashion-MNIST of the right format, so that fetching and reading are tested without the network."""

import gzip
import hashlib
from pathlib import Path

import pytest
import torch

from unclip.data.fashion_mnist import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, FashionMNIST
from unclip.data.idx import IdxFile
from unclip.data.image_text import ImageText
from unclip.data.places import Folder

COUNTS = {"train": 60, "test": 20}


def idx_content(values: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.numpy().tobytes()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, IdxFile]]:
    """A folder with four good files, and what they must hold."""
    folder = tmp_path_factory.mktemp("published")
    generator = torch.Generator().manual_seed(0)
    files = {}
    for images, labels, count in (
        (TRAIN_IMAGES, TRAIN_LABELS, COUNTS["train"]),
        (TEST_IMAGES, TEST_LABELS, COUNTS["test"]),
    ):
        pixels = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        for name, values in ((images, pixels), (labels, torch.arange(count, dtype=torch.uint8) % 10)):
            content = idx_content(values)
            (folder / name).write_bytes(gzip.compress(content, 1))
            files[name] = IdxFile(tuple(values.shape), hashlib.sha256(content).hexdigest())
    return folder, files


@pytest.fixture
def tiny_fashion(published: tuple[Path, dict[str, IdxFile]]) -> type[FashionMNIST]:
    """The data set class, expecting the tiny files and finding them in one other place."""
    source, expected = published

    class Tiny(FashionMNIST):
        files = expected
        validation_count = 10
        places = (Folder(source),)

    return Tiny


@pytest.fixture(scope="session")
def numbered() -> ImageText:
    """103 images of 2 channels whose pixels are all different within an image and say which image it is."""
    n = 103
    images = (torch.arange(n).view(n, 1, 1, 1) + torch.arange(128).view(1, 2, 8, 8)).to(torch.uint8)
    index = torch.arange(n)
    return ImageText(images, index % 5, ("a", "b", "c", "d", "e"), index % 3, ("x", "y", "z"))
