"""The keys of a configuration that belong to no `_target_`: names, types, ranges, defaults.

A default here, like one in a target's signature, is frozen for ever: it means "as before this option existed", and a
key that equals it does not enter a run's signature. Defaults that may change live in YAML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass
class Train:
    """conf/train.yaml: one training run."""

    stage: Any
    data: Any
    trainer: Any
    optim: Any
    model: Any
    schedule: Any = None
    objective: Any = None
    weighting: Any = None
    times: Any = None
    sampler: Any = None
    logger: Any = None
    callbacks: Any = None
    extractor: Any = None
    paths: Any = None
    clip: str | None = None
    guidance: Annotated[float, "guidance >= 0"] = 1.0
    clip_x0: Annotated[float | None, "clip_x0 > 0"] = None
    seed: Annotated[int, "0 <= seed < 2**32"] = 0
    compile: bool | Literal["auto"] = "auto"
    retry: bool = False


@dataclass
class Generate:
    """conf/sample.yaml and conf/evaluate.yaml: pictures from trained stages, and what they are worth."""

    paths: Any
    run: str | None = None
    clip: str | None = None
    prior: str | None = None
    decoder: str | None = None
    sampler: Any = None
    guidance: Annotated[float | None, "guidance >= 0"] = None
    clip_x0: Annotated[float | None, "clip_x0 > 0"] = None
    rerank: Annotated[int | None, "rerank >= 1"] = None
    prompts: list[str] | None = None
    per_prompt: Annotated[int, "per_prompt >= 1"] = 1
    seed: Annotated[int, "0 <= seed < 2**32"] = 0
    batch_size: Annotated[int, "batch_size >= 1"] = 100
    denoising: Annotated[int, "denoising >= 0"] = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    out: str | None = None
    extractor: Any = None
    n: Annotated[int, "n >= 2"] = 500


@dataclass
class Compare:
    """conf/schedules.yaml: noise schedules side by side."""

    data: Any
    paths: Any
    compare: list[str]
    weightings: list[str]
    objective: Any
    spacings: list[Literal["leading", "trailing", "linspace", "karras", "log_snr"]]
    steps: Annotated[int, "steps >= 1"]
    run: list[str]
    n: Annotated[int, "n >= 1"]
    seed: Annotated[int, "0 <= seed < 2**32"]
    out: str


@dataclass
class Paths:
    """Where things are kept."""

    outputs: str
    data: str
