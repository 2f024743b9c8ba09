"""What must divide what: in a network, for pictures of its size, and in a batch. Part of rules.py; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from unclip.config.problems import Problem

Config = dict[str, Any]


def nets(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    """Heads and widths, patches and pictures, levels and channels, of any stage's network."""
    model, size = config["model"], config["data"].get("image_size")
    heads, width, patch = model.get("heads"), model.get("width"), model.get("patch")
    if heads and width and width % heads:
        yield Problem(
            "model.heads", heads, f"must divide model.width = {width}; possible: {_divisors(width)}"
        )
    if patch and size and size % patch:
        yield Problem(
            "model.patch", patch, f"must divide data.image_size = {size}; possible: {_divisors(size)}"
        )
    if "multipliers" in model:
        yield from _unet(model, None if config.get("autoencoder") else size)  # of latents: see latent_grid


def _unet(model: Config, size: int | None) -> Iterator[Problem]:
    levels, channels = len(model["multipliers"]), model["channels"]
    if min(model["multipliers"], default=0) < 1:
        yield Problem(
            "model.multipliers", model["multipliers"], "must have one or more levels, each of 1 or more"
        )
        return
    each = "head_channels" if model.get("head_channels") else "heads"  # either must divide a level's channels
    heads = model.get(each, 1)
    factor = model["unshuffle"] * 2 ** (levels - 1)
    if size and size % factor:
        halved = f"the U-Net halves it {levels - 1} times after pixel-unshuffle {model['unshuffle']}"
        why = f"{halved}: use a multiple of {factor}"
        yield Problem("data.image_size", size, why)
    for level in model.get("attention", ()):
        if not 0 <= level < levels:
            yield Problem(
                "model.attention", model["attention"], f"has level {level}; possible: 0 to {levels - 1}"
            )
        elif channels * model["multipliers"][level] % heads:
            width = channels * model["multipliers"][level]
            why = f"must divide the {width} channels of level {level}; possible: {_divisors(width)}"
            yield Problem(f"model.{each}", heads, why)
    if model.get("middle_attention") and channels * model["multipliers"][-1] % heads:
        width = channels * model["multipliers"][-1]
        yield Problem(
            f"model.{each}", heads, f"must divide the middle's {width} channels; possible: {_divisors(width)}"
        )
    if model.get("caption_layers") and model["cond_width"] % model["heads"]:
        why = f"must divide model.cond_width = {model['cond_width']}, the caption encoder's width"
        yield Problem("model.heads", model["heads"], why)
    if channels % model["groups"]:
        yield Problem(
            "model.groups",
            model["groups"],
            f"must divide model.channels = {channels}; possible: {_divisors(channels)}",
        )
    if model.get("conditioning") == "caption_only" and not model.get("caption_layers"):
        yield Problem(
            "model.caption_layers", 0, "model.conditioning = caption_only needs the caption: 1 or more"
        )


def upsampler(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    """A factor that divides the size, a crop that the U-Net can halve, and no guidance."""
    if choices["stage"] != "upsampler":
        return
    size, model, crop = config["data"]["image_size"], config["model"], config["stage"]["crop"]
    factor, side = model["factor"], round(crop * size)
    multiple = math.lcm(factor, model["unshuffle"] * 2 ** (len(model["multipliers"]) - 1))
    if factor in (2, 4) and size % factor:
        why = f"must divide data.image_size = {size}; possible: {', '.join(str(f) for f in (2, 4) if size % f == 0)}"
        yield Problem("model.factor", factor, why)
    elif factor in (2, 4) and (side % multiple or not side):
        sides = range(multiple, size + 1, multiple)
        shares = ", ".join(f"{s / size:.4g}" for s in sides if size % s == 0)
        why = f"is {side} of {size} pixels, which must be a multiple of {multiple}; possible: {shares}"
        yield Problem("stage.crop", crop, why)
    if config["guidance"] != 1:
        why = "an upsampler is told nothing that guidance could leave out: 1"
        yield Problem("guidance", config["guidance"], why)


def latent_grid(model: Config, image_size: int | None, factor: int) -> Iterator[Problem]:
    """Whether a decoder's U-Net can halve an autoencoder's grid of latents as often as it would."""
    if not image_size or "multipliers" not in model:
        return
    side, halvings = image_size // factor, len(model["multipliers"]) - 1
    if side % (model["unshuffle"] * 2**halvings):
        halved = f"the U-Net halves it {halvings} times after pixel-unshuffle {model['unshuffle']}"
        why = f"makes {side}x{side} latents of {image_size} pixels, and {halved}"
        yield Problem(
            "autoencoder", f"factor {factor}", f"{why}: model.unshuffle=1, or fewer model.multipliers"
        )


def autoencoder(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    """What belongs to the stage, what fits its net, and what a decoder in its latents cannot have."""
    stage, model, size = choices["stage"], config["model"], config["data"].get("image_size")
    for group in ("perceptual", "discriminator"):
        if config.get(group) and stage != "autoencoder":
            yield Problem(group, choices.get(group), f"is a part of stage=autoencoder, this is stage {stage}")
    if stage == "autoencoder":
        factor, unshuffle = model["factor"], model["unshuffle"]
        if size and size % factor:
            yield Problem("model.factor", factor, f"must divide data.image_size = {size}")
        if unshuffle not in (1, 2, 4, 8) or unshuffle > factor:
            possible = ", ".join(str(n) for n in (1, 2, 4, 8) if n <= factor)
            yield Problem("model.unshuffle", unshuffle, f"must divide model.factor; possible: {possible}")
        for name in ("channels", "max_channels"):
            if model[name] % model["groups"]:
                yield Problem("model.groups", model["groups"], f"must divide model.{name} = {model[name]}")
    if not config.get("autoencoder"):
        return
    if config["autoencoder"] == "random":
        why = "has learned nothing that pictures could be made of; possible: auto, or a run of stage=autoencoder"
        yield Problem("autoencoder", "random", why)
    if config.get("clip_x0") not in (None, base.get("clip_x0")):
        why = "is a range of pixels, and with an autoencoder x0 is a latent: leave it out"
        yield Problem("clip_x0", config["clip_x0"], why)
    if (config.get("sampler") or {}).get("thresholding") is not None:
        why = "is of pixels, and with an autoencoder x0 is a latent: leave it out"
        yield Problem("sampler.thresholding", config["sampler"]["thresholding"], why)


def batches(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    """A global batch over devices and pieces, and an end of training."""
    trainer, batch = config["trainer"], config["data"]["batch_size"]
    devices = trainer["devices"]
    for key in ("num_nodes", "accumulate_grad_batches"):
        if trainer[key] < 1:
            yield Problem(f"trainer.{key}", trainer[key], "must be 1 or more")
            return
    pieces, ranks = trainer["accumulate_grad_batches"], trainer["num_nodes"]
    ranks *= devices if isinstance(devices, int) and devices > 0 else 1
    if batch % (ranks * pieces):
        of = f"the {ranks} devices" + (f" x {pieces} pieces" if pieces > 1 else "")
        yield Problem("data.batch_size", batch, f"is global and must be divisible by {of}")
    for key, other in (("max_steps", "max_epochs"), ("max_epochs", "max_steps")):
        if trainer[key] not in (None, -1) and trainer[key] < 1:
            why = f"must be 1 or more, or -1 where trainer.{other} says the end"
            yield Problem(f"trainer.{key}", trainer[key], why)
    if trainer["max_steps"] == -1 and trainer["max_epochs"] in (None, -1):
        yield Problem("trainer.max_steps", -1, "no end is set: give trainer.max_steps or trainer.max_epochs")


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
