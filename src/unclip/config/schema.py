"""The keys of a configuration that belong to no `_target_`: names, types, ranges, defaults.

A default here, like one in a target's signature, is frozen for ever: it means "as before this option existed", and a
key that equals it does not enter a run's signature. Defaults that may change live in YAML.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from unclip.config import bench_schema as bench

Target = dict[str, Any]  # what its `_target_` makes of its other keys

NEEDED = {  # by group, keys that no signature demands, and that are read before anything is made
    "stage": ["name"],
    "optim": ["lr"],
    "trainer": [
        "accelerator",
        "devices",
        "num_nodes",
        "strategy",
        "accumulate_grad_batches",
        "max_steps",
        "max_epochs",
    ],
}
WHOLE = ("data", "tokenizer", "schedule", "sampler", "corruption", "extractor", "perceptual")
"""Groups to whose targets nothing is given but what is in the configuration."""


@dataclass
class Train:
    """conf/train.yaml: one training run."""

    stage: Target
    data: Target
    trainer: Target
    optim: Target
    model: Target
    tokenizer: Target | None = None
    schedule: Target | None = None
    objective: Target | None = None
    weighting: Target | None = None
    times: Target | None = None
    sampler: Target | None = None
    corruption: Target | None = None
    perceptual: Target | None = None
    discriminator: Target | None = None
    logger: dict[str, Target | None] | None = None
    callbacks: dict[str, Target | None] | None = None
    extractor: Target | None = None
    paths: dict[str, str] | None = None
    clip: str | None = None
    autoencoder: str | None = None
    prior: str | None = None
    prior_kind: Literal["diffusion", "autoregressive"] = "diffusion"
    guidance: Annotated[float, "guidance >= 0"] = 1.0
    clip_x0: Annotated[float | None, "clip_x0 > 0"] = None
    seed: Annotated[int, "0 <= seed < 2**32"] = 0
    compile: bool | Literal["auto", "reduce-overhead", "max-autotune"] = "auto"
    matmul: Literal["highest", "high", "medium"] = "high"
    checkpointing: bool = False
    on_nan: Literal["stop", "skip"] = "stop"
    retry: bool = False
    dry_run: bool = False
    sweep: Annotated[str | None, "sweep.replace('-', '').replace('_', '').isalnum()"] = None


@dataclass
class Generate:
    """conf/sample.yaml, and part of conf/evaluate.yaml: pictures from trained stages."""

    paths: dict[str, str]
    run: str | None = None
    clip: str | None = None
    prior: str | None = None
    decoder: str | None = None
    upsampler: str | None = None
    upsampler2: str | None = None
    sampler: Target | None = None
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
    extractor: Target | None = None
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

    manipulation: Target
    paths: dict[str, str]
    run: str | None = None
    clip: str | None = None
    prior: str | None = None
    decoder: str | None = None
    extractor: Target | None = None
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
    paths: dict[str, str]
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

    data: Target
    paths: dict[str, str]
    compare: list[str]
    weightings: list[str]
    objective: Target
    spacings: list[Literal["leading", "trailing", "linspace", "karras", "log_snr"]]
    steps: Annotated[int, "steps >= 1"]
    run: list[str]
    n: Annotated[int, "n >= 1"]
    seed: Annotated[int, "0 <= seed < 2**32"]
    out: str


@dataclass
class Search:
    """conf/search.yaml: a search for the best values. `overrides` are those of every trial."""

    space: Any
    objectives: Any
    suggest: Target
    prune: Target
    paths: dict[str, str]
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


def named(schema: type) -> str:
    """Where a schema stands, as `targets.parameters` reads it."""
    return f"{schema.__module__}.{schema.__qualname__}"


SCHEMAS: dict[str, type] = {  # of conf/NAME.yaml
    "train": Train,
    "sample": Generate,
    "evaluate": Evaluate,
    "manipulate": Manipulate,
    "schedules": Compare,
    "search": Search,
    "ablate": Ablate,
    "bench_evaluation": bench.BenchEvaluation,
    "bench_training": bench.BenchTraining,
    "bench_prior": bench.BenchPrior,
    "bench_data": bench.BenchData,
    "bench_sampling": bench.BenchSampling,
    "bench_sweep": bench.BenchSweep,
    "bench_startup": bench.BenchStartup,
    "bench_plan": bench.BenchPlan,
}
