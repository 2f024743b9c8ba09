"""The keys of `unclip bench NAME`, conf/bench_NAME.yaml, with their types and ranges. Read without being imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal


@dataclass
class BenchEvaluation:
    """conf/bench_evaluation.yaml: the Frechet distance beside torchmetrics'."""

    n: Annotated[int | None, "n >= 2"] = None
    features: Annotated[int | None, "features >= 1"] = None
    full: bool = False
    batch: Annotated[int, "batch >= 1"] = 100
    seed: Annotated[int, "0 <= seed < 2**31"] = 0
    rounds: Annotated[int, "rounds >= 1"] = 5
    out: str = "outputs/bench/evaluation"


@dataclass
class BenchPrior:
    """conf/bench_prior.yaml: training a prior from cached embeddings."""

    training: list[str]
    published: str | None = None
    published_batch: Annotated[int, "published_batch >= 1"] = 64
    rounds: Annotated[int, "rounds >= 1"] = 5
    seconds: Annotated[float, "seconds > 0"] = 1.0
    out: str = "outputs/bench/prior"


@dataclass
class BenchData:
    """conf/bench_data.yaml: batches from memory."""

    training: list[str]
    shares: list[str]
    batch: Annotated[int, "batch >= 1"] = 64
    workers: list[int] = field(default_factory=list)
    rounds: Annotated[int, "rounds >= 1"] = 5
    seconds: Annotated[float, "seconds > 0"] = 0.5
    out: str = "outputs/bench/data"


@dataclass
class BenchSampling:
    """conf/bench_sampling.yaml: text to image."""

    training: list[str]
    prior: list[str]
    samplers: list[str]
    few: list[int]
    n: Annotated[int, "n >= 1"] = 8
    timed: Annotated[int, "1 <= timed <= 1000"] = 4
    rounds: Annotated[int, "rounds >= 1"] = 5
    seconds: Annotated[float, "seconds > 0"] = 1.0
    quality: bool | Literal["only"] = False
    run: str = "outputs/demo"
    images: Annotated[int, "images >= 2"] = 500
    seeds: Annotated[list[int], "len(seeds) >= 2"] = field(default_factory=list)
    guidance: Annotated[float, "guidance >= 0"] = 2.0
    out: str = "outputs/bench/sampling"


@dataclass
class BenchSweep:
    """conf/bench_sweep.yaml: what a sweep costs beside its trainings."""

    cells: list[int]
    trained: Annotated[int, "trained >= 1"] = 4
    rounds: Annotated[int, "rounds >= 1"] = 5
    out: str = "outputs/bench/sweep"


@dataclass
class BenchStartup:
    """conf/bench_startup.yaml: commands before they do anything."""

    rounds: Annotated[int, "rounds >= 1"] = 5
    out: str = "outputs/bench/startup"


@dataclass
class BenchTraining:
    """conf/bench_training.yaml: training a decoder beside other libraries'."""

    training: list[str]
    peers: list[
        Literal["tutorial", "diffusers", "denoising-diffusion-pytorch", "dalle2-pytorch", "checkpointing"]
    ]
    rounds: Annotated[int, "rounds >= 1"] = 5
    seconds: Annotated[float, "seconds > 0"] = 1.0
    out: str = "outputs/bench/training"


@dataclass
class BenchPlan:
    """conf/bench_plan.yaml: what training on many GPUs and pairs would take. stages: by name {train: overrides, batch,
    steps}."""

    stages: Any
    pairs: Annotated[float, "pairs >= 1"]
    gpus: Annotated[int, "gpus >= 1"]
    gpus_per_node: Annotated[int, "gpus_per_node >= 1"]
    strategy: Literal["auto", "ddp", "fsdp"]
    peak: Annotated[float, "peak > 0"]
    mfu: Annotated[float, "0 < mfu <= 1"]
    memory: Annotated[float, "memory > 0"]
    filled: Annotated[float, "0 < filled <= 1"]
    link: Annotated[float, "link > 0"]
    network: Annotated[float, "network > 0"]
    overlap: Annotated[float, "0 <= overlap <= 1"]
    decode: Annotated[float, "decode > 0"]
    loaders: Annotated[float, "loaders > 0"]
    jpeg: Annotated[float, "jpeg > 0"]
    caption: Annotated[int, "caption >= 0"]
    storage: Annotated[float, "storage > 0"]
    writer: Annotated[float, "writer > 0"]
    host: Annotated[float, "host > 0"]
    vocabulary: Annotated[int, "vocabulary >= 2"]
    context: Annotated[int, "context >= 1"]
    epochs: Annotated[float | None, "epochs > 0"] = None
    calibrate: list[str] = field(default_factory=list)
    out: str = "outputs/bench/plan"
