"""Every configuration file says what it is, names a target that exists, and lists all of its parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from unclip.config import hints, targets
from unclip.config.compose import compose, config_folder, options

FILES = sorted(p for p in config_folder().rglob("*.yaml"))
# What the builder, the job or the caller supplies, by the kind of target.
SUPPLIED = {
    "unclip.nets.clip": {"image_size", "image_channels", "vocabulary", "context_length"},
    "unclip.nets.prior": {"embedding_dim", "token_width", "context_length", "self_conditioning"},
    "unclip.nets.autoregressive": {"embedding_dim", "token_width", "context_length"},
    "unclip.nets.decoder": {"image_size", "image_channels", "embedding_dim", "token_width"},
    "unclip.nets.classifier": {"image_channels", "num_classes"},
    "unclip.nets.flowers": {"image_size", "image_channels"},
    "unclip.nets.upsampler": {"image_size", "image_channels"},
    "unclip.nets.autoencoder": {"image_size", "image_channels"},
    "unclip.nets.discriminator": {"image_channels"},
    "unclip.nets.contrastive": {"image", "text", "caption", "logit_scale"},
    "unclip.lit.optim": {"net", "total_steps"},
    "unclip.lit": {
        "net",
        "optim",
        "schedule",
        "objective",
        "weighting",
        "times",
        "sampler",
        "corruption",
        "embeddings",
        "latents",
        "perceptual",
        "discriminator",
        "seed",
        "tokenizer",
        "captions",
        "caption_ids",
    },
    "unclip.diffusion.schedule": {"T"},
    "unclip.diffusion.weighting": {"log_snr", "objective", "density", "scale"},
    "unclip.diffusion.sample": {"denoise", "x", "grid", "cond", "noise", "callback", "variance"},
    "unclip.data": {"seed"},
    "unclip.data.bpe": {"captions", "saved"},
    "unclip.callbacks": {"folder", "source", "extractor", "cache", "path"},
}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for inner in value.values():
            yield from nodes(inner)


def supplied(target: str) -> set[str]:
    prefixes = [p for p in SUPPLIED if target.startswith(p)]
    return SUPPLIED[max(prefixes, key=len)] if prefixes else set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(config_folder())))
def test_it_opens_with_what_it_is_for(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line != "# @package _global_"]
    assert lines[0].startswith("# ")
    assert lines[0].rstrip().endswith((".", ",", ";")) or lines[1].startswith("# ")


GROUPS = (
    "schedule",
    "objective",
    "weighting",
    "times",
    "sampler",
    "corruption",
    "perceptual",
    "discriminator",
    "optim",
    "data",
    "tokenizer",
    "model",
    "stage",
    "extractor",
)


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g)])
def test_it_lists_every_parameter_of_its_target(group: str, option: str) -> None:
    content = yaml.safe_load((config_folder() / group / f"{option}.yaml").read_text())
    found = list(nodes(content))
    assert found
    for node in found:
        target = node["_target_"]
        taken = targets.parameters(target)
        assert taken is not None, f"{target} names nothing"
        missing = set(taken) - supplied(target) - set(node)
        assert not missing, f"{target}: {missing}"


def test_callbacks_list_every_parameter() -> None:
    for node in nodes(compose("train", ["stage=decoder"]).config["callbacks"]):
        if node["_target_"].startswith("unclip."):
            missing = set(targets.parameters(node["_target_"]) or ()) - supplied(node["_target_"]) - set(node)
            assert not missing, f"{node['_target_']}: {missing}"


class TestTargets:
    """Signatures read from source agree with those of the imported objects."""

    @pytest.mark.parametrize(
        "target",
        [
            "unclip.lit.decoder.DecoderModule",
            "unclip.data.fashion_mnist.FashionMNIST",
            "unclip.data.shapes.Shapes",
            "unclip.sampling.Sampler",
        ],
    )
    def test_names_include_those_of_the_bases(self, target: str) -> None:
        import importlib
        import inspect

        module, name = target.rsplit(".", 1)
        read, real = (
            targets.parameters(target),
            inspect.signature(getattr(importlib.import_module(module), name)),
        )
        assert read is not None
        named = [p.name for p in real.parameters.values() if p.kind is not p.VAR_KEYWORD]
        assert set(named) <= set(read)

    def test_types_and_ranges(self) -> None:
        read = targets.parameters("unclip.nets.decoder.DecoderNet")
        assert read is not None
        assert read["dropout"].check(0.5) is None
        assert read["dropout"].check(1) == "must satisfy 0 <= dropout < 1"
        assert read["dropout"].check("x") == "must be float"
        assert read["channels"].check(True) == "must be int"
        assert read["multipliers"].check([1, 2]) is None
        assert read["multipliers"].check([1, "2"]) is not None
        assert read["conditioning"].check("text") is not None

    @pytest.mark.parametrize(
        ("annotation", "words"),
        [
            ("tuple[float, int]", "a list of 2 (float, int)"),
            ("tuple[int, ...] | None", "a list of int | null"),
            ("Annotated[Sequence[Literal['a', 'b']], 'x']", "a list of (a | b)"),
        ],
    )
    def test_types_of_lists_are_said_in_words(self, annotation: str, words: str) -> None:
        assert hints.described(ast.parse(annotation, mode="eval").body) == words

    def test_a_target_of_another_package_is_followed_to_its_definition(self) -> None:
        read = targets.parameters("lightning.pytorch.Trainer")
        assert read is not None
        assert {"max_steps", "accelerator"} <= read.keys()
        assert targets.parameters("unclip.nets.decoder.NoSuchNet") is None

    def test_only_a_dataclass_has_its_annotated_attributes_as_parameters(self) -> None:
        assert targets.parameters("unclip.diffusion.schedule.Flow") == {}
        assert "kinds" not in (targets.parameters("unclip.data.shapes.Shapes") or {})
        assert "pixels" in (targets.parameters("unclip.data.corruption.GaussianBlur") or {})
