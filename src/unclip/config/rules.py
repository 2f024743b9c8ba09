"""Rules between keys of a training configuration, and between it and this machine. Imports no torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

from unclip.config import divisions, targets
from unclip.config.problems import Problem

Config = dict[str, Any]
STRATEGIES = re.compile(
    "auto|single_device|ddp(_spawn|_fork|_notebook)?(_find_unused_parameters_(true|false))?"
)


def _not_of_this_stage(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    stage = choices["stage"]
    for group in ("schedule", "objective", "weighting", "times", "sampler", "corruption"):
        own, given = base.get(group), config.get(group)
        if own is None and given is not None:
            yield Problem(group, choices.get(group), f"stage {stage} has no {group}: leave it out")
        elif own is not None and given is None:
            yield Problem(group, "null", f"stage {stage} needs one")
        elif group == "objective" and own and given and _of_another_stage(own, given):
            yield Problem(
                group, choices.get(group), f"is not an objective of stage {stage}, whose own is {_name(own)}"
            )
    own, given = base.get("model", {}), config.get("model")
    here = str(choices.get("model")).startswith(f"{stage}/")  # the stage's other nets may be in other modules
    if isinstance(given, dict) and _module(own) != _module(given) and not here:
        yield Problem(
            "model", choices.get("model"), f"is not a model of stage {stage}; possible: {stage}/..."
        )


def _unconditional(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    """A decoder that takes no embeddings has no CLIP below it, and any other has one."""
    if choices["stage"] != "decoder":
        return
    if (taken := targets.parameters(config["model"]["_target_"])) is None:
        return
    conditional = "embedding_dim" in taken
    if conditional and not config.get("clip"):
        yield Problem(
            "clip", "null", f"model={choices['model']} is told embeddings: auto, a run of one, or random"
        )
    elif not conditional and config.get("clip"):
        yield Problem("clip", config["clip"], f"model={choices['model']} is unconditional: clip=null")


def _published_clip(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    if str(config.get("clip")).startswith("open_clip") and choices.get("tokenizer") != "bytes":
        why = f"clip={config['clip']} brings a tokenizer of its own: leave it out"
        yield Problem("tokenizer", choices.get("tokenizer"), why)


def _judge(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    """Said before hours of training below the decoder, not by the extractor when its turn comes."""
    extractor, measures = config.get("extractor"), (config.get("callbacks") or {}).get("fid")
    if (
        measures
        and extractor
        and _name(extractor) == "FashionMnistClassifier"
        and config["data"].get("channels") == 3
    ):
        why = "judges grey pictures, these have 3 channels: extractor=random extractor.image_channels=3, or inception"
        yield Problem("extractor", choices.get("extractor"), why)


def _of_another_stage(own: Config, given: Config) -> bool:
    """Objectives of diffusion and of contrast are in modules of their own; somebody's own may be for either."""
    return _module(own) != _module(given) and _module(given).startswith("unclip.")


def _module(node: Config) -> str:
    return str(node.get("_target_")).rpartition(".")[0]


