"""What a configuration that somebody else wrote may call: parts of this package, torch and lightning that do no more
than compute; what one's own configuration names besides goes on working."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from unclip import build
from unclip.config import trust
from unclip.config.compose import compose, config_folder, options
from unclip.config.problems import Failure
from unclip.config.tree import OWN_FOLDER


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trust.ALLOW, "")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "pathlib.Path.write_text",
        "torch.os.system",
        "torch.load",
        "torch.hub.load",
        "torch.nn.functional.warnings.warn",
        "torch.utils.collect_env.run",
        "lightning.pytorch.cli.LightningCLI",
        "unclip.build.make",
        "unclip.files.write_text",
        "unclip.files.os.system",
        "unclip.data.cache.save_tensors",
        "unclip.data.cache.sys.exit",
        "unclip.data.places.subprocess.run",
        "unclip.nets.clip.CLIP.__class__",
        "unclip.nets.clip.CLIP.forward.__globals__.get",
        "unclip.runs.process.run_child",
        "hydra.utils.instantiate",
        "my_nets.Net",
        "${oc.env:HOME}",
        "",
    ],
)
def test_what_could_do_more_than_compute_is_refused_and_not_called(target: str, tmp_path: Path) -> None:
    node = {"_target_": target, "path": str(tmp_path / "x"), "text": "x", "command": "touch x"}
    for call in (build.make, build.part):
        with pytest.raises(Failure, match="is not of this package, torch or lightning"):
            call(node)
    with pytest.raises(Failure):
        build.part({"_target_": "torch.nn.Sequential", "_args_": [{"deeper": [node]}]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3},
        {"_target_": "torch.nn.SiLU"},
        {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"},
        {"_target_": "unclip.callbacks.ema.EMA", "decay": 0.9},
        {"_target_": "unclip.diffusion.schedule.Cosine"},
        {"_target_": "unclip.sampling.Sampler", "_partial_": True},
    ],
)
def test_ordinary_parts_are_made(node: dict[str, Any]) -> None:
    assert build.part(node) is not None


OWN = "class Net:\n    def __init__(self, width=1):\n        self.width = width\n"


def test_ones_own_modules_work_where_the_command_the_tree_or_the_environment_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "my_own_nets.Net", "width": 3}
    with pytest.raises(Failure, match=r"_target_ = my_own_nets\.Net: .*UNCLIP_ALLOW=my_own_nets"):
        build.part(node)
    assert "my_own_nets" not in sys.modules, "not even imported"

    monkeypatch.setenv(trust.ALLOW, "other, my_own_nets")
    assert build.part(node).width == 3

    monkeypatch.setenv(trust.ALLOW, "")
    compose("train", ["stage=clip", "model._target_=my_own_nets.Net", *(f"~model.{k}" for k in CLIP_KEYS)])
    assert os.environ[trust.ALLOW] == "my_own_nets.Net", "for children too"
    assert build.part(node).width == 3

    monkeypatch.setenv(trust.ALLOW, "")
    tree = tmp_path / "mine" / "model"
    tree.mkdir(parents=True)
    (tree / "own.yaml").write_text("_target_: my_own_nets.Net\n")
    monkeypatch.setenv(OWN_FOLDER, str(tmp_path / "mine"))
    compose("sample", ["run=outputs/demo"])
    assert build.part(node).width == 3


def test_a_run_that_lies_in_the_folder_of_ones_own_configuration_is_not_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, target in {
        "outputs/theirs/config": "theirs.Net",
        "model/own": "mine.Net",
        "train": "mine.Data",
    }.items():
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"model:\n  _target_: {target}\n")
    trust.allow_files(tmp_path)
    assert os.environ[trust.ALLOW] == "mine.Data,mine.Net"


CLIP_KEYS = [key for key in compose("train", ["stage=clip"]).config["model"] if key != "_target_"]


GROUPS = (
    *("data", "tokenizer", "trainer", "optim", "schedule", "objective", "weighting", "times", "sampler"),
    *("corruption", "perceptual", "discriminator", "model", "logger", "callbacks", "stage"),
)


@pytest.mark.parametrize("group", GROUPS)
def test_whatever_this_package_has_a_run_made_of_may_be_called_in_anybodys_configuration(group: str) -> None:
    for option in options(group):
        trust.check(yaml.safe_load((config_folder() / group / f"{option}.yaml").read_text()))


def test_what_ones_own_request_names_besides_may_be_called_once_it_is_composed() -> None:
    config = compose("manipulate", ["manipulation=pca", "run=x"]).config
    trust.check(config)
    os.environ[trust.ALLOW] = ""
    with pytest.raises(Failure, match="PrincipalComponents"):
        trust.check(config)
