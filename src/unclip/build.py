"""From a resolved configuration to objects: data, nets, LightningModules. The one place where they are put together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from unclip.config import targets, trust
from unclip.config.compose import compose
from unclip.config.problems import Problem, Problems
from unclip.data.cache import DamagedFile, load_tensors, locked
from unclip.data.embeddings import Embeddings
from unclip.data.fingerprint import fingerprint, module_fingerprint
from unclip.data.latents import Latents
from unclip.data.module import ImageTextData
from unclip.data.tokenizer import ByteTokenizer, Tokenizer
from unclip.evaluate.pretrained import EvaluationClip
from unclip.lit.base import Stage
from unclip.lit.candidates import Prior
from unclip.nets.autoencoder import Autoencoder, LatentScale
from unclip.nets.blocks import checkpoint_blocks
from unclip.nets.clip import CLIP
from unclip.nets.open_clip import OpenClip
from unclip.randomness import key
from unclip.runs.pretrained_clip import Reference
from unclip.runs.store import Run
from unclip.runs.upstream import only

Config = dict[str, Any]


def make(node: Config, **objects: Any) -> Any:
    """What a node with a `_target_` describes. `objects` go to the target as they are: `instantiate` would take those
    that are dataclasses for configuration."""
    trust.check(node)
    return instantiate(node, _partial_=True, _convert_="all")(**objects)


def part(node: Config) -> Any:
    """What a node describes that needs nothing supplied; a function with its options where `_partial_` says so."""
    trust.check(node)
    return instantiate(node, _convert_="all")


def data(config: Config) -> ImageTextData:
    """The data module of a run, its files fetched and verified."""
    module = make(config["data"], seed=config["seed"])
    module.prepare_data()
    return module


def tokenizer(config: Config, source: ImageTextData, saved: str | None = None) -> Tokenizer:
    """The tokenizer of a configuration: as it was saved with trained weights, else learned from the training captions,
    where there is something to learn."""
    node = config.get("tokenizer")
    if not node:
        return ByteTokenizer()  # a run from before there was a choice
    if "captions" not in (targets.parameters(node["_target_"]) or {}):
        made: Tokenizer = make(node)
        return made
    train = source.split("train")
    captions = [train.captions[i] for i in train.caption_ids.unique().tolist()] if saved is None else None
    learned: Tokenizer = make(node, captions=captions, saved=saved)
    return learned


def net(
    config: Config, source: ImageTextData, clip: CLIP | None = None, saved_tokenizer: str | None = None
) -> nn.Module:
    """The untrained net of a run; what it must know of the data and of the CLIP below it is supplied here. A CLIP
    carries its tokenizer."""
    known: dict[str, Any] = {
        "image_size": source.image_size,
        "image_channels": source.image_channels,
        "num_classes": len(source.class_names),
        "self_conditioning": config["stage"].get("self_conditioning", False),
    }
    if config.get("autoencoder"):
        below = only(config["autoencoder"], config["paths"]["outputs"]).config["model"]
        known["image_size"] = source.image_size // below["factor"]
        known["image_channels"] = below["latent_channels"]
    words = None
    if clip is not None:
        known |= {"embedding_dim": clip.embedding_dim, "token_width": clip.token_width}
        known["context_length"] = clip.tokenizer.length
    elif "vocabulary" in (targets.parameters(config["model"]["_target_"]) or {}):
        words = tokenizer(config, source, saved_tokenizer)
        known |= {"vocabulary": words.vocabulary, "context_length": words.length}
    torch.manual_seed(key(config["seed"], "initial weights"))
    made: nn.Module = make(config["model"], **_wanted(config["model"], known))
    if isinstance(made, CLIP) and words is not None:
        made.tokenizer = words
    if config.get("autoencoder"):
        made.latent_scale = LatentScale()  # saved with the net, set when its training begins
    schedule = part(config["schedule"]) if config.get("schedule") else None
    if isinstance(schedule, nn.Module):  # a learned one is trained, averaged and saved as a part of the net
        made.schedule = schedule
    return made


def _wanted(node: Config, known: dict[str, Any]) -> dict[str, Any]:
    """What of `known` a node's target takes and the configuration does not say itself."""
    taken = targets.parameters(node["_target_"]) or {}
    return {name: value for name, value in known.items() if name in taken and name not in node}


def trained_net(run: Run, source: ImageTextData, clip: CLIP | None = None) -> nn.Module:
    """The net of a finished run with its final weights, frozen and in eval mode."""
    tensors, metadata = weights(run)
    loaded = net(run.config, source, clip, metadata.get("tokenizer"))
    loaded.load_state_dict(tensors)
    return loaded.eval().requires_grad_(False)


