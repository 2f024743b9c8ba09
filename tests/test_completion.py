"""Completion as typed: what follows a line, how fast, and in real shells."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from unclip.completion import LAUNCHERS, SCRIPTS, candidates
from unclip.config.compose import compose, options
from unclip.verbs import VERBS

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unclip tra", ["train"]),
        ("unclip train experiment=flo", ["experiment=flowers/unet"]),
        ("unclip train schedule=linear_", ["schedule=linear_continuous", "schedule=linear_zero_terminal"]),
        ("unclip train -m objective=eps,x", ["objective=eps,x0"]),
        ("unclip train stage=prior model=prior/b", ["model=prior/base"]),
        ("unclip train experiment=demo/clip model=prior/", []),
        ("unclip train schedule=cosine schedule.betas.", ["schedule.betas.s=", "schedule.betas.max_beta="]),
        ("unclip train stage=prior sampler.spacing=k", ["sampler.spacing=karras"]),
        ("unclip train compile=t", ["compile=true"]),
        ("unclip train prior=a", ["prior=autoregressive"]),
        ("unclip train seed=", []),
        ("unclip run experiment=demo decoder.objective=x", ["decoder.objective=x0"]),
        ("unclip run experiment=demo prior.model.dr", ["prior.model.dropout="]),
        ("unclip run experiment=smo", ["experiment=smoke"]),
        ("unclip run experiment=demo evaluate.metrics=fd,ki", ["evaluate.metrics=fd,kid"]),
        ("unclip ablate iddpm", ["iddpm_schedule"]),
        ("unclip ablate iddpm_schedule budget=", ["budget=smoke", "budget=small", "budget=full"]),
        ("unclip search decoder_lr space.lr.lo", ["space.lr.low=", "space.lr.log="]),
        ("unclip manipulate inpaint resam", ["resample="]),
        ("unclip data fetch fash", ["fashion_mnist"]),
        ("unclip schedules compare=cosine,vp", ["compare=cosine,vp"]),
        ("unclip runs clean ol", ["older="]),
        ("unclip report base", ["baseline="]),
        ("unclip completion z", ["zsh"]),
        ("unclip train --con", ["--config-dir="]),
        ("unclip trian ", []),
    ],
)  # fmt: skip
def test_what_a_line_may_become(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_every_verb_and_every_option_of_a_group_is_offered() -> None:
    assert candidates("unclip ")[: len(VERBS)] == list(VERBS)
    for group in ("schedule", "data", "trainer", "callbacks"):
        assert candidates(f"unclip train stage=decoder {group}=") == [f"{group}={o}" for o in options(group)]


def test_keys_offered_are_those_that_compose() -> None:
    """Every key of a request with all its groups chosen is offered, and nothing else."""
    for line in (["stage=clip"], ["experiment=demo/decoder"], ["stage=decoder", "schedule=edm"]):
        config = compose("train", line).config
        for group in ("schedule", "model", "trainer", "stage", "optim"):
            keys = {f"{group}.{key}" for key in config.get(group) or {} if not key.startswith("_")}
            offered = candidates(f"unclip train {' '.join(line)} {group}.")
            if config.get(group):
                assert {key.rstrip("=.") for key in offered} == keys


def test_ones_own_options_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNCLIP_CONFIG_DIR", "")
    own = tmp_path / "mine" / "schedule" / "power.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: my_schedules.Power\np: 2.0\n")
    line = f"unclip train --config-dir={tmp_path}/mine schedule=po"
    assert candidates(line) == ["schedule=power"]
    assert candidates(f"{line}wer schedule.") == ["schedule.p="]
    monkeypatch.setenv("UNCLIP_CONFIG_DIR", "")
    assert candidates(line.replace("--config-dir=", "--config-dir ")) == ["schedule=power"]
    assert candidates("unclip train --config-dir=nowhere see") == ["seed="]
    monkeypatch.chdir(tmp_path)
    assert candidates("unclip train --config-dir m") == ["mine/"]


def test_a_file_of_ones_own_with_an_empty_list_of_defaults_ends_no_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "mine.yaml").write_text("# @package _global_\ndefaults:\nstage: {name: mine}\n")
    monkeypatch.setenv("UNCLIP_CONFIG_DIR", str(tmp_path))
    assert candidates("unclip train stage=mine see") == ["seed="]


def test_paths_follow_where_a_path_may_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outputs" / "demo").mkdir(parents=True)
    (tmp_path / "outputs" / "demo.json").touch()
    monkeypatch.chdir(tmp_path)
    assert candidates("unclip sample run=outputs/d") == ["run=outputs/demo/", "run=outputs/demo.json"]
    assert candidates("unclip report outputs/demo.") == ["outputs/demo.json"]


def test_the_launchers_are_those_of_hydra() -> None:
    classes = Plugins.instance().discover(Launcher)
    assert len(classes) >= len(LAUNCHERS)
    for launcher in LAUNCHERS:
        compose("train", ["stage=clip", f"hydra/launcher={launcher}"])


def test_an_answer_takes_a_tenth_of_a_second_and_neither_hydra_nor_torch() -> None:
    """Of processor time, which a busy machine does not change; the least of several."""
    line = "unclip run experiment=demo decoder.callbacks.fid."
    ask = f"from unclip.cli import main; import sys, json; main(['completion', 'candidates', {line!r}]); "
    ask += "print(json.dumps(sorted({'hydra', 'omegaconf', 'torch', 'rich'} & sys.modules.keys())))"
    seconds = []
    for _ in range(5):
        before = os.times()
        shown = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
        after = os.times()
        seconds.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
        assert json.loads(shown.splitlines()[-1]) == []
    assert min(seconds) < 0.3


TYPED = [
    ("unclip tra\t", ["unclip", "train"]),
    ("unclip train schedule=linear_z\t", ["unclip", "train", "schedule=linear_zero_terminal"]),
    ("unclip train -m schedule=edm,cosine_tr\t", ["unclip", "train", "-m", "schedule=edm,cosine_truncated"]),
    ("unclip train stage=dec\tmodel.heads\t8", ["unclip", "train", "stage=decoder", "model.heads=8"]),
    ("unclip ablate iddpm\tbudget=smo\t", ["unclip", "ablate", "iddpm_schedule", "budget=smoke"]),
    ("unclip train hydra/laun\tsubmitit_s\t", ["unclip", "train", "hydra/launcher=submitit_slurm"]),
]  # fmt: skip
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "--no-rcs", "-i"],
}


@pytest.mark.parametrize("name", START)
def test_words_are_completed_in_a_real_shell(name: str, tmp_path: Path) -> None:
    """Typed with a tab into the shell, and shown by it word by word."""
    if shutil.which(name) is None:
        pytest.skip(f"no {name} on the path: apt-get install {name}")
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(tmp_path)}
    shell = pexpect.spawn(
        START[name][0], START[name][1:], env=env, encoding="utf-8", timeout=60, dimensions=(50, 200)
    )
    try:
        shell.sendline(f"PS1='ready> '; source <(unclip completion {name}); echo loaded-$((6*7))")
        shell.expect("loaded-42")
        for typed, words in TYPED:
            shell.send(typed)
            shell.send("\x01printf '[%s]\\n' \r")  # to the line's beginning: print it instead of running it
            shell.expect(r"\[unclip\]\r+\n((?:\[[^\]]*\]\r+\n)+)")
            assert ["unclip", *re.findall(r"\[([^\]]*)\]", shell.match[1])] == words
    finally:
        shell.close(force=True)


def test_words_are_completed_in_fish(tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish on the path: apt-get install fish")
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for line, expected in (
        ("unclip tra", ["train"]),
        ("unclip train schedule=linear_z", ["schedule=linear_zero_terminal"]),
        ("unclip train stage=decoder model.learned", ["model.learned_variance="]),
        ("unclip ablate iddpm_schedule budget=", ["budget=full", "budget=small", "budget=smoke"]),
    ):
        ask = f"unclip completion fish | source; complete -C '{line}'"
        shown = subprocess.run(["fish", "-c", ask], env=env, capture_output=True, text=True, check=True)
        assert sorted(shown.stdout.split()) == expected


def test_a_script_for_each_shell_and_a_line_for_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    from unclip.cli import WRONG_REQUEST, main

    for name in SCRIPTS:
        assert main(["completion", name]) == 0
        assert "completion candidates" in capsys.readouterr().out
    assert main(["completion", "tcsh"]) == WRONG_REQUEST
    assert "tcsh: is no shell that it knows; possible: bash, zsh, fish" in capsys.readouterr().err
