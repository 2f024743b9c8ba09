"""What training a stage takes, counted on tensors that hold nothing: parameters, FLOP, bytes of activations, blocks.
Nets of any size fit; nothing is timed. What it comes to on so many GPUs is plan.py's.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from unclip import build
from unclip.bench.measure import counter
from unclip.config.compose import compose
from unclip.nets.blocks import blocks
from unclip.nets.clip import PADDING

Config = dict[str, Any]
ALWAYS = ("data=synthetic", "data.channels=3", "callbacks=training", "compile=false")


def measure(request: Config) -> Config:
    """{stage: counts} of the stages that a plan is asked for."""
    known = {"vocabulary": request["vocabulary"], "context_length": request["context"], "num_classes": 2}
    found: Config = {}
    for name, stage in request["stages"].items():
        config = compose("train", [*ALWAYS, *stage["train"]]).config
        clip = found.get("clip", {})
        known |= {"embedding_dim": clip.get("embedding"), "token_width": clip.get("token_width")}
        found[name] = counts(config, known)
    return found


def counts(config: Config, known: Config) -> Config:
    """Of one stage, each for a sample where nothing else is said; activations under autocast to bfloat16.

    flop and forward_flop: of a step, and of its forward pass. recomputed: of the activations what is kept where each
    block is computed again in the backward pass. largest, rest: parameters of the largest block that is
    gathered at once, and of what is in none. values: of x0. Raises ValueError for a stage that is not of unCLIP.
    """
    if (stage := config["stage"]["name"]) not in FORWARD:
        raise ValueError(f"stage = {stage}: a plan is of {', '.join(FORWARD)}")
    with FakeTensorMode():
        net = made(config, known)
        one, two = (step(config, net, known, samples) for samples in (1, 2))
    parameters = {p: p.numel() for p in net.parameters()}
    units = [sum(p.numel() for p in block.parameters()) for block in blocks(net)]
    size = config["data"]["image_size"]
    found = {
        "stage": stage,
        "parameters": sum(parameters.values()),
        "largest": max(units, default=0),
        "rest": sum(parameters.values()) - sum(units),
        "flop": two["flop"] - one["flop"],
        "forward_flop": two["forward_flop"] - one["forward_flop"],
        "activations": two["activations"] - one["activations"],
        "recomputed": two["recomputed"] - one["recomputed"],
        "image_size": size,
        "values": known["embedding_dim"] if stage == "prior" else 3 * size**2,
    }
    if stage == "clip":
        found |= {"embedding": net.embedding_dim, "token_width": net.token_width}
        found["image_flop"] = two["image_flop"] - one["image_flop"]
    return found


def made(config: Config, known: Config) -> Any:
    """The untrained net."""
    size = {"image_size": config["data"]["image_size"], "image_channels": 3}
    return build.make(config["model"], **build._wanted(config["model"], {**known, **size}))


def step(config: Config, net: Any, known: Config, samples: int) -> Config:
    """FLOP and bytes of a forward and a backward pass over so many samples."""
    stage, kept = config["stage"]["name"], Kept(net)
    with counter() as counted:
        with torch.autocast("cpu", torch.bfloat16), kept:
            out = FORWARD[stage](config, net, known, samples)
        forward_flop = counted.get_total_flops()
        torch.stack([x.float().sum() for x in out]).sum().backward()
    found = {"flop": counted.get_total_flops(), "forward_flop": forward_flop, **kept.bytes}
    if stage == "clip":
        with counter() as counted, torch.no_grad():
            net.encode_image(_images(config, samples))
        found["image_flop"] = counted.get_total_flops()
    return found


class Kept:
    """Inside, what a forward pass keeps for the backward pass; afterwards `bytes` of it: all the activations, and what
    is left of them where blocks are computed again, their inputs and the insides of the largest."""

    def __init__(self, net: nn.Module):
        self.own = {p.untyped_storage()._cdata for p in net.parameters()}
        self.blocks, self.inside = list(blocks(net)), [0]
        self.kept: dict[int, tuple[int, Tensor]] = {}  # storage -> block (0: none), a tensor of it
        self.entered: dict[int, Tensor] = {}

    def __enter__(self) -> Kept:
        self.hooks = saved_tensors_hooks(self._keep, lambda x: x)
        self.hooks.__enter__()
        self.handles = []
        for number, block in enumerate(self.blocks, 1):
            self.handles.append(block.register_forward_pre_hook(partial(self._enter, number)))
            self.handles.append(block.register_forward_hook(lambda *_: self.inside.pop() and None))
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)
        for handle in self.handles:
            handle.remove()

    @property
    def bytes(self) -> dict[str, int]:
        by_block = Counter({0: 0})
        for block, x in self.kept.values():
            by_block[block] += x.untyped_storage().nbytes()
        everything, outside = by_block.total(), by_block.pop(0)
        inputs = sum(x.untyped_storage().nbytes() for x in self.entered.values())
        recomputed = outside + inputs + max(by_block.values(), default=0)
        return {"activations": everything, "recomputed": recomputed}

    def _enter(self, number: int, block: nn.Module, given: tuple[Any, ...]) -> None:
        self.inside.append(number)
        for x in given:
            if isinstance(x, Tensor) and x.requires_grad:
                self.entered[x.untyped_storage()._cdata] = x

    def _keep(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()._cdata
        if storage not in self.own:
            self.kept.setdefault(storage, (self.inside[-1], x))
        return x


def _images(config: Config, n: int) -> Tensor:
    return torch.zeros(n, 3, config["data"]["image_size"], config["data"]["image_size"])


def _clip(config: Config, net: Any, known: Config, n: int) -> list[Tensor]:
    """Every caption another."""
    ids = torch.full((n, known["context_length"]), PADDING + 1)
    return [net.encode_image(_images(config, n)), net.encode_text(ids).embedding]


def _prior(config: Config, net: nn.Module, known: Config, n: int) -> list[Tensor]:
    text = {"text_embedding": torch.zeros(n, known["embedding_dim"]), "keep_text": _all(n)}
    return [net(torch.zeros(n, known["embedding_dim"]), torch.zeros(n), text | _tokens(known, n))]


def _decoder(config: Config, net: Any, known: Config, n: int) -> list[Tensor]:
    told = {"embedding": torch.zeros(n, known["embedding_dim"]), "keep_embedding": _all(n)}
    told |= {**_tokens(known, n), "keep_tokens": _all(n)}
    return [net(_images(config, n), torch.zeros(n), told)]


def _upsampler(config: Config, net: nn.Module, known: Config, n: int) -> list[Tensor]:
    side = round(config["stage"]["crop"] * config["data"]["image_size"])
    x = torch.zeros(n, 3, side, side)
    return [net(x, torch.zeros(n), {"low": x, "strength": torch.zeros(n)})]


def _tokens(known: Config, n: int) -> dict[str, Tensor]:
    tokens = torch.zeros(n, known["context_length"], known["token_width"])
    return {"tokens": tokens, "token_mask": torch.ones(tokens.shape[:2], dtype=torch.bool)}


def _all(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.bool)


FORWARD = {"clip": _clip, "prior": _prior, "decoder": _decoder, "upsampler": _upsampler}
