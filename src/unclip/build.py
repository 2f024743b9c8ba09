"""From a resolved configuration to objects: data, nets, LightningModules. The one place where they are put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from safetensors.torch import load_file
from torch import nn

from unclip.data.embeddings import Embeddings
from unclip.data.module import ImageTextData
from unclip.data.tokenizer import ByteTokenizer
from unclip.lit.base import Stage
from unclip.randomness import key
from unclip.runs.store import Run

Config = dict[str, Any]


def make(node: Config, **objects: Any) -> Any:
    """What a node with a `_target_` describes. `objects` go to the target as they are: `instantiate` would take those
    that are dataclasses for configuration."""
    return instantiate(node, _partial_=True, _convert_="all")(**objects)


def part(node: Config) -> Any:
    """What a node describes that needs nothing supplied; a function with its options bound where `_partial_` says so."""
    return instantiate(node, _convert_="all")


def data(config: Config) -> ImageTextData:
    """The data module of a run, its files fetched and verified."""
    module = make(config["data"], seed=config["seed"])
    module.prepare_data()
    return module


def net(config: Config, source: ImageTextData, clip: nn.Module | None = None) -> nn.Module:
    """The untrained net of a run; what it must know of the data and of the CLIP below it is supplied here."""
    images = {"image_size": source.image_size, "image_channels": source.image_channels}
    tokenizer = ByteTokenizer()
    supplied = {
        "clip": lambda: {**images, "vocabulary": tokenizer.vocabulary, "context_length": tokenizer.length},
        "prior": lambda: {**_widths(clip), "context_length": tokenizer.length},
        "decoder": lambda: {**images, **_widths(clip)},
        "classifier": lambda: {
            "image_channels": source.image_channels,
            "num_classes": len(source.class_names),
        },
    }
    torch.manual_seed(key(config["seed"], "initial weights"))
    return make(config["model"], **supplied[config["stage"]["name"]]())


def _widths(clip: nn.Module | None) -> dict[str, Any]:
    assert clip is not None, "this stage stands on a CLIP"
    return {"embedding_dim": clip.embedding_dim, "token_width": clip.token_width}


def trained_net(run: Run, source: ImageTextData, clip: nn.Module | None = None) -> nn.Module:
    """The net of a finished run with its final weights, frozen and in eval mode."""
    loaded = net(run.config, source, clip)
    loaded.load_state_dict(load_file(run.weights))
    return loaded.eval().requires_grad_(False)


def upstream_clip(config: Config, source: ImageTextData) -> nn.Module | None:
    """The frozen CLIP that a stage is trained on top of; None where the stage has none."""
    from unclip.config.compose import compose
    from unclip.runs.upstream import only

    reference = config.get("clip")
    if reference is None:
        return None
    if reference == "random":
        untrained = net(compose("train", ["stage=clip"]).config, source)
        return untrained.eval().requires_grad_(False)
    return trained_net(only(reference, config["paths"]["outputs"]), source)


def embeddings(config: Config, clip: nn.Module, source: ImageTextData) -> Embeddings:
    """The data set's embeddings by this CLIP, from the cache where they are there."""
    device = "cuda" if torch.cuda.is_available() and config["trainer"]["accelerator"] != "cpu" else "cpu"
    return Embeddings.load(clip.to(device), ByteTokenizer(), source, cache(config))


def cache(config: Config) -> Path:
    """Where what is computed once from frozen nets is kept: embeddings, statistics of real images."""
    return Path(config["paths"]["outputs"]) / "cache"


def stage(config: Config, source: ImageTextData) -> Stage:
    """The LightningModule of a run, untrained."""
    clip = upstream_clip(config, source)
    supplied: dict[str, Any] = {"net": net(config, source, clip)}
    if clip is not None:
        supplied["embeddings"] = embeddings(config, clip, source)
    if config["stage"]["name"] == "clip":
        supplied |= {"tokenizer": ByteTokenizer(), "captions": source.captions}
    return module(config, **supplied)


def module(config: Config, **supplied: Any) -> Stage:
    """The LightningModule of a configuration around a net, with the objects its groups describe."""
    parts: dict[str, Any] = {"optim": part(config["optim"]), "seed": config["seed"]}
    for group in ("schedule", "objective", "weighting", "sampler"):
        if config.get(group) is not None:
            parts["loss" if config["stage"]["name"] == "clip" else group] = part(config[group])
    settings = {k: v for k, v in config["stage"].items() if k != "name"}
    return make(settings, **parts, **supplied)
