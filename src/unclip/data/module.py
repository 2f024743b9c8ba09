"""`ImageTextData`: the Lightning data module that a data set subclasses with one method, `load`.
Knows nothing of particular data sets."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal

import lightning
import torch
from torch import Tensor

from unclip.data.fingerprint import fingerprint
from unclip.data.image_text import ImageText, Split
from unclip.data.loader import BatchLoader
from unclip.diffusion.bounds import bounded

if TYPE_CHECKING:
    from unclip.evaluate.attributes import Checks

SHARE = 1 / 16  # of a GPU's memory, which a split may take there
FEW = 100  # captions: with more of them, tables are not by caption, and samples are drawn for some of them


class ImageTextData(lightning.LightningDataModule):
    """Splits, loaded once each, and their loaders. A data set implements `load`, and `prepare_data` where it
    has to fetch.

    batch_size: of all devices together, and of all pieces that the trainer accumulates gradients of. flip: probability
    of a horizontal flip; crop_padding: random shifts by up to so many pixels; both on training batches only, keyed by
    (seed, epoch, sample). device: where splits are while a net is trained on them, and batches are put together; auto:
    on the GPU that trains, if no split takes more than SHARE of its memory; gpu: there, whatever they take. licence,
    attribution: of the pictures, as `unclip data info` shows them.
    """

    licence: str = "not stated"
    attribution: str = ""
    loader: type[BatchLoader] = BatchLoader

    @bounded
    def __init__(
        self,
        image_size: Annotated[int, "image_size >= 1"],
        batch_size: Annotated[int, "batch_size >= 1"] = 128,
        flip: Annotated[float, "0 <= flip <= 1"] = 0.0,
        crop_padding: Annotated[int, "crop_padding >= 0"] = 0,
        seed: Annotated[int, "seed >= 0"] = 0,
        device: Literal["auto", "cpu", "gpu"] = "auto",
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.batch_size = batch_size
        self.flip = flip
        self.crop_padding = crop_padding
        self.seed = seed
        self.device = device
        self._splits: dict[str, ImageText] = {}

    def load(self, split: Split) -> ImageText:
        """Read one split; its images are (N,C,image_size,image_size)."""
        raise NotImplementedError

    def split(self, name: Split) -> ImageText:
        """A split, loaded at the first call."""
        if name not in self._splits:
            self._splits[name] = self.load(name)
        return self._splits[name]

    @property
    def image_channels(self) -> int:
        return self.split("train").images.shape[1]

    @property
    def captions(self) -> tuple[str, ...]:
        return self.split("train").captions

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.split("train").class_names

    def prompts(self, count: int) -> tuple[str, ...]:
        """What to draw where nobody names it: all captions where they are FEW or less, else those of the first test
        images, `count` at most."""
        if len(self.captions) <= FEW:
            return self.captions
        ids = dict.fromkeys(self.split("test").caption_ids.tolist())
        return tuple(self.captions[i] for i in list(ids)[:count])

    def attribute_checks(self) -> Checks | None:
        """What says, of any picture, whether it shows what a caption of these data asks for; None where nothing
        exact can."""
        return None

    def held_out_images(self) -> ImageText | None:
        """Images of combinations that no other split shows; None where there are none."""
        return None

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of all splits."""
        return fingerprint(*(self.split(name).fingerprint for name in ("train", "validation", "test")))

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train", training=True)

    def val_dataloader(self) -> BatchLoader:
        return self._loader("validation", training=False)

    def test_dataloader(self) -> BatchLoader:
        return self._loader("test", training=False)

    def _loader(self, split: Split, training: bool) -> BatchLoader:
        trainer = self.trainer
        data = self.split(split)
        if trainer and self._belongs_on(device := trainer.strategy.root_device, data.images):
            data = data.to(device)
        return self.loader(
            data,
            self.batch_size,
            training=training,
            flip=self.flip,
            crop_padding=self.crop_padding,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            ranks=trainer.world_size if trainer else 1,
            pieces=trainer.accumulate_grad_batches if trainer else 1,
        )

    def _belongs_on(self, device: torch.device, images: Tensor) -> bool:
        """Whether a split with these images is to be kept on the device that trains."""
        streamed = not isinstance(images, Tensor)
        if streamed or "cpu" in (self.device, device.type):
            return False
        if self.device == "gpu":
            return True
        return device.type == "cuda" and images.nbytes <= SHARE * torch.cuda.mem_get_info(device)[1]