def weights(run: Run) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a finished run and what is said beside them. Raises DamagedFile, which says what to do."""
    try:
        return load_tensors(run.weights)
    except DamagedFile as error:
        again = run.status.get("command") or "the command that made it"
        raise DamagedFile(f"{error}: remove it, and train it again by {again}") from error


def upstream_clip(config: Config, source: ImageTextData) -> CLIP:
    """The frozen CLIP that a prior or decoder is trained on top of."""
    if published := Reference.of(config["clip"]):
        if published.changed():
            why = "is not the file that was trained on; give that one: clip=open_clip:MODEL:PATH"
            raise ValueError(f"clip = {config['clip']}: {why}")
        frozen: nn.Module = OpenClip(published.name, published.weights)
    elif config["clip"] == "random":
        untrained = {**compose("train", ["stage=clip"]).config, "tokenizer": config.get("tokenizer")}
        frozen = net(untrained, source).eval().requires_grad_(False)
    else:
        frozen = trained_net(only(config["clip"], config["paths"]["outputs"]), source)
    assert isinstance(frozen, CLIP)
    return frozen


def latents(config: Config, source: ImageTextData, encoded: bool = False) -> Latents | None:
    """The latent space that a decoder works in, with the encodings of its training pictures if it is to be trained.

    Raises ValueError where the autoencoder was made for pictures of other channels.
    """
    if not config.get("autoencoder"):
        return None
    run = only(config["autoencoder"], config["paths"]["outputs"])
    channels = len(weights(run)[0]["last.weight"]) // run.config["model"]["unshuffle"] ** 2
    if channels != source.image_channels:
        why = f"was trained on pictures of {channels} channels, these data have {source.image_channels}"
        raise ValueError(f"autoencoder = {run.signature}: {why}; give one of such data, or auto")
    frozen = trained_net(run, source)
    assert isinstance(frozen, Autoencoder)
    if not encoded:
        return Latents(frozen)
    with locked(cache(config)):  # one rank computes, the others read
        return Latents.load(frozen.to(_device(config)), source, cache(config))


def evaluation_clip(run: str, outputs: str = "outputs") -> EvaluationClip:
    """A finished CLIP run, by folder or signature, as a judge of images. Raises Problems."""
    found = only(run, outputs)
    if (stage := found.config["stage"]["name"]) != "clip":
        raise Problems([Problem("extractor.run", run, f"is a run of stage {stage}; a judge is a CLIP")])
    source = data(found.config)
    clip = trained_net(found, source)
    assert isinstance(clip, CLIP)
    return EvaluationClip(clip, source.image_size, source.image_channels, clip.tokenizer)


def named_data(name: str, folder: str = "data") -> ImageTextData:
    """An option of the group `data` as it is configured by default, its files fetched. Raises Problems."""
    return data(compose("train", ["stage=classifier", f"data={name}", f"paths.data={folder}"]).config)


def embeddings(config: Config, clip: CLIP, source: ImageTextData) -> Embeddings:
    """The data set's embeddings by this CLIP, from the cache where they are there."""
    with locked(cache(config)):  # one rank computes, the others read
        return Embeddings.load(clip.to(_device(config)), clip.tokenizer, source, cache(config))


def _device(config: Config) -> str:
    """Where what is frozen computes before training begins."""
    on_gpu = torch.cuda.is_available() and config["trainer"]["accelerator"] != "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if on_gpu else "cpu"


def trained_prior(run: Run, source: ImageTextData, clip: CLIP) -> Prior:
    """A finished prior of either kind, on the CLIP's device; calibrated on the training embeddings where its sampler
    asks for it: from the cache that its training left."""
    prior = module(run.config, trained_net(run, source, clip), embeddings=None).eval()
    assert isinstance(prior, Prior)
    prior = prior.to(next(clip.parameters()).device)
    if prior.calibrates:
        with locked(cache(run.config)):
            known = Embeddings.load(clip, clip.tokenizer, source, cache(run.config), ("train",))
        prior.calibrate(known, source.split("train").caption_ids)
    return prior


def prior_samples(config: Config, clip: CLIP, source: ImageTextData, true: Embeddings) -> Embeddings:
    """What a decoder is trained on that knows the prior's samples alone, from the cache where it is there."""
    run = only(config["prior"], config["paths"]["outputs"])
    device, prior = next(clip.parameters()).device, trained_prior(run, source, clip)

    def sample(text: dict[str, torch.Tensor], numbers: torch.Tensor, seed: int) -> torch.Tensor:
        return prior.sample({name: x.to(device) for name, x in text.items()}, numbers, seed)

    decided = fingerprint(run.signature, module_fingerprint(prior.net))
    with locked(cache(config)):
        return true.imagined(sample, decided, source, cache(config))


def cache(config: Config) -> Path:
    """Where what is computed once from frozen nets is kept: embeddings, statistics of real images."""
    return Path(config["paths"]["outputs"]) / "cache"


def stage(config: Config, source: ImageTextData) -> Stage:
    """The LightningModule of a run, untrained."""
    clip = upstream_clip(config, source) if config.get("clip") else None
    made = net(config, source, clip)
    known: dict[str, Any] = {"captions": source.captions}
    if isinstance(made, CLIP):
        known["tokenizer"] = made.tokenizer
    if config.get("discriminator"):
        torch.manual_seed(key(config["seed"], "initial weights of the discriminator"))
        known["discriminator"] = make(config["discriminator"], image_channels=source.image_channels)
    known["latents"] = latents(config, source, encoded=True)
    known["embeddings"] = None
    if clip is not None:
        known["embeddings"] = embeddings(config, clip, source)
        known["caption_ids"] = source.split("train").caption_ids
        if config.get("prior"):
            known["embeddings"] = prior_samples(config, clip, source, known["embeddings"])
    return module(config, made, **known)


def module(config: Config, net: nn.Module, **known: Any) -> Stage:
    """The LightningModule of a configuration around a net, with the objects its groups describe."""
    groups = ("optim", "schedule", "objective", "weighting", "times", "sampler", "corruption", "perceptual")
    parts = {group: part(config[group]) for group in groups if config.get(group) is not None}
    if hasattr(net, "schedule"):
        parts["schedule"] = net.schedule
    settings = {k: v for k, v in config["stage"].items() if k != "name"}
    if config.get("checkpointing"):
        checkpoint_blocks(net)
    return make(settings, net=net, seed=config["seed"], **parts, **_wanted(settings, known))
