"""Finished runs as a model that samples: from a results folder, a decoder's run, or runs named one by one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from unclip import build
from unclip.config.problems import Problem, Problems
from unclip.data.module import ImageTextData
from unclip.data.tokenizer import ByteTokenizer
from unclip.generate import UnCLIP
from unclip.lit.base import DiffusionStage
from unclip.runs.store import Run
from unclip.runs.upstream import STAGES, only


@dataclass(frozen=True)
class Trained:
    """A model, the data it was trained on, and the runs it consists of."""

    model: UnCLIP
    data: ImageTextData
    runs: dict[str, Run]


def runs_of(request: dict[str, Any]) -> dict[str, Run]:
    """The run of each stage that a request names. Raises Problems where one is missing or they do not fit together."""
    outputs, named = request["paths"]["outputs"], {s: request[s] for s in STAGES if request.get(s)}
    if reference := request.get("run"):
        named = {**_recorded(reference, outputs), **named}
    if "decoder" not in named:
        raise Problems([Problem("run", reference, "names no decoder; give a results folder, or decoder= and prior=")])
    runs = {"decoder": only(named["decoder"], outputs)}
    if "prior" not in named:
        why = "a decoder's run does not name its prior: give prior=<signature>, or the results folder of `unclip run`"
        raise Problems([Problem("prior", None, why)])
    runs["prior"] = only(named["prior"], outputs)
    clips = {stage: named["clip"] if "clip" in named else runs[stage].config["clip"] for stage in ("decoder", "prior")}
    trained_on = {stage: runs[stage].config["clip"] for stage in ("decoder", "prior")}
    if trained_on["decoder"] != trained_on["prior"]:
        why = f"was trained on CLIP {trained_on['prior']}, the decoder on {trained_on['decoder']}: they must share one"
        raise Problems([Problem("prior", named["prior"], why)])
    runs["clip"] = only(clips["decoder"], outputs)
    return {stage: runs[stage] for stage in STAGES}


def _recorded(reference: str, outputs: str) -> dict[str, str]:
    for name in ("pipeline.json", "request.json"):
        path = Path(reference) / name
        if path.is_file():
            return {s: r["folder"] for s, r in json.loads(path.read_text(encoding="utf-8"))["stages"].items()}
    run = only(reference, outputs)
    stage = run.config["stage"]["name"]
    if stage != "decoder":
        raise Problems([Problem("run", reference, f"is a run of stage {stage}; sampling starts from a decoder")])
    return {"decoder": str(run.folder)}


def load(request: dict[str, Any]) -> Trained:
    """The model that a request of `sample` or `evaluate` names, with its sampling settings, on its device."""
    runs = runs_of(request)
    source = build.data(runs["decoder"].config)
    device = _device(request["accelerator"])
    clip = build.trained_net(runs["clip"], source).to(device)
    prior = _stage(runs["prior"], source, clip).to(device)
    decoder = _stage(runs["decoder"], source, clip).to(device)
    chosen = instantiate(request["sampler"]) if request.get("sampler") else decoder.sampler
    sampler = chosen.but(guidance=request.get("guidance"))
    if request.get("sampler") and request.get("guidance") is None:
        sampler = chosen.but(guidance=decoder.sampler.guidance)
    model = UnCLIP(clip, prior, decoder, ByteTokenizer(), sampler, request.get("rerank"), request["batch_size"])
    return Trained(model, source, runs)


def _stage(run: Run, source: ImageTextData, clip: torch.nn.Module) -> Any:
    net = build.trained_net(run, source, clip)
    module = build.module(run.config, net=net, embeddings=None)
    assert isinstance(module, DiffusionStage)
    return module.eval()


def _device(accelerator: str) -> torch.device:
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise Problems([Problem("accelerator", "gpu", "this machine has no CUDA GPU; possible: auto, cpu")])
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
