"""Wrong requests: one message with every problem, exit status 2, no traceback, before torch is imported."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unclip.config import rules
from unclip.config.compose import check_sweep, compose, options
from unclip.config.problems import Problems

Command = Callable[..., subprocess.CompletedProcess[str]]


def problems(*overrides: str) -> dict[str, str]:
    """The problems of a training request: key -> message."""
    with pytest.raises(Problems) as error:
        compose("train", list(overrides))
    return {p.key: str(p) for p in error.value.problems}


WRONG = {
    "unknown key": (["stage=decoder", "model.dropot=0.2"], "model.dropot", ["0.2", "nearest: model.dropout"]),
    "key at the wrong depth": (["stage=decoder", "sampler.eta=1"], "sampler.eta", ["sampler.function.eta"]),
    "unknown option": (
        ["stage=decoder", "schedule=cosin"],
        "schedule",
        ["cosin", "nearest: cosine", "linear"],
    ),
    "unknown stage": (["stage=decodr"], "stage", ["nearest: decoder", "clip", "prior"]),
    "no stage": (["seed=1"], "stage", ["is not set", "clip, decoder, prior"]),
    "wrong type": (["stage=prior", "trainer.max_steps=many"], "trainer.max_steps", ["many", "int"]),
    "float for int": (["stage=prior", "seed=1.5"], "seed", ["1.5", "int"]),
    "schedule for CLIP": (["stage=clip", "schedule=linear"], "schedule", ["stage clip has no schedule"]),
    "contrastive decoder": (
        ["stage=decoder", "objective=infonce"],
        "objective",
        ["not an objective of stage decoder"],
    ),
    "another stage's model": (
        ["stage=decoder", "model=clip/base"],
        "model",
        ["not a model of stage decoder"],
    ),
    "heads and width": (
        ["stage=prior", "model.heads=3"],
        "model.heads",
        ["3", "model.width = 128", "1, 2, 4, 8"],
    ),
    "size to halve": (["stage=decoder", "data.image_size=30"], "data.image_size", ["30", "multiple of 8"]),
    "patch and size": (["stage=clip", "model.patch=5"], "model.patch", ["5", "data.image_size = 32"]),
    "table of one": (["stage=decoder", "schedule.T=1"], "schedule.T", ["T >= 2"]),
    "dropout": (["stage=decoder", "model.dropout=1.5"], "model.dropout", ["1.5", "0 <= dropout < 1"]),
    "steps beyond the table": (
        ["stage=decoder", "schedule.T=10"],
        "sampler.steps",
        ["20", "schedule.T = 10"],
    ),
    "caption without encoder": (
        ["stage=decoder", "model.conditioning=caption_only"],
        "model.caption_layers",
        ["caption_only"],
    ),
    "unknown word": (
        ["stage=decoder", "model.conditioning=text"],
        "model.conditioning",
        ["image_embedding | text_embedding"],
    ),
    "added key": (
        ["stage=decoder", "+model.depth=3"],
        "model.depth",
        ["takes no such parameter", "channels"],
    ),
    "interval upside down": (
        ["stage=decoder", "sampler.guidance_interval=[3,0.2]"],
        "sampler.guidance_interval",
        ["[3, 0.2]", "guidance_interval[0] < guidance_interval[1]"],
    ),
    "half an interval": (
        ["stage=decoder", "sampler.guidance_interval=[3]"],
        "sampler.guidance_interval",
        ["len(guidance_interval) == 2"],
    ),
    "rescale": (["stage=decoder", "sampler.guidance_rescale=2"], "sampler.guidance_rescale", ["<= 1"]),
    "percentile": (["stage=decoder", "sampler.thresholding=99.5"], "sampler.thresholding", ["<= 1"]),
    "thresholds without a range": (
        ["stage=prior", "sampler.thresholding=0.995"],
        "sampler.thresholding",
        ["0.995", "clip_x0=1"],
    ),
    "unreadable": (["stage=decoder", "seed=[1,"], "seed=[1,", ["cannot be read"]),
    "no end": (["stage=prior", "trainer.max_steps=-1"], "trainer.max_steps", ["trainer.max_epochs"]),
    "an end before the first step": (
        ["stage=prior", "trainer.max_steps=0"],
        "trainer.max_steps",
        ["0", "must be 1 or more, or -1 where trainer.max_epochs says the end"],
    ),
    "null": (
        ["stage=decoder", "model.attention=null"],
        "model.attention",
        ["model.attention = null: must be"],
    ),
    "no pieces": (
        ["stage=decoder", "trainer.accumulate_grad_batches=0"],
        "trainer.accumulate_grad_batches",
        ["0", "must be 1 or more"],
    ),
    "no levels": (
        ["stage=upsampler", "model.multipliers=[]"],
        "model.multipliers",
        ["[]", "must have one or more levels, each of 1 or more"],
    ),
    "a pair of one": (
        ["stage=prior", "prior=autoregressive", "stage.percentiles=[0.5]"],
        "stage.percentiles",
        ["[0.5]", "must satisfy"],
    ),
    "added twice": (
        ["stage=decoder", "+optim.lr=1e-3"],
        "optim.lr",
        ["1e-3", "is there already: without the + it is changed"],
    ),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_request_is_named_with_its_key_and_what_is_possible(case: str) -> None:
    overrides, key, words = WRONG[case]
    found = problems(*overrides)
    assert key in found
    for word in words:
        assert word in found[key]


def test_all_problems_come_in_one_message() -> None:
    found = problems(
        "stage=decoder", "schedule=cosin", "model.dropot=0.1", "data.image_size=30", "optim.lr=-1", "seed=x"
    )
    assert set(found) == {"schedule", "model.dropot", "data.image_size", "optim.lr", "seed"}


@pytest.mark.parametrize(
    ("gpus", "overrides", "key", "words"),
    [
        (1, ["trainer=gpu", "trainer.devices=4"], "trainer.devices", ["4", "one GPU"]),
        (0, ["trainer=gpu"], "trainer.accelerator", ["no CUDA GPU", "cpu"]),
        (0, ["trainer.devices=4"], "trainer.devices", ["4", "no GPU", "trainer=ddp_cpu"]),
        (2, ["trainer=ddp", "trainer.devices=3"], "trainer.devices", ["3", "2 GPUs"]),
    ],
)
def test_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, gpus: int, overrides: list[str], key: str, words: list[str]
) -> None:
    monkeypatch.setattr(rules, "gpus", lambda: gpus)
    found = problems("stage=decoder", *overrides, "data.batch_size=12")
    assert all(word in found[key] for word in words)


def test_gpus_that_this_process_may_not_use_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_installed_gpus", lambda: 4)
    for named, count in (("0,3", 2), ("", 0), ("-1", 0), ("0,1,2,3,4", 4)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert rules.gpus() == count
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert rules.gpus() == 4


def test_a_global_batch_must_split_over_the_devices() -> None:
    assert "2 devices" in problems("stage=decoder", "trainer=ddp_cpu", "data.batch_size=7")["data.batch_size"]


def test_every_value_of_a_sweep_is_checked_before_anything_runs() -> None:
    with pytest.raises(Problems) as error:
        check_sweep(
            "train", ["stage=decoder", "schedule=linear,cosne", "objective=eps,v", "model.dropout=0.1,2"]
        )
    assert {p.key for p in error.value.problems} == {"schedule", "model.dropout"}
    check_sweep(
        "train", ["stage=decoder", "schedule=linear,cosine", "seed=range(3)", "optim.lr=interval(1e-4,1e-3)"]
    )


@pytest.mark.parametrize("stage", ["prior", "decoder"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "linear_continuous", "cosine_continuous"])
def test_sound_requests_compose(stage: str, schedule: str) -> None:
    choices = [
        ("objective", ("eps", "x0", "v")),
        ("sampler", ("ddpm", "ddim", "dpmpp_2m")),
        ("logger", ("wandb", "csv", "none")),
    ]
    trainers = ("cpu", "ddp_cpu", "auto")
    for i in range(3):
        picked = [f"{group}={names[i]}" for group, names in choices]
        config = compose(
            "train", [f"stage={stage}", f"schedule={schedule}", f"trainer={trainers[i]}", *picked]
        ).config
        assert config["objective"]["_target_"].endswith(("Eps", "X0", "V")[i])


@pytest.mark.parametrize("name", [n for n in options("experiment") if not n.endswith("/common")])
def test_every_experiment_composes(name: str) -> None:
    part = name.rpartition("/")[2]
    verb = part if part in ("sample", "evaluate") else "train"
    assert compose(verb, [f"experiment={name}"]).experiment == name.rpartition("/")[0]


def test_a_wrong_command_answers_in_time_without_torch(unclip: Command) -> None:
    start = time.monotonic()
    result = unclip("train", "stage=decoder", "schedul=linear", "clip=0123456789")
    assert time.monotonic() - start < 2
    assert result.returncode == 2
    assert "schedul" in result.stderr
    assert "nearest: schedule" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["no verb", "nearest: train"]),
        (["train", "--frobnicate"], ["--frobnicate", "no option"]),
        (
            ["train", "stage=decoder", "clip=0123456789", "model.heads=3", "seed=x"],
            ["clip = 0123456789", "names no run", "auto", "model.heads = 3", "seed = x"],
        ),
        (["run"], ["experiment", "demo"]),
        (["run", "experiment=dmo"], ["dmo", "demo"]),
        (["run", "experiment=demo", "decoder.schedle=linear"], ["decoder: schedle", "nearest: schedule"]),
        (["run", "experiment=demo", "frob=1"], ["frob", "no stage has this key"]),
        (["sample", "run=nowhere"], ["nowhere", "names no run"]),
        (["sample", "run=nowhere", "prompts=[]"], ["prompts"]),
        (["evaluate", "n=1", "run=x"], ["n >= 2"]),
        (["data", "fetch", "fashion_mnst"], ["fashion_mnst", "nearest: fashion_mnist"]),
    ],
)
def test_wrong_commands(unclip: Command, arguments: list[str], words: list[str]) -> None:
    result = unclip(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def test_help_needs_neither_torch_nor_hydra(tmp_path: Path) -> None:
    code = "import sys; from unclip.cli import main; main(['--help']); main(['train', '--help']); "
    code += "sys.exit(len({'torch', 'hydra', 'lightning'} & set(sys.modules)))"
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0
    assert time.monotonic() - start < 1
    assert "unclip train -m" in result.stdout


def test_composing_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; from unclip.runs import train, pipeline; from unclip.config.compose import compose; "
    code += "compose('train', ['stage=decoder']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_cfg_prints_the_configuration_and_config_dir_adds_to_it(unclip: Command, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "model" / "clip"
    mine.mkdir(parents=True)
    (mine / "tiny.yaml").write_text("# Mine.\ndefaults: [/model/clip/base@_here_]\nwidth: 64\nheads: 2\n")
    shown = unclip(
        "train", f"--config-dir={tmp_path / 'mine'}", "stage=clip", "model=clip/tiny", "--cfg", "job"
    )
    assert shown.returncode == 0
    assert "width: 64" in shown.stdout
    wrong = unclip(
        "train", f"--config-dir={tmp_path / 'mine'}", "stage=clip", "model=clip/tiny", "model.heads=3"
    )
    assert "model.width = 64" in wrong.stderr
