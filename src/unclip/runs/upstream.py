"""References from a stage to what it is trained on top of: `clip=auto|signature|folder|random|open_clip:...`, and to a
folder of data. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from unclip.config.compose import Composed, compose, options
from unclip.config.divisions import latent_grid
from unclip.config.problems import Problem, Problems
from unclip.runs.pretrained_clip import Reference, identity
from unclip.runs.signature import AS_BEFORE, canonical
from unclip.runs.store import Run, find

STAGES = ("clip", "autoencoder", "prior", "decoder")  # in the order of their dependence
UPSAMPLERS = ("upsampler", "upsampler2")  # of a cascade, each enlarging the last one's pictures
TRAINED_HOW = ("data.batch_size", "data.flip", "data.crop_padding")  # data keys that say how, not on what
WHERE = ("data.folder",)  # where files are kept
OF_A_FOLDER = ("unclip.data.image_folder.ImageFolder", "unclip.data.litdata.LitData")
ELSEWHERE = re.compile(r":|^/teamspace/")  # what litdata reads that is no folder of this machine


def own(experiment: str, stage: str, overrides: list[str]) -> list[str]:
    """The overrides that ask for the same experiment's own upstream stage: data, tokenizer and paths travel to it."""
    sibling = f"{experiment}/{stage}"
    chosen = f"experiment={sibling}" if sibling in options("experiment") else f"stage={stage}"
    return [chosen, *(line for line in overrides if travels(line))]


def travels(line: str) -> bool:
    """Whether an override of a stage is one of its upstream too."""
    key = line.split("=", 1)[0].lstrip("+")
    return key.split(".")[0] in ("data", "tokenizer", "paths") and key not in TRAINED_HOW


