"""The keys of a configuration that belong to no `_target_`: names, types, ranges, defaults.

A default here, like one in a target's signature, is frozen for ever: it means "as before this option existed", and a
key that equals it does not enter a run's signature. Defaults that may change live in YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal


@dataclass
class Train:
    """conf/train.yaml: one training run."""

    stage: Any
    data: Any
    trainer: Any
    optim: Any
    model: Any
    tokenizer: Any = None
    schedule: Any = None
    objective: Any = None
    weighting: Any = None
    times: Any = None
    sampler: Any = None
    corruption: Any = None
    perceptual: Any = None
    discriminator: Any = None
    logger: Any = None
    callbacks: Any = None
    extractor: Any = None
    paths: Any = None
    clip: str | None = None
    autoencoder: str | None = None
    prior: str | None = None
    prior_kind: Literal["diffusion", "autoregressive"] = "diffusion"
    guidance: Annotated[float, "guidance >= 0"] = 1.0
    clip_x0: Annotated[float | None, "clip_x0 > 0"] = None
    seed: Annotated[int, "0 <= seed < 2**32"] = 0
    compile: bool | Literal["auto"] = "auto"
    on_nan: Literal["stop", "skip"] = "stop"
    retry: bool = False
    dry_run: bool = False
    sweep: Annotated[str | None, "sweep.replace('-', '').replace('_', '').isalnum()"] = None


@dataclass
class Generate:
    """conf/sample.yaml, and part of conf/evaluate.yaml: pictures from trained stages."""

    paths: Any
    run: str | None = None
    clip: str | None = None
    prior: str | None = None
    decoder: str | None = None
    upsampler: str | None = None
    upsampler2: str | None = None
    sampler: Any = None
    guidance: Annotated[float | None, "guidance >= 0"] = None
    steps: Annotated[int | None, "steps >= 1"] = None
    clip_x0: Annotated[float | None, "clip_x0 > 0"] = None
    rerank: Annotated[int | None, "rerank >= 1"] = None
    prior_guidance: Annotated[float | None, "prior_guidance >= 0"] = None
    prompts: list[str] | None = None
    per_prompt: Annotated[int, "per_prompt >= 1"] = 1
    seed: Annotated[int, "0 <= seed < 2**32"] = 0
    batch_size: Annotated[int, "batch_size >= 1"] = 100
    denoising: Annotated[int, "denoising >= 0"] = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    out: str | None = None


@dataclass
class Evaluate(Generate):
    """conf/evaluate.yaml: what a trained model's pictures, or those of a folder, are worth."""

    images: str | None = None
    reference: str | None = None
    skip_corrupt: bool = False
    extractor: Any = None
    metrics: list[str] | None = None
    n: Annotated[int | None, "n >= 2"] = None
    reference_n: Annotated[int | None, "reference_n >= 2"] = None
    k: Annotated[int, "k >= 1"] = 5
    kid_subsets: Annotated[int, "kid_subsets >= 2"] = 100
    kid_subset_size: Annotated[int | None, "kid_subset_size >= 2"] = None
    nll_steps: Annotated[int | None, "nll_steps >= 1"] = 50


@dataclass
class Manipulate:
    """conf/manipulate.yaml: pictures changed by way of their embeddings and latents."""

    manipulation: Any
    paths: Any
    run: str | None = None
    clip: str | None = None
    prior: str | None = None
    decoder: str | None = None
    extractor: Any = None
    images: str = "test"
    prompts: list[str] | None = None
    seed: Annotated[int, "0 <= seed < 2**32"] = 0
    steps: Annotated[int, "steps >= 2"] = 50
    guidance: Annotated[float | None, "guidance >= 0"] = None
    batch_size: Annotated[int, "batch_size >= 1"] = 100
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    out: str | None = None


@dataclass
class Ablate:
    """conf/ablate.yaml: one of the ablations with a budget."""

    budget: str
    budgets: Any
    paths: Any
    seeds: list[int] | None = None
    n_jobs: Annotated[int | None, "n_jobs >= 1"] = None
    jobs_per_gpu: Annotated[int, "jobs_per_gpu >= 1"] = 1
    retry: bool = False
    dry_run: bool = False


@dataclass
class Ablation:
    """conf/ablation/NAME.yaml: cells to compare, and what a paper says of them. axes, by key a list of values each, or
    cells, by name a list of overrides each; seed_key: what the training seeds are given to."""

    title: str
    metrics: list[str]
    paper: str = ""
    overrides: list[str] = field(default_factory=list)
    axes: dict[str, list[Any]] = field(default_factory=dict)
    cells: dict[Any, list[str] | None] = field(default_factory=dict)
    baseline: str | None = None
    seed_key: str = "seed"
    budgets: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    claims: list[dict[Any, Any]] = field(default_factory=list)
    published: list[dict[Any, Any]] = field(default_factory=list)


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
    published_batch: Annotated[int, "published_batch >= 1"] = 8
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
    quality: bool = False
    run: str = "outputs/demo"
    images: Annotated[int, "images >= 2"] = 500
    seeds: list[int] = field(default_factory=list)
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
    peers: list[Literal["tutorial", "diffusers", "denoising-diffusion-pytorch", "dalle2-pytorch"]]
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


@dataclass
class Search:
    """conf/search.yaml: a search for the best values. `overrides` are those of every trial."""

    space: Any
    objectives: Any
    suggest: Any
    prune: Any
    paths: Any
    title: str = ""
    verb: Literal["train", "run"] = "train"
    overrides: list[str] = field(default_factory=list)
    intermediate: str | None = None
    trials: Annotated[int, "trials >= 1"] = 20
    storage: str | None = None
    n_jobs: Annotated[int | None, "n_jobs >= 1"] = None
    jobs_per_gpu: Annotated[int, "jobs_per_gpu >= 1"] = 1
    retry: bool = False
    report: bool = False
    dry_run: bool = False


@dataclass
class Paths:
    """Where things are kept."""

    outputs: str
    data: str


SCHEMAS: dict[str, type] = {  # of conf/NAME.yaml
    "train": Train,
    "sample": Generate,
    "evaluate": Evaluate,
    "manipulate": Manipulate,
    "schedules": Compare,
    "search": Search,
    "ablate": Ablate,
    "bench_evaluation": BenchEvaluation,
    "bench_training": BenchTraining,
    "bench_prior": BenchPrior,
    "bench_data": BenchData,
    "bench_sampling": BenchSampling,
    "bench_sweep": BenchSweep,
    "bench_startup": BenchStartup,
    "bench_plan": BenchPlan,
}
