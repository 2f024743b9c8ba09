"""The README is true: its example runs, its commands compose, its table lists the groups there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from unclip.config.compose import check_sweep, compose, config_folder, options
from unclip.runs.pipeline import plan
from unclip.runs.schedules import checked, listed

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("unclip ")]


def test_the_example_samples_its_data() -> None:
    (example,) = blocks("python")
    assert len(example.splitlines()) <= 25
    torch.manual_seed(0)
    names: dict[str, torch.Tensor] = {}
    exec(example, names)
    at_a_corner = ((names["samples"].abs() - 1).abs() < 0.2).all(1)
    assert at_a_corner.float().mean() > 0.85


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_compose(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unclip.config.rules.gpus", lambda: 1)
    _, verb, *arguments = shlex.split(command, comments=True)
    overrides = [a for a in arguments if not a.startswith("-") and a != "job"]
    if "-m" in arguments:
        check_sweep(verb, overrides)
    elif verb == "run":
        chosen = dict(o.split("=", 1) for o in overrides)
        plan(
            chosen.pop("experiment"), [o for o in overrides if not o.startswith(("experiment=", "results="))]
        )
    elif verb == "schedules":
        checked([listed(o) for o in overrides])
    else:
        compose(verb, overrides)


def test_the_table_lists_every_group_and_only_those() -> None:
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    listed = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert listed == groups


def test_the_table_names_every_option_of_the_small_groups() -> None:
    for group in (
        "data",
        "schedule",
        "objective",
        "weighting",
        "times",
        "sampler",
        "trainer",
        "logger",
        "extractor",
    ):
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group}` |"))
        missing = [o for o in options(group) if not re.search(rf"\b{o}\b", row)]
        assert missing in ([], ["base"]), group


def test_pictures_and_files_it_names_exist() -> None:
    root = Path(__file__).parent.parent
    for path in [*re.findall(r"\]\((\w[^)]*)\)", README), "notebooks/quickstart.ipynb", "conf/train.yaml"]:
        assert (root / path).exists(), path
