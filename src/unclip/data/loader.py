"""Batches of a split that is in memory, the machine's or a GPU's: the same on any number of devices and after any
interruption. Not a `DataLoader`: no workers, no item-by-item collation; it is told its rank, it asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from unclip.config.problems import Failure
from unclip.data.image_text import ImageText
from unclip.randomness import key


class Order(NamedTuple):
    """What is random in one epoch, drawn for all samples at once: so it depends on seed, epoch and sample
    alone."""

    permutation: Tensor  # int64 (N,)
    flipped: Tensor  # bool (N,), by sample
    shift: Tensor  # int64 (N,2): rows, columns, by sample


class BatchLoader:
    """Sized, stateful and re-iterable; iterating yields the batches of the current epoch.

    Global batch k of epoch e is `permutation(seed, e)[k B:(k + 1) B]`, and rank r of R takes its r-th
    contiguous part, so that the ranks together see each sample once. Training drops the incomplete last
    batch; otherwise the order is the stored one and every sample is kept. `batch_size` is the global one.
    In training a rank's part comes in `pieces` of equal size, one after the other.

    A batch is {"image": uint8 (b,C,H,W), "caption": int64 (b,), "label": int64 (b,), "index": int64 (b,) into
    the split}, where the split is. Augmentation (training only): a flip with probability `flip`, and a shift by up to
    `crop_padding` pixels each way, edge pixels repeated, keyed by (seed, epoch, sample).

    Lightning calls `sampler.set_epoch`, and saves and loads the position within the epoch with
    `state_dict`/`load_state_dict`.
    """

    def __init__(
        self,
        data: ImageText,
        batch_size: int,
        *,
        training: bool,
        flip: float = 0.0,
        crop_padding: int = 0,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        pieces: int = 1,
    ) -> None:
        if training and batch_size % (ranks * pieces):
            of = f"the {ranks} devices" + (f" x {pieces} pieces" if pieces > 1 else "")
            raise ValueError(f"batch_size = {batch_size}: the global size must be divisible by {of}")
        if training and batch_size > len(data):
            has = f"the training split has only {len(data)} images; give data.batch_size={len(data)} or less"
            raise Failure(f"data.batch_size = {batch_size}: {has}")
        if not training and len(data) < ranks:  # one without a batch would keep the others waiting
            has = f"the validation split has only {len(data)} images, less than one for each"
            raise Failure(f"the {ranks} devices: {has}; give trainer.devices={len(data)} or less")
        self.data, self.batch_size, self.training = data, batch_size, training
        self.flip, self.crop_padding, self.seed = flip, crop_padding, seed
        self.rank, self.ranks, self.pieces = rank, ranks, pieces if training else 1
        self.epoch = 0
        self._position = (0, 0)  # epoch, batches of it handed out
        self._resume: tuple[int, int] | None = None

    @property
    def sampler(self) -> BatchLoader:
        """Where Lightning looks for `set_epoch`."""
        return self

    batch_sampler = None  # where Lightning looks before it looks at `sampler`

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on after the batches that were handed out, if it is of the same epoch."""
        self._position = self._resume = (state["epoch"], state["batch"])
        self.epoch = state["epoch"]

    def __len__(self) -> int:
        full, rest = divmod(len(self.data), self.batch_size)
        if self.training:
            return full * self.pieces
        return full + bool(len(self._part(torch.arange(rest))))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # a generator: epoch and position are read at the first batch, after Lightning has set them
        epoch, first = self.epoch, 0
        if self._resume is not None and self._resume[0] == epoch:
            first = self._resume[1]
        self._resume = None
        order = self.order(epoch) if self.training else None
        indices = order.permutation if order else torch.arange(len(self.data))
        device = self.data.labels.device
        indices, order = indices.to(device), order and Order(*(x.to(device) for x in order))
        for k in range(first, len(self) // self.pieces):
            part = self._part(indices[k * self.batch_size : (k + 1) * self.batch_size])
            for number, index in enumerate(part.tensor_split(self.pieces), 1):
                self._position = (
                    epoch,
                    k + number // self.pieces,
                )  # a batch is handed out with its last piece
                yield self._batch(index, order)

    def order(self, epoch: int) -> Order:
        """Everything random about an epoch."""
        generator = torch.Generator().manual_seed(key(self.seed, "data", epoch))
        n, padding = len(self.data), self.crop_padding
        return Order(
            permutation=torch.randperm(n, generator=generator),
            flipped=torch.rand(n, generator=generator) < self.flip,
            shift=torch.randint(-padding, padding + 1, (n, 2), generator=generator),
        )

    def _part(self, index: Tensor) -> Tensor:
        """This rank's contiguous part of a global batch, empty where there are fewer samples than ranks."""
        n = len(index)
        return index[n * self.rank // self.ranks : n * (self.rank + 1) // self.ranks]

    def _batch(self, index: Tensor, order: Order | None) -> dict[str, Tensor]:
        images = self.data.images.index_select(0, index)  # several times faster than images[index]
        if order and (self.flip or self.crop_padding):
            images = shifted_and_flipped(images, order.shift[index], order.flipped[index])
        return {
            "image": images,
            "caption": self.data.caption_ids[index],
            "label": self.data.labels[index],
            "index": index,
        }


def shifted_and_flipped(images: Tensor, shift: Tensor, flipped: Tensor) -> Tensor:
    """images (B,C,H,W), shift (B,2) in pixels down and right, flipped (B,) bool -> (B,C,H,W), edge pixels
    repeated; one gather."""
    height, width = images.shape[-2:]
    down, right = (torch.arange(n, device=images.device) for n in (height, width))
    rows = (down - shift[:, :1]).clamp_(0, height - 1)  # (B,H): the source of each row
    columns = (right - shift[:, 1:]).clamp_(0, width - 1)  # (B,W)
    columns = torch.where(rearrange(flipped, "b -> b 1"), columns.flip(1), columns)
    source = rearrange(rows * width, "b h -> b 1 h 1") + rearrange(
        columns, "b w -> b 1 1 w"
    )  # (B,1,H,W) into H W
    source = rearrange(source, "b 1 h w -> b 1 (h w)").expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, source).unflatten(2, (height, width))