def _name(node: Config) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _prior_samples(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    wanted, prior = config["model"].get("conditioning") == "prior_sample", config.get("prior")
    if wanted and not prior:
        why = "is not set: the one whose samples model.conditioning = prior_sample trains on; auto, or a run of one"
        yield Problem("prior", prior, why)
    elif wanted and prior == "random":
        yield Problem(
            "prior", prior, "has learned nothing to be sampled; possible: auto, or a run of stage=prior"
        )
    if prior and not wanted:
        why = "is what a decoder with model.conditioning=prior_sample is trained on: leave it out"
        yield Problem("prior", prior, why)


def pieces(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    """Losses that are no mean over samples are others where a batch is computed in pieces."""
    pieces, stage = config["trainer"]["accumulate_grad_batches"], config["stage"]
    if pieces <= 1:
        return
    whole = {"clip": "contrasts", "classifier": "normalises by"}.get(choices["stage"])
    if whole:
        why = f"stage {choices['stage']} {whole} a whole batch, which a piece of it does not see: 1"
        yield Problem("trainer.accumulate_grad_batches", pieces, why)
    if config.get("discriminator") and stage["adaptive_weight"]:
        why = (
            "stage.adaptive_weight balances the gradients of a whole batch: 1, or stage.adaptive_weight=false"
        )
        yield Problem("trainer.accumulate_grad_batches", pieces, why)
    if isinstance(config.get("compile"), str) and config["compile"] != "auto":
        how = "replays CUDA graphs, which keep no gradients for the next piece"
        yield Problem(
            "trainer.accumulate_grad_batches",
            pieces,
            f"compile={config['compile']} {how}: 1, or compile=true",
        )


def _strategy(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    strategy = config["trainer"]["strategy"]
    if isinstance(strategy, str) and strategy.startswith(("fsdp", "deepspeed", "model_parallel")):
        why = "leaves checkpoints that no other run could go on from: trainer=fsdp, or ddp"
        yield Problem("trainer.strategy", strategy, why)
    elif not isinstance(strategy, dict) and not STRATEGIES.fullmatch(str(strategy)):
        yield Problem("trainer.strategy", strategy, "no such strategy; possible: auto, ddp; or trainer=fsdp")


def _steps(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    (key, table), sampler = _table(config), config.get("sampler")
    if table and sampler and sampler["steps"] > table["T"]:
        why = f"the table has {key}.T = {table['T']} steps: use fewer"
        yield Problem("sampler.steps", sampler["steps"], why)


def _betas(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    """What a table's constructor, or a sampler at the end of training, would refuse."""
    key, table = _table(config)
    if not table:
        return
    largest = 1000 * max(table["betas"].get(end, 0) for end in ("beta_start", "beta_end"))
    if largest >= table["T"]:
        why = (
            f"betas are rescaled by 1000/T and must stay below 1: T >= {int(largest) + 1}; cosine takes any T"
        )
        yield Problem(f"{key}.T", table["T"], why)
    sampler = config.get("sampler") or {}
    no_signal = _name(config["schedule"]) == "ZeroTerminalSnr" or _name(table["betas"]) == "jsd_betas"
    visited, loss = sampler.get("spacing") in ("trailing", "linspace"), config["stage"].get("loss")
    if no_signal and _name(config["objective"]) == "Eps":
        if loss in ("hybrid", "vlb"):
            why = f"has no x_0 for stage.loss = {loss} at alpha = 0, where the schedule ends: v, x0, flow or edm"
            yield Problem("objective", choices.get("objective"), why)
        elif visited:
            why = "cannot sample where the schedule ends at alpha = 0: objective v, x0, flow or edm, or "
            yield Problem("objective", choices.get("objective"), why + "sampler.spacing=log_snr")


def _learned_schedule(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    schedule, weighting = config.get("schedule"), config.get("weighting")
    if schedule and weighting and _name(schedule) == "Learned" and _name(weighting) != "vlb":
        why = "would let the learned schedule flee to the easy noise levels: weighting=vlb"
        yield Problem("weighting", choices.get("weighting"), why)


def _table(config: Config) -> tuple[str, Config]:
    """The key and node of the schedule's table, below any modifier; an empty node in continuous time."""
    key, node = "schedule", config.get("schedule") or {}
    while "schedule" in node:
        key, node = f"{key}.schedule", node["schedule"]
    return key, node if node.get("T") and "betas" in node else {}


def _thresholding(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    sampler = config.get("sampler") or {}
    if sampler.get("thresholding") is not None and sampler.get("clip") is None:
        why = "brings x0_hat within a range: clip_x0=1 for pixels; embeddings have none"
        yield Problem("sampler.thresholding", sampler["thresholding"], why)


def _likelihood(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    """What losses and distributions of times need that are defined on the steps of a table."""
    schedule, times, loss = config.get("schedule"), config.get("times"), config["stage"].get("loss")
    learned = config["model"].get("learned_variance", False)
    table = bool(_table(config)[1])
    sampler = _name(config["sampler"]) if config.get("sampler") else ""
    if loss == "hybrid" and not learned:
        why = "its variational part trains a variance: model.learned_variance=true"
        yield Problem("stage.loss", loss, why)
    if learned and loss == "simple":
        why = "L_simple leaves the variance untrained: stage.loss=hybrid or vlb"
        yield Problem("model.learned_variance", learned, why)
    if sampler == "LearnedVarianceSampler" and not learned:
        why = "needs a net that predicts it: model.learned_variance=true stage.loss=hybrid"
        yield Problem("sampler", choices.get("sampler"), why)
    if sampler == "AnalyticSampler" and choices["stage"] != "prior":
        why = "has a variance estimated from training embeddings: for stage=prior; possible here: ddpm, ddpm_large"
        yield Problem("sampler", choices.get("sampler"), why)
    if loss in ("hybrid", "vlb") and not table:
        why = f"stage.loss = {loss} is a sum over the steps of a table: a schedule with T"
        yield Problem("schedule", choices.get("schedule"), why)
    if loss in ("hybrid", "vlb") and times and _name(times) == "LogNormal":
        why = f"stage.loss = {loss} needs entries of the table: uniform, stratified, importance"
        yield Problem("times", choices.get("times"), why)
    if loss == "vlb" and times and _name(times) == "LogitNormal":
        why = "stage.loss = vlb is the bound where entries come alike, or are weighted back: "
        yield Problem("times", choices.get("times"), why + "uniform, stratified, importance")
    if loss == "vlb" and _name(config["weighting"]) != "uniform":
        why = "stage.loss = vlb has the bound's own weights: weighting=uniform"
        yield Problem("weighting", choices.get("weighting"), why)
    if times and _name(times) == "Importance" and schedule and not table:
        why = "remembers losses by entry and needs a table: a schedule with T"
        yield Problem("times", choices.get("times"), why)


def _hardware(config: Config, base: Config, choices: dict[str, str]) -> Iterator[Problem]:
    if choices.get("hydra/launcher", "basic") not in ("basic", "local", "joblib", "submitit_local"):
        return  # the job runs elsewhere
    trainer = config["trainer"]
    wants_gpu = trainer["accelerator"] in ("gpu", "cuda")
    if trainer["accelerator"] not in ("auto", "cpu", "gpu", "cuda", "mps"):
        yield Problem("trainer.accelerator", trainer["accelerator"], "possible: auto, cpu, gpu, mps")
    devices = trainer["devices"]
    if wants_gpu and gpus() == 0:
        yield Problem(
            "trainer.accelerator", trainer["accelerator"], "this machine has no CUDA GPU; possible: cpu, auto"
        )
    elif wants_gpu and isinstance(devices, int) and devices > gpus():
        yield Problem(
            "trainer.devices", devices, f"this machine has {_gpu_count()}; possible: 1 to {gpus()}, auto"
        )
    elif trainer["accelerator"] == "auto" and isinstance(devices, int) and devices > max(gpus(), 1):
        fits = f"1 to {gpus()}, auto" if gpus() > 1 else "1, or trainer=ddp_cpu for processes on the CPU"
        yield Problem("trainer.devices", devices, f"this machine has {_gpu_count()}; possible: {fits}")
    if isinstance(devices, int) and devices < 1 and devices != -1:
        yield Problem("trainer.devices", devices, "must be 1 or more, or auto")


RULES = (
    _not_of_this_stage,
    divisions.nets,
    divisions.batches,
    pieces,
    _strategy,
    _steps,
    _betas,
    _thresholding,
    _likelihood,
    _learned_schedule,
    _prior_samples,
    divisions.upsampler,
    divisions.autoencoder,
    _unconditional,
    _published_clip,
    _judge,
    _hardware,
)
"""Each is called with the configuration, the stage's configuration without any override (what that leaves out is not
the stage's), and the chosen options; each yields its problems."""


def _gpu_count() -> str:
    return {0: "no GPU", 1: "one GPU"}.get(gpus(), f"{gpus()} GPUs")


def gpus() -> int:
    """The number of CUDA GPUs that torch will find: of those installed what CUDA_VISIBLE_DEVICES leaves."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return _installed_gpus()
    return min(_installed_gpus(), sum(name.strip() not in ("", "-1") for name in named.split(",")))


@cache
def _installed_gpus() -> int:
    """As the driver's own tool lists them, so that torch need not be imported."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())
