"""Calls with settings, runs and pictures that cannot be used, and what is said, word for word; `...` stands for what is
long, FOLDER for the folder. Parts of what the command line gets to after seconds or minutes, called as it calls them. A
table; test_messages.py makes the calls."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

from unclip.callbacks.checkpoint import damage
from unclip.config import checks, rules, trust
from unclip.config.tree import own_folder
from unclip.data.synthetic import Synthetic
from unclip.report import judges, manipulations, strips
from unclip.runs import ablation, cluster_job, endings, job, multirun, torchrun, workers
from unclip.runs import trained as trained_runs
from unclip.runs.store import Run


def _ended_by(number: int) -> Callable[[Path], object]:
    def call(folder: Path) -> object:
        said: list[str] = []
        error = OSError(number, os.strerror(number), "status.json")
        with patch.object(endings, "_say", lambda _, why: said.append(why)):
            endings.broken_off(Run(folder), 0, error, 1.0)
        raise ValueError(*said)

    return call


def _damaged(folder: Path) -> object:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as parts:
        parts.writestr("data", "a" * 100)
    content = buffer.getvalue().replace(b"a" * 100, b"b" * 100)
    (path := folder / "checkpoint.ckpt").write_bytes(content)
    raise ValueError(f"it {damage(path)}")


def _two_gpus(_: Path) -> object:
    trainer = {"accelerator": "gpu", "devices": 3}
    with patch.object(rules, "gpus", lambda: 2):
        raise ValueError(*map(str, rules._hardware({"trainer": trainer}, {}, {})))


def _ablation(**fields: Any) -> Callable[[Path], object]:
    def call(_: Path) -> object:
        made = ablation.Ablation(title="T", paper="P", metrics=["fd"], **fields)
        raise ValueError("; ".join(map(str, ablation._content(made))))

    return call


def _own_yaml(_: Path) -> object:
    with checks.hydras_own():
        raise KeyError("defaults")


def _captioned(*prompts: str, side: int = 8) -> Callable[[Path], object]:
    test = SimpleNamespace(
        images=torch.zeros(4, 1, side, side, dtype=torch.uint8), captions=(), caption_ids=None
    )
    trained: Any = SimpleNamespace(data=SimpleNamespace(split=lambda _: test))

    def call(folder: Path) -> object:
        for i in range(2):
            Image.new("L", (8, 8)).save(folder / f"{i}.png")
        return strips.pictures_of({"images": str(folder), "prompts": [*prompts]}, trained)

    return call


def _calibrated(_: Path) -> object:
    own: Any = SimpleNamespace(calibrates=True)
    trained: Any = SimpleNamespace(model=SimpleNamespace(decoder=SimpleNamespace(sampler=own)))
    return trained_runs.resampled(trained, {})


def _latent_nll(_: Path) -> object:
    data = Synthetic(size=40, image_size=16)
    decoder = SimpleNamespace(latents=object())
    trained: Any = SimpleNamespace(
        shown=data,
        model=SimpleNamespace(decoder=decoder, clip=torch.nn.Identity(), upsamplers=[], device="cpu"),
    )
    extractor = {"_target_": "unclip.evaluate.extractors.RandomNetwork", "image_channels": 1}
    return judges.for_run(trained, {"n": 4, "extractor": extractor, "metrics": ["nll"]})


def _lost(_: Path) -> object:
    from torch.distributed import DistError

    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(launcher=None))
    with patch.object(job, "WAIT_SECONDS", 0.0):
        raise ValueError(job._lost_rank(trainer, DistError("gone")))


def _journal(_: Path) -> object:
    from unclip.runs.search_study import Ledger

    ledger: Any = SimpleNamespace(place="x.journal")
    with Ledger._readable(ledger):
        raise KeyError("op_code")


SETTINGS = {"tasks_per_node": 3}
TRAINER = {"accelerator": "cpu", "devices": 2, "num_nodes": 1}

CALLS: dict[str, Callable[[Path], object]] = {
    # the user's own configuration
    "UNCLIP_CONFIG_DIR = nowhere: there is no such folder; it is what --config-dir says": lambda _: own_folder(),
    "_target_ = os.getcwd: is not of this package, torch or lightning, and not of your own configuration or command; "
    "where you trust it: UNCLIP_ALLOW=os": lambda _: trust.check({"_target_": "os.getcwd"}),
    "trainer.devices = 3: this machine has 2 GPUs; possible: 1 to 2, auto": _two_gpus,
    "the YAML files of --config-dir do not compose: 'defaults'": _own_yaml,
    # runs
    "it has a part, data, whose checksum is not the one written with it": _damaged,
    **{
        f"status.json: {os.strerror(n)}: {what}; the same command goes on from the last checkpoint": _ended_by(n)
        for n, what in ((30, "make it writable"), (5, "see to the disk"), (28, "make room"))
    },
    "hydra.launcher.n_jobs = 0: must be a whole number, 1 or more": lambda _: workers.Workers(0),
    "hydra.launcher.tasks_per_node = 3: trainer.devices = 2, and a job has a process a device: leave this out, or make "
    "them equal": lambda _: cluster_job.layout(TRAINER, SETTINGS, []),
    "the sweep would be of 10,001 runs or more; possible: 10,000 at a time": lambda _: multirun.combinations(
        ["seed=range(0,20000)"]
    ),
    "torchrun = 1: has no store in which its processes could meet: --rdzv-backend=c10d, or none": (
        lambda _: torchrun._store()
    ),
    "axes: either axes or cells must say what the cells are, not both": _ablation(),
    "axes.a: must be a list of values": _ablation(axes={"a": 3}),
    "axes: 2 combinations have only 1 names: name them in cells": _ablation(axes={"a": ["x/b", "y/b"]}),
    "cells = a<b: a name has no < or >: claims compare with them": _ablation(cells={"a<b": []}),
    "budgets.small = seed: no such key; it has: ...": _ablation(cells={"a": []}, budgets={"small": {"seed": 1}}),
    "the connection to another rank is lost": _lost,
    "storage = x.journal: cannot be read ('op_code'): repair it, remove it, or name another by storage=": _journal,
    "sampler = ddpm_analytic: has a variance estimated from training embeddings, for priors alone; possible here: "
    "ddpm, ddpm_large": _calibrated,
    # pictures
    "images = FOLDER: are 8x8x1 (height, width, channels), the model's 4x4x1": _captioned(side=4),
    "prompts = ['a', 'b', 'c']: 3 captions of 2 pictures: give one each, or one for all": _captioned("a", "b", "c"),
    "metrics = nll: is a bound for pixels, and this decoder works in an autoencoder's latents: other metrics": (
        _latent_nll
    ),
    "metrics = memorisation: compares pixels, and the images are 8x8, the reference 4x4": lambda _: (
        judges._without_pixels([], {"metrics": ["memorisation"]}, torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4))
    ),
    "extractor = FashionMnistClassifier: images of 3 channels: the Fashion-MNIST classifier judges images of 1 "
    "channel; for colour: extractor=random extractor.image_channels=3, or inception": lambda _: judges.extractor_of(
        {"extractor": {"_target_": "unclip.evaluate.extractors.FashionMnistClassifier"}},
        torch.zeros(1, 3, 28, 28, dtype=torch.uint8),
    ),
    "one picture: an interpolation goes from one to another, give two or more": lambda _: manipulations.Interpolate()(
        None, None, strips.Given(torch.zeros(1, 1, 8, 8), ("a",))  # type: ignore[arg-type]
    ),
}  # fmt: skip
