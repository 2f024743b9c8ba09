"""Command lines with mistakes in them, and YAML files of the user's own, as far as they need no torch: every verb."""

from __future__ import annotations

import os
import random
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import yaml
from hydra.core.global_hydra import GlobalHydra
from tests.fuzz import mutations
from tests.fuzz.verdict import command

from unclip.config import compose as composition
from unclip.config.checks import keys_of
from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.config.tree import config_folder, options

VALID = {
    "train": (
        "stage=decoder schedule=linear objective=v seed=3",
        "stage=clip data.image_size=32 model.width=64 optim.lr=1e-4",
        "stage=prior sampler=ddim sampler.steps=15 clip=random",
        "experiment=demo/decoder trainer.max_steps=2000 extractor=random",
        "stage=upsampler stage.crop=0.5 corruption=blur",
        "stage=autoencoder model.factor=4 discriminator=patch",
        "stage=classifier data=shapes",
        "stage=decoder autoencoder=auto model.unshuffle=1 clip=open_clip:ViT-B-32",
        "stage=prior prior=autoregressive tokenizer=bpe logger=csv",
        "stage=decoder trainer=ddp_cpu data.batch_size=32 stage.loss=hybrid model.learned_variance=true",
        "stage=clip --cfg job",
    ),
    "run": (
        "experiment=demo decoder.schedule=linear seed=3 evaluate.n=50",
        "experiment=cascade/fashion_mnist results=somewhere",
        "experiment=smoke sample.per_prompt=2 clip=random",
    ),
    "train -m": (
        "stage=decoder schedule=linear,cosine seed=0,1",
        "stage=prior seed=range(0,3) sweep=mine hydra.launcher.n_jobs=2",
        "stage=clip optim.lr=1e-3,1e-4 hydra/launcher=joblib",
    ),
    "run -m": (
        "experiment=demo decoder.schedule=linear,cosine decoder.seed=0,1",
        "experiment=smoke seed=0,1 hydra.launcher.n_jobs=2",
    ),
    "ablate": (
        "iddpm_schedule budget=smoke",
        "zero_terminal_snr budget=small seeds=0,1 n_jobs=2 decoder.trainer.max_steps=20",
    ),
    "search": (
        "decoder_lr trials=3 n_jobs=2",
        "decoder_lr space.lr.high=0.03 prune=hyperband suggest=random",
        "smoke storage=sqlite:///x.db",
        "--list",
    ),
    "sample": ("run=nowhere prompts=['a','b'] guidance=3 sampler=dpmpp_2m sampler.steps=15 per_prompt=2",),
    "evaluate": (
        "run=nowhere n=20 metrics=fd,kid guidance=1,2 steps=10,20",
        "images=. reference=fashion_mnist:train extractor=random n=50",
    ),
    "manipulate": (
        "text_diff run=nowhere images=test:3,17 target=bag thetas=[.1,.3]",
        "variations run=nowhere eta=0.5",
    ),
    "schedules": ("compare=cosine,linear weightings=uniform,p2 objective=v steps=10",),
    "report": ("nowhere metric=fd,loss baseline=a out=there format=md,csv",),
    "runs": (
        "where='stage=decoder and fd_n500<20' sort=-fd limit=3 paths.outputs=.",
        "compare a b --json",
        "clean . older=30d yes=false",
    ),
}
COMPOSED = {
    "train": "train",
    "run": "train",
    "search": "search",
}  # by target the verb whose composition many share
DRY = ("train", "run", "ablate", "search")  # say what they would do
SHARES = {
    "train": 40,
    "run": 4,
    "train -m": 4,
    "run -m": 2,
    "ablate": 2,
    "search": 4,
}  # of a hundred; others: 2
OWN = (
    *("model", "schedule", "sampler", "optim", "stage", "callbacks", "ablation", "search", "experiment"),
    *("data", "trainer", "objective", "weighting", "times", "extractor", "logger", "tokenizer"),
)  # groups of files of the user's own


def words(rng: random.Random, verb: str) -> list[str]:
    """The arguments of one case."""
    line = rng.choice(VALID[verb])
    made = mutations.request(rng, shlex.split(line), *_known())
    first, *flags = verb.split()
    return [first, *flags, *made, *(["dry_run=true"] if first in DRY else [])]


def one(rng: random.Random, verb: str, folder: Path) -> str | None:
    """Carry out one case in an empty folder."""
    os.chdir(folder)
    arguments = words(rng, verb)
    flagged = any(word.startswith("-") for word in arguments)  # Hydra's own command line shares nothing
    with _unshared() if flagged else nullcontext():
        return command(arguments)


@contextmanager
def _unshared() -> Iterator[None]:
    """Without the composition that many requests share."""
    kept, hydra = composition._kept[:], GlobalHydra.instance().hydra
    composition._kept.clear()
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        composition._kept[:] = kept
        GlobalHydra.instance().hydra = hydra


def own_files(rng: random.Random, folder: Path) -> str | None:
    """A YAML file of the user's own, a damaged copy of one of the project's, chosen in a request."""
    os.chdir(folder)
    group = rng.choice(OWN)
    name = rng.choice([n for n in options(group) if n.split("/")[-1] not in ("sample", "evaluate")])
    source = (config_folder() / group / f"{name}.yaml").read_bytes()
    changed = source
    for _ in range(rng.choice((1, 2))):
        changed = mutations.content(rng, changed) if rng.random() < 0.6 else _of_tree(rng, source)
    path = folder / "own" / group / f"{name.replace('/', '_')}_mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(changed)
    chosen = f"{group}={path.stem}"
    stage = next((s for s in ("clip", "prior", "decoder", "classifier") if s in name), "decoder")
    request = {
        "ablation": ["ablate", path.stem, "budget=smoke", "dry_run=true"],
        "search": ["search", path.stem, "dry_run=true"],
        "experiment": ["train", chosen, "dry_run=true"],
        "stage": ["train", chosen, "dry_run=true"],
    }.get(group, ["train", f"stage={stage}", chosen, "dry_run=true"])
    return command([request[0], "--config-dir=own", *request[1:]])


def _of_tree(rng: random.Random, source: bytes) -> bytes:
    """What the file says, changed in its structure; its first lines say where in the tree it belongs."""
    package = b"".join(line + b"\n" for line in source.splitlines() if line.startswith(b"# @package"))
    found = mutations.tree(rng, yaml.safe_load(source))
    return package + yaml.safe_dump(found, sort_keys=False, allow_unicode=False).encode()


@cache
def _known() -> tuple[list[str], list[str]]:
    """The keys there are, and the choices in groups."""
    keys = {
        "trials",
        "budget",
        "seeds",
        "n_jobs",
        "results",
        "space.lr.low",
        "hydra.launcher.n_jobs",
        "hydra.run.dir",
    }
    for stage in options("stage"):
        try:
            keys |= set(keys_of(compose("train", [f"stage={stage}"]).config))
        except Problems as problems:
            keys |= set(keys_of(problems.config or {}))
    groups = [path.name for path in config_folder().iterdir() if path.is_dir()]
    chosen = [f"{group}={option}" for group in sorted(groups) for option in options(group)]
    return sorted(keys), [*chosen, "hydra/launcher=basic", "hydra/sweeper=basic"]
