"""Batches from images in memory: our loader beside torch's DataLoader over a data set of single items, and what a batch
costs of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unclip.bench.fit import Training
from unclip.bench.machine import described
from unclip.bench.measure import Contest, Way, looped
from unclip.data.image_text import ImageText
from unclip.data.loader import BatchLoader

AUGMENTED: dict[str, Any] = {"flip": 0.5, "crop_padding": 4}
CPU = torch.device("cpu")


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """The loaders in turns, then one step of each training whose batches they would make."""
    trainings = {name: Training([f"experiment={name}", *request["training"]]) for name in request["shares"]}
    first = next(iter(trainings.values()))
    train, batch = first.source.split("train"), request["batch"]
    contest = Contest(CPU, torch.float32, request["rounds"], request["seconds"], counts=False)
    contest.enter(partial(loader, "unclip", train, batch))
    contest.enter(partial(loader, "unclip", train, batch, note="flips and crops", **AUGMENTED))
    for workers in request["workers"]:
        contest.enter(partial(torchs, train, batch, workers))
    measured = contest.measured()
    moved = 2 * train.images[0].numel()  # bytes read and written an image
    for row in measured["rows"]:
        row["share"] = moved * row["rate"] / measured["peak"]["copy"]["bandwidth"]
    shape = "x".join(map(str, train.images.shape[1:]))
    title = f"Batches of {batch} images, {shape} bytes each, {len(train):,} in memory"
    remark = "The share is of the copy's bandwidth: each byte is read once and written once."
    table = {"title": title, "unit": "images/s", **measured, "remarks": [remark]}
    shares = [share(name, training, request) for name, training in trainings.items()]
    return {
        "machine": described(CPU),
        "tables": [table, {"title": "Of a training step", "cells": [HEAD, *shares]}],
    }


HEAD = ["training", "batch", "its loading, ms", "its step, ms", "loading's share"]


def share(name: str, training: Training, request: dict[str, Any]) -> list[str]:
    """How long a batch and a step take."""
    contest = Contest(
        training.device, rounds=request["rounds"], seconds=request["seconds"], counts=False, peaks=False
    )
    source = training.source
    augmentation: dict[str, Any] = {"flip": source.flip, "crop_padding": source.crop_padding}
    contest.enter(partial(loader, "batch", source.split("train"), training.batch, **augmentation))
    contest.enter(training.way)
    batch, step = (training.batch / row["rate"] for row in contest.measured()["rows"])
    return [
        name,
        f"{training.batch}",
        f"{1e3 * batch:.2f}",
        f"{1e3 * step:.1f}",
        f"{100 * batch / step:.2g}%",
    ]


def loader(name: str, train: ImageText, batch: int, note: str = "", **augmentation: Any) -> Way:
    """Ours, epoch after epoch."""
    source = BatchLoader(train, batch, training=True, **augmentation)
    return endless(name, source, batch, note, source.set_epoch)


def torchs(train: ImageText, batch: int, workers: int) -> Way:
    """torch's DataLoader with its own collation."""
    source = DataLoader(
        Items(train), batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    return endless("torch DataLoader", source, batch, f"item by item, {workers} workers")


def endless(
    name: str,
    source: Iterable[Any],
    batch: int,
    note: str = "",
    begin: Callable[[int], None] = lambda epoch: None,
) -> Way:
    """A way whose step is the next batch, epoch after epoch."""

    def batches() -> Iterator[Any]:
        epoch = 0
        while True:
            begin(epoch)
            yield from source
            epoch += 1

    following = batches()
    return looped(name, lambda: next(following), CPU, items=batch, note=note)


class Items(Dataset[dict[str, Tensor]]):
    """One image with its caption's number, as tutorials index a data set."""

    def __init__(self, data: ImageText):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        data = self.data
        found = {"image": data.images[i], "caption": data.caption_ids[i], "label": data.labels[i]}
        return {**found, "index": torch.tensor(i)}
