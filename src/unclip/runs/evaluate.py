"""`unclip evaluate`: a trained model, a sweep of its sampling settings, an upsampler or an autoencoder by itself, or a
folder of pictures, against real images.
Checks the request and hands it on; it measures nothing itself."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.cli import DONE
from unclip.config import schema, trust
from unclip.config.compose import compose, options
from unclip.config.problems import Problem, Problems
from unclip.config.tree import config_folder
from unclip.evaluate import catalogue
from unclip.reading import misfit
from unclip.runs import store
from unclip.runs.references import runs_of
from unclip.runs.sample import folder_of
from unclip.runs.store import RECORD, REQUEST, Run
from unclip.runs.upstream import only

# key=a,b is a sweep: every combination is sampled
AXES = ("sampler", "guidance", "steps", "rerank", "prior_guidance", "seed")
LISTS = ("metrics",)  # key=a,b means key=[a,b]
RUNS = ("run", "clip", "prior", "decoder", "upsampler", "upsampler2")
JUDGED = (*RUNS, "images", "reference", "metrics", "paths")  # what says what is judged, and by what
SAMPLING = ("sampler", "guidance", "steps", "clip_x0", "rerank", "prior_guidance", "seed", "nll_steps")
WHERE = ("out", "batch_size", "accelerator", "paths")  # what cannot change a number


@dataclass(frozen=True)
class Request:
    """A checked request. cells: by what was swept ({"guidance": 2.0, "steps": 10}) the request of each combination; the
    request itself, under no setting, where nothing was. alone: the run that is judged, where that is of a stage that
    needs no decoder."""

    config: dict[str, Any]
    cells: list[tuple[dict[str, Any], dict[str, Any]]]
    axes: dict[str, list[Any]]
    alone: Run | None = None


def main(arguments: list[str]) -> int:
    """Check the request, sample, measure, write."""
    asked = checked(arguments)
    out = folder_of({**asked.config, **dict.fromkeys(asked.axes)}, "sweep" if asked.axes else "evaluation")

    from unclip.report import evaluation, table
    from unclip.runs.process import stop_at_once_when_asked

    again = f"; to go on from here: {store.typed('evaluate', arguments)}" if asked.axes else ""
    stop_at_once_when_asked(f"interrupted{again}")
    measured = evaluation.deliver(asked, out)
    table.show(measured)
    print(f"\n{out / 'metrics.json'}, {out / 'evaluation.html'}")
    return DONE


def checked(arguments: list[str]) -> Request:
    """The request and its cells. Raises Problems, all at once."""
    swept, plain = _split(arguments)
    first = {key: values[0] for key, values in swept.items()}
    config, found = _composed([*plain, *(f"{key}={value}" for key, value in first.items())])
    values: dict[str, list[tuple[Any, Any]]] = {}
    for key, given in swept.items():
        values[key] = []
        for value in given:
            others = {k: v for k, v in first.items() if k != key}
            one, wrong = _composed([*plain, f"{key}={value}", *(f"{k}={v}" for k, v in others.items())])
            found += wrong
            values[key].append((value if key == "sampler" else one.get(key), one.get(key)))
        if len({str(shown) for shown, _ in values[key]}) < len(given):
            found.append(Problem(key, ",".join(given), "has a value twice"))
    alone = None
    judged = {key: value for key, value in config.items() if key in JUDGED}
    if misfit(judged, f"{schema.__name__}.Evaluate") is None:  # else that is said already
        typed = {argument.partition("=")[0] for argument in arguments}
        alone, wrong = _what_is_judged(config, typed, swept)
        found += wrong
    if found:
        raise Problems(list(dict.fromkeys(found)))
    if own := _own_judge(config, arguments):
        config["extractor"] = own
    cells = [
        ({key: shown for key, (shown, _) in zip(values, point, strict=True)},
         {**config, **{key: value for key, (_, value) in zip(values, point, strict=True)}})
        for point in itertools.product(*values.values())
    ]  # fmt: skip
    axes = {key: [shown for shown, _ in listed] for key, listed in values.items()}
    return Request({**config, **axes}, cells, axes, alone)


def _own_judge(config: dict[str, Any], arguments: list[str]) -> dict[str, Any] | None:
    """What judged the run before, of a results folder its numbers, else its training; None where another is asked for
    or the run says none."""
    asked = {argument.lstrip("+~").partition("=")[0].partition(".")[0] for argument in arguments}
    if not (reference := config.get("run")) or asked & {"extractor", "experiment"}:
        return None
    trust.allow_files(config_folder(), ["extractor"])  # those of this package, as if one had been typed
    if record := store.recorded(Path(reference)):
        return (record.get("evaluate") or {}).get("extractor")
    return only(reference, config["paths"]["outputs"]).config.get("extractor")


def digest(request: dict[str, Any], runs: dict[str, str]) -> str:
    """What the numbers of one cell depend on, as a name: its request without the places, with the runs' signatures."""
    deciding = {k: v for k, v in request.items() if k not in (*WHERE, *RUNS)}
    if request.get(
        "sampler"
    ):  # its own guidance is whatever was composed first; the request's is what counts
        deciding["sampler"] = {k: v for k, v in request["sampler"].items() if k != "guidance"}
    return hashlib.sha256(json.dumps([deciding, runs], sort_keys=True).encode()).hexdigest()[:12]