def references(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(stage, reference) of each upstream that this configuration has."""
    for stage in STAGES:
        if isinstance(reference := config.get(stage), str):
            yield stage, reference


class Planned(Protocol):
    """A run that a pipeline will have made by the time it is needed."""

    @property
    def run(self) -> Run: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def overrides(self) -> list[str]: ...


def request(overrides: list[str]) -> Composed:
    """A training request, checked as a whole: its keys and the runs it names, all problems in one message."""
    try:
        return compose("train", overrides)
    except Problems as error:
        unnamed = named(error.config)[1] if error.config else []
        raise Problems([*error.problems, *unnamed]) from None


def resolve(
    composed: Composed, planned: Mapping[str, Planned] | None = None
) -> tuple[dict[str, Any], dict[str, tuple[Run, list[str]]]]:
    """The configuration with signatures for references; by stage each upstream run, with the overrides that make it.

    A run named by hand must exist and be finished; one found by `auto`, or planned, may still have to be trained.

    Raises:
        Problems: a reference that names nothing, more than one run, an unfinished run, another stage, or other data.
    """
    by_hand, problems = named(composed.config)
    if problems:
        raise Problems(problems)
    config = dict(composed.config)
    runs: dict[str, tuple[Run, list[str]]] = {stage: (run, []) for stage, run in by_hand.items()}
    clips = {stage: run.config.get("clip") for stage, run in by_hand.items()}
    autoencoder = by_hand["autoencoder"].config if "autoencoder" in by_hand else None
    for stage, reference in references(config):
        if reference == "auto":
            overrides = own(composed.experiment, stage, composed.overrides)
            if stage == "prior" and config["clip"] != "auto":
                overrides.append(f"clip={config['clip']}")  # a prior of the decoder's own CLIP
            if planned and stage in planned:
                below = planned[stage].config
                runs[stage] = planned[stage].run, planned[stage].overrides
            else:
                upstream = compose("train", overrides)
                below = resolve(upstream)[0]
                runs[stage] = Run.of(below, upstream.experiment), overrides
            clips[stage] = below.get("clip")
            if stage == "autoencoder":
                autoencoder = below
    config |= {stage: run.signature for stage, (run, _) in runs.items()}
    if published := Reference.of(config.get("clip")):
        config["clip"] = published.read()
    if autoencoder is not None:
        config = in_latent_space(config, autoencoder)
    other = clips.get("prior", config.get("clip"))
    if identity(other) != identity(config.get("clip")):
        why = f"was trained on CLIP {other}, this decoder is on CLIP {config['clip']}"
        raise Problems([Problem("prior", composed.config["prior"], why)])
    return config, runs


def in_latent_space(config: dict[str, Any], autoencoder: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a decoder on top of this autoencoder's: latents have no range that x0_hat is clipped to.

    Raises:
        Problems: the U-Net cannot halve the grid of latents as often as it would.
    """
    size, factor = config["data"].get("image_size"), autoencoder["model"]["factor"]
    if problems := [*latent_grid(config["model"], size, factor)]:
        raise Problems(problems)
    return {**config, "clip_x0": None, "sampler": {**config["sampler"], "clip": None}}


def named(config: dict[str, Any]) -> tuple[dict[str, Run], list[Problem]]:
    """The finished runs that a configuration names by hand, by stage, and what is wrong with its references."""
    runs: dict[str, Run] = {}
    problems: list[Problem] = []
    for stage, reference in references(config):
        if reference in ("auto", "random"):
            continue
        if stage == "clip" and (published := Reference.of(reference)):
            problems += [Problem(stage, reference, why) for why in [published.problem()] if why]
            continue
        outputs = config["paths"]["outputs"]
        found = find(reference, Path(outputs))
        if len(found) != 1 or found[0].state != "finished":
            others = "auto, random or open_clip:MODEL:WEIGHTS" if stage == "clip" else "or auto"
            problems.append(Problem(stage, reference, f"{_why_not(found, outputs)}, {others}"))
            continue
        runs[stage] = found[0]
        problems += _mismatches(stage, reference, config, found[0].config)
    return runs, problems


def no_data(config: dict[str, Any]) -> list[Problem]:
    """What is wrong where training would read a folder of the user's own that is not there."""
    data = config["data"]
    path = data.get("path") if data["_target_"] in OF_A_FOLDER else None
    if path is None or ELSEWHERE.search(path) or Path(path).expanduser().is_dir():
        return []
    return [Problem("data.path", path, "there is no such folder; give data.path=FOLDER")]


def only(reference: str, outputs: str) -> Run:
    """The one finished run that a signature or folder names. Raises Problems."""
    found = find(reference, Path(outputs))
    if len(found) != 1 or found[0].state != "finished":
        raise Problems([Problem("run", reference, _why_not(found, outputs))])
    return found[0]


def _why_not(found: list[Run], outputs: str) -> str:
    if not found:
        return f"names no run under {outputs}; give the signature or folder of a finished one"
    if len(found) > 1:
        return f"names {len(found)} runs: {', '.join(str(r.folder) for r in found)}"
    return f"{found[0].folder} is {found[0].state}, not finished"


def _mismatches(
    stage: str, reference: str, config: dict[str, Any], found: dict[str, Any]
) -> Iterator[Problem]:
    if found["stage"]["name"] != stage:
        yield Problem(stage, reference, f"is a run of stage {found['stage']['name']}, not {stage}")
    if stage == "autoencoder":  # may have learned from other pictures of this size
        here, there = ({"data.image_size": c["data"].get("image_size")} for c in (config, found))
    else:
        here, there = what_on(config), what_on(found)
    for key, mine, other in differences(here, there):
        yield Problem(stage, reference, f"was trained with {key} = {other}, this run has {mine}")


def differences(here: dict[str, Any], there: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Each key whose values differ, with both."""
    for key in sorted(here.keys() | there.keys()):
        if here.get(key) != there.get(key):
            yield key, here.get(key), there.get(key)


def what_on(config: dict[str, Any]) -> dict[str, Any]:
    """By full key what a run is trained on: its data and tokenizer, without defaults and without how and where."""
    groups = canonical({"trainer": {}, **{g: config[g] for g in ("data", "tokenizer") if config.get(g)}})
    groups.setdefault("tokenizer", AS_BEFORE["tokenizer"])
    found = {f"{g}.{key}": value for g in ("data", "tokenizer") for key, value in groups[g].items()}
    return {key: value for key, value in found.items() if key not in (*TRAINED_HOW, *WHERE)}
