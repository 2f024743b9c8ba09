"""The README is true: its example runs, its commands compose, its table lists the groups there are."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
import torch

from unclip.build import part
from unclip.config.compose import check_sweep, compose
from unclip.config.problems import Problems
from unclip.config.tree import OWN_FOLDER, config_folder, options
from unclip.diffusion import Shifted, log_snr, make_grid
from unclip.runs import ablate, manipulate, multirun, report, search, where
from unclip.runs.runs import KEYS
from unclip.runs.schedules import checked, listed
from unclip.runs.whole import planned

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("unclip ")]


def test_the_example_samples_its_data() -> None:
    example = blocks("python")[0]
    assert len(example.splitlines()) <= 25
    torch.manual_seed(0)
    names: dict[str, torch.Tensor] = {}
    exec(example, names)
    at_a_corner = ((names["samples"].abs() - 1).abs() < 0.2).all(1)
    assert at_a_corner.float().mean() > 0.85


def test_its_new_schedule_is_one_class_of_ten_lines_and_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, module = blocks("python")
    (file,) = blocks("yaml")
    assert len(re.findall(r"^(?:class|    ).*$", module, re.MULTILINE)) <= 10
    names = [re.match(r"# (\S+)", text) for text in (module, file)]
    for name, text in zip(names, (module, file), strict=True):
        assert name is not None
        path = tmp_path / name[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(OWN_FOLDER, str(tmp_path / "mine"))
    chosen = compose("train", ["stage=decoder", "schedule=power", "schedule.p=3"]).config["schedule"]
    schedule = part(chosen)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    level = log_snr(schedule, t)
    assert (level.diff() < 0).all()
    torch.testing.assert_close(schedule.t_at(level), t)
    torch.testing.assert_close(schedule(t)[0].square(), 1 - t**3)
    for one in (schedule, Shifted(schedule, 64, 32)):
        assert make_grid(one, 20).alpha.isfinite().all()
    with pytest.raises(Problems, match=r"schedule\.q"):
        compose("train", ["stage=decoder", "schedule=power", "+schedule.q=3"])
    with pytest.raises(Problems, match="must satisfy p > 0"):
        compose("train", ["stage=decoder", "schedule=power", "schedule.p=-1"])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_compose(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unclip.config.rules.gpus", lambda: 1)
    _, verb, *arguments = shlex.split(command, comments=True)
    overrides = [a for a in arguments if not a.startswith("-") and a != "job"]
    if "-m" in arguments and verb == "run":
        multirun.checked([o for o in overrides if not o.startswith("hydra")])
    elif "-m" in arguments:
        check_sweep(verb, overrides)
    elif verb == "run":
        planned(overrides)
    elif verb == "ablate":
        ablate.asked(overrides[0], overrides[1:], [])
    elif verb == "schedules":
        checked([listed(o) for o in overrides])
    elif verb == "evaluate":  # of a swept setting each value: sampler, guidance, steps, ...
        settings = [
            [f"{key}={v}" for v in listed.split(",")] for key, listed in (o.split("=", 1) for o in overrides)
        ]
        for request in itertools.product(*settings):
            compose(verb, list(request))
    elif verb == "manipulate":
        compose(verb, manipulate.overrides(overrides[0], overrides[1:]))
    elif verb == "search":
        search.request(overrides[0], overrides[1:])
    elif verb == "report":
        paths, given = report.request(overrides)
        assert paths
        assert given.keys() <= set(report.KEYS)
    elif verb == "runs":
        given = dict(o.split("=", 1) for o in overrides)
        assert given.keys() <= set(KEYS["list"])
        where.parse(given["where"])
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