def _split(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The swept keys with their values, and the arguments that Hydra is to read, lists in brackets."""
    swept: dict[str, list[str]] = {}
    plain = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        listed = [part.strip() for part in value.removeprefix("[").removesuffix("]").split(",")]
        if equals and key in LISTS and not value.startswith("[") and value != "null":
            plain.append(f"{key}=[{value}]")
        elif equals and key in AXES and len(listed) > 1:
            swept[key] = listed
        elif equals and key in AXES:
            swept.pop(key, None)  # the last one counts, as with any key
            plain.append(f"{key}={listed[0]}")
        else:
            plain.append(argument)
    return swept, plain


def _composed(lines: list[str]) -> tuple[dict[str, Any], list[Problem]]:
    try:
        return compose("evaluate", lines).config, []
    except Problems as problems:
        return problems.config or {}, problems.problems


def _what_is_judged(
    config: dict[str, Any], typed: set[str], swept: Iterable[str]
) -> tuple[Run | None, list[Problem]]:
    """Either runs, or pictures with a reference; and metrics that these allow. The run, where it is judged alone."""
    runs = [key for key in RUNS if config.get(key)]
    images, reference = config.get("images"), config.get("reference")
    if runs and images:
        why = f"{runs[0]} = {config[runs[0]]} is given too; give pictures (images and reference) or runs"
        return None, [Problem("images", images, why)]
    if not runs and not images:
        why = "what is to be judged? run=FOLDER, or images=PATH reference=PATH|fashion_mnist:train"
        return None, [Problem("run", None, why)]
    if not runs:
        return None, _wrong_with_pictures(config, typed)
    found = []
    if reference:
        found.append(
            Problem("reference", reference, "is for images=; runs are measured against their own data")
        )
    alone = None
    try:
        if alone := _alone(config):
            found += _wrong_with_one(alone, config, typed, swept)
        else:
            runs_of(config)
    except Problems as problems:
        found += problems.problems
    return alone, found


def _alone(config: dict[str, Any]) -> Run | None:
    """The run that `run=` names, where it is of a stage that needs no decoder to be judged. Raises Problems."""
    reference = config.get("run")
    if not reference or any((Path(reference) / name).is_file() for name in (RECORD, REQUEST)):
        return None
    run = only(reference, config["paths"]["outputs"])
    return run if catalogue.of_stage(run.config["stage"]["name"]) else None


def _wrong_with_one(
    run: Run, config: dict[str, Any], typed: set[str], swept: Iterable[str]
) -> Iterator[Problem]:
    """What has no meaning for an upsampler or an autoencoder by itself."""
    stage = run.config["stage"]["name"]
    possible = catalogue.of_stage(stage)
    for key in RUNS:
        if key != "run" and config.get(key):
            yield Problem(key, config[key], f"is given too, and run= is of stage {stage}, judged by itself")
    for key in SAMPLING:
        if key in swept or (key in typed and key != "seed"):
            why = f"is a choice for a decoder's samples, and run= is of stage {stage}: without it"
            yield Problem(key, None, why)
    for name in config.get("metrics") or []:
        if name in catalogue.METRICS and name not in possible:
            why = f"is of a decoder's pictures, and run= is of stage {stage}; possible: {', '.join(possible)}"
            yield Problem("metrics", name, why)


def _wrong_with_pictures(config: dict[str, Any], typed: set[str]) -> list[Problem]:
    images = config["images"]
    found = (
        []
        if Path(str(images)).exists()
        else [Problem("images", images, "there is no such folder or .npz file")]
    )
    found += _reference_problem(config.get("reference"))
    for key in SAMPLING:
        if key in typed:
            found.append(
                Problem(key, None, "is a setting of sampling, and images= are there already: leave it out")
            )
    of_runs = {"captions", "model", "upsampler", "autoencoder"}
    for name in config.get("metrics") or []:
        if needs := catalogue.METRICS[name].needs & of_runs if name in catalogue.METRICS else None:
            found.append(Problem("metrics", name, f"needs {catalogue.WORDS[min(needs)]}"))
    return found


def _reference_problem(reference: str | None) -> list[Problem]:
    if not reference:
        return [Problem("reference", None, "is not set: a folder of images, an .npz, or fashion_mnist:train")]
    name, colon, split = reference.rpartition(":")
    splits = ("train", "validation", "test")
    if Path(reference).exists() or (colon and name in options("data") and split in splits):
        return []
    possible = f"{'|'.join(options('data'))}:{'|'.join(splits)}"
    return [
        Problem("reference", reference, f"there is no such folder or .npz file; possible also: {possible}")
    ]
