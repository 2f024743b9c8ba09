"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747) with one caption a class: this project's reference data.
60,000 + 10,000 images of clothes, 28x28, one channel, MIT; fetched from the first place that has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from unclip.data.cache import DamagedFile
from unclip.data.idx import IdxFile
from unclip.data.image_text import ImageText, Split
from unclip.data.images import resized
from unclip.data.module import ImageTextData
from unclip.data.places import DebianPackage, Download, Folder, Place, complete
from unclip.diffusion.bounds import bounded

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


class FashionMNIST(ImageTextData):
    """The first 50,000 training images are the training split, the last 10,000 the validation split.

    folder: where the four files are kept; it is filled at the first use. resize: from 28 to `image_size`
    pixels by a black border (`pad`, pixels unchanged), by interpolation (`bilinear`), or as the reduced copy of a
    padded picture (`area`: 16 pixels of 32, for the decoder of a cascade).
    """

    title: ClassVar[str] = "Fashion-MNIST"
    licence: str = "MIT"
    attribution: str = "Fashion-MNIST by Zalando SE (Xiao, Rasul and Vollgraf 2017)"
    class_articles: ClassVar[Mapping[str, str]] = {
        "t-shirt/top": "a ",
        "trousers": "",
        "pullover": "a ",
        "dress": "a ",
        "coat": "a ",
        "sandal": "a ",
        "shirt": "a ",
        "sneaker": "a ",
        "bag": "a ",
        "ankle boot": "an ",
    }
    files: ClassVar[Mapping[str, IdxFile]] = {
        TRAIN_IMAGES: IdxFile(
            (60_000, 28, 28), "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        TRAIN_LABELS: IdxFile((60_000,), "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        TEST_IMAGES: IdxFile(
            (10_000, 28, 28), "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        TEST_LABELS: IdxFile((10_000,), "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    }
    validation_count: ClassVar[int] = 10_000
    places: ClassVar[Sequence[Place]] = (
        Folder(Path("/usr/share/datasets/fashion-mnist")),
        Download("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"),
        Download("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"),
        DebianPackage("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
    )

    @bounded
    def __init__(
        self,
        folder: str,
        image_size: Annotated[int, "image_size >= 1"] = 32,
        resize: Literal["pad", "bilinear", "area"] = "pad",
        **loader: Any,
    ) -> None:
        super().__init__(image_size, **loader)
        if resize == "pad" and image_size < (stored := self.files[TRAIN_IMAGES].shape[-1]):
            raise ValueError(
                f"image_size = {image_size}: must be {stored} or more with resize=pad; or use resize=bilinear or area"
            )
        self.folder = Path(folder).expanduser()
        self.resize: Literal["pad", "bilinear", "area"] = resize

    def prepare_data(self) -> None:
        """Fetch and verify what is missing or damaged in `folder`. Raises DataUnavailable."""
        complete(self.title, self.folder, self.files, self.places, command="unclip data fetch fashion_mnist")

    def load(self, split: Split) -> ImageText:
        images, labels = (TEST_IMAGES, TEST_LABELS) if split == "test" else (TRAIN_IMAGES, TRAIN_LABELS)
        rows = slice(None)
        if split != "test":
            boundary = self.files[images].shape[0] - self.validation_count
            rows = slice(boundary) if split == "train" else slice(boundary, None)
        # copies: a view would keep the other split in memory
        x = self._read(images)[rows].unsqueeze(1).clone()  # (N,1,28,28)
        y = self._read(labels)[rows].to(torch.int64)
        return ImageText(
            images=resized(x, self.image_size, self.resize),
            caption_ids=y.clone(),
            captions=tuple(f"An image of {article}{name}" for name, article in self.class_articles.items()),
            labels=y,
            class_names=tuple(self.class_articles),
        )

    def _read(self, name: str) -> Tensor:
        try:
            return self.files[name].read(self.folder / name)
        except (FileNotFoundError, DamagedFile):
            self.prepare_data()
            return self.files[name].read(self.folder / name)
