"""YAML files of the user's own that lack what a group has, or hold something else: named before any rule is asked."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.config.tree import OWN_FOLDER

MADE = "must be a _target_ and the keys that it takes"
SAMPLER = "_target_: unclip.sampling.Sampler\nfunction:\n  _target_: unclip.diffusion.sample.ddim\n"
STAGE = "# @package _global_\ndefaults:\n  - decoder\n  - _self_\n"
WRONG = {  # what is in a file mine.yaml of the group, and the one line it gets
    "a list": ("model", "- 1\n- 2\n", "model = [1, 2]: must be"),
    "a word": ("sampler", "# @package _global_\nsampler: ddim\n", f"sampler = ddim: {MADE} | null"),
    "no target": ("model", "channels: 32\nmultipliers: [1, 2]\n", f"model: {MADE}"),
    "no target for the sampler": ("sampler", "steps: 20\n", f"sampler: {MADE} | null"),
    "no mapping of callbacks": (
        "callbacks",
        "# @package _global_\ncallbacks: [1]\n",
        f"callbacks = [1]: must be names, each with ({MADE[8:]} | null) | null",
    ),
    "no callback": ("callbacks", "ema: 3\n", f"callbacks.ema = 3: {MADE} | null"),
    "no function": (
        "sampler",
        "_target_: unclip.sampling.Sampler\nsteps: 20\n",
        "sampler.function: is not set; give sampler.function=VALUE, or write it into the YAML file",
    ),
    "a number for a function": (
        "sampler",
        "_target_: unclip.sampling.Sampler\nfunction: 3\n",
        f"sampler.function = 3: {MADE}",
    ),
    "a table for a schedule": (
        "schedule",
        "_target_: unclip.diffusion.modifiers.ZeroTerminalSnr\nschedule: [0.1, 0.2]\n",
        f"schedule.schedule = [0.1, 0.2]: {MADE}",
    ),
    "no lr": (
        "optim",
        "_target_: unclip.lit.optim.adamw\n",
        "optim.lr: is not set; give optim.lr=VALUE, or write it into the YAML file",
    ),
    "a target from nowhere": (
        "objective",
        "_target_: no_such_package.Objective\n",
        "objective._target_ = no_such_package.Objective: names nothing that could be imported from here",
    ),
    "a target without a name": (
        "objective",
        "_target_: null\n",
        "objective._target_: must be the dotted name of a class or function",
    ),
    "a default that breaks a rule": (
        "sampler",
        f"{SAMPLER}",
        "sampler.steps = 50: the table has schedule.T = 40 steps: use fewer",
    ),
    "a stage without a name": (
        "stage",
        "# @package _global_\nstage:\n  _target_: unclip.lit.decoder.DecoderModule\n",
        "stage.name: is not set; give stage.name=VALUE, or write it into the YAML file",
    ),
    "a stage that is a word": ("stage", "# @package _global_\nstage: decoder\n", f"stage = decoder: {MADE}"),
    "a stage without a stage": (
        "stage",
        "# @package _global_\nguidance: 1\n",
        "stage: is not set; possible: autoencoder, classifier, clip",
    ),
    "a stage without a net": (
        "stage",
        "# @package _global_\nstage: {name: decoder}\n",
        "model: is not set; possible: autoencoder/base",
    ),
}


def _own(group: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / group / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    monkeypatch.setenv(OWN_FOLDER, str(tmp_path))


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_file_of_ones_own_that_lacks_its_shape_is_named_with_what_belongs_there(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, content, line = WRONG[case]
    _own(group, content, tmp_path, monkeypatch)
    asked = ["stage=mine"] if group == "stage" else ["stage=decoder", f"{group}=mine"]
    with pytest.raises(Problems) as error:
        compose("train", [*asked, *(["schedule.T=40"] if "default" in case else [])])
    lines = list(map(str, error.value.problems))
    assert any(found.startswith(line) for found in lines), lines


def test_a_search_without_a_space_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _own(
        "search",
        "# @package _global_\nobjectives: [{metric: fd, direction: minimize}]\n",
        tmp_path,
        monkeypatch,
    )
    with pytest.raises(Problems, match="space: is not set; give space=VALUE"):
        compose("search", ["search=mine"])


@pytest.mark.parametrize("group", ["data", "trainer", "optim", "model"])
def test_a_group_left_out_is_named_with_its_options(group: str) -> None:
    with pytest.raises(Problems, match=f"{group}: is not set; possible: "):
        compose("train", ["stage=decoder", f"~{group}"])


def test_a_net_of_ones_own_is_not_held_to_the_rules_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has levels, and nothing else that the rule of U-Nets asks for."""
    (tmp_path / "own_nets_of_a_test.py").write_text(
        "class Net:\n    def __init__(self, multipliers, embedding_dim=1): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    content = "_target_: own_nets_of_a_test.Net\nmultipliers: [1, 2]\n"
    _own("model/decoder", content, tmp_path, monkeypatch)
    config = compose("train", ["stage=decoder", "model=decoder/mine"]).config
    assert config["model"]["multipliers"] == [1, 2]


OWN_LOGGERS = """\
class Base:
    def __init__(self, project): ...


class Closed(Base):
    pass


class Open(Base):
    def __init__(self, name="", **kwargs): ...


class OfUnknown(elsewhere.Base):
    pass
"""


@pytest.mark.parametrize(("name", "takes"), [("Closed", False), ("Open", True), ("OfUnknown", True)])
def test_what_a_target_of_another_package_passes_on_cannot_be_checked(
    name: str, takes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_loggers_of_a_test.py").write_text(OWN_LOGGERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    _own("logger", f"mine:\n  _target_: own_loggers_of_a_test.{name}\n  entity: us\n", tmp_path, monkeypatch)
    with nullcontext() if takes else pytest.raises(Problems, match="takes no such parameter"):
        compose("train", ["stage=clip", "logger=mine"])


def test_what_wandb_takes_beyond_lightnings_own_parameters_can_be_given() -> None:
    config = compose("train", ["stage=clip", "+logger.wandb.entity=us"]).config
    assert config["logger"]["wandb"]["entity"] == "us"
