"""`unclip run experiment=NAME`: every stage in the order of dependence, then samples, metrics and report.

Imports no torch: each stage is a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.cli import DONE, FAILED, INTERRUPTED
from unclip.config.compose import Composed, accepted, compose, experiments, options
from unclip.config.problems import Problem, Problems
from unclip.files import write_json
from unclip.report import table
from unclip.runs import process
from unclip.runs.store import Run, typed
from unclip.runs.upstream import STAGES, request, resolve

DELIVERIES = (
    "sample",
    "evaluate",
)  # what follows the stages, each with its settings in the experiment's folder
RECORD = "pipeline.json"


@dataclass(frozen=True)
class Step:
    """One stage of the pipeline: the run it leads to and the command that makes it."""

    stage: str
    run: Run
    overrides: list[str]
    config: dict[str, Any]


def main(arguments: list[str]) -> int:
    """Train what is missing, then deliver; what is finished is reused."""
    experiment, results, rest = _split(arguments)
    steps, deliveries = plan(experiment, rest)
    if not results:
        outputs = Path(steps[0].config["paths"]["outputs"])
        results = str(outputs / experiment / f"run-{_digest([s.run.signature for s in steps])}")
    folder = Path(results)
    record = {
        "experiment": experiment,
        "stages": {s.stage: {"signature": s.run.signature, "folder": str(s.run.folder)} for s in steps},
        "sample": deliveries["sample"].config,
        "evaluate": deliveries["evaluate"].config,
    }
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps) + 1}] {typed('train', step.overrides)}", flush=True)
        if step.run.state == "finished":
            print(f"      finished already: {step.run.folder}", flush=True)
        elif status := process.run_child("unclip", "train", *step.overrides):
            return _stopped(status, arguments)
    print(f"[{len(steps) + 1}/{len(steps) + 1}] samples, metrics and report into {folder}", flush=True)
    if is_delivered(folder, record):
        print("      finished already", flush=True)
    else:
        write_json(folder / "request.json", record)
        if status := process.run_child("unclip.report.deliver", str(folder)):
            return _stopped(status, arguments)
    print()
    table.show(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
    print(summary(folder, experiment))
    return DONE


def plan(experiment: str, overrides: list[str]) -> tuple[list[Step], dict[str, Composed]]:
    """Each stage's checked request and planned run, and those of sampling and evaluation.

    Raises:
        Problems: of all stages together, and overrides that no stage has the key for.
    """
    stages = [s for s in STAGES if f"{experiment}/{s}" in options("experiment")]
    if not stages:
        possible = ", ".join(experiments())
        raise Problems(
            [
                Problem(
                    "experiment", experiment, f"no such experiment with stages to run; possible: {possible}"
                )
            ]
        )
    parts = [*stages, *DELIVERIES]
    chosen = {p: _choice(experiment, p) for p in parts}
    given, problems = _assigned(overrides, chosen)
    steps: list[Step] = []
    signatures: dict[str, str] = {}
    for stage in stages:
        lines = [*chosen[stage], *given[stage]]
        try:
            composed = request(lines)
            passed = [f"{s}={signatures[s]}" for s in signatures if composed.config.get(s) == "auto"]
            config, _ = resolve(composed, planned={s.stage: s for s in steps})
        except Problems as error:
            problems += [Problem(f"{stage}: {p.key}", p.given, p.why) for p in error.problems]
            continue
        run = Run.of(config, composed.experiment)
        signatures[stage] = run.signature
        steps.append(Step(stage, run, [*lines, *passed], config))
    deliveries: dict[str, Composed] = {}
    for verb in DELIVERIES:
        try:
            deliveries[verb] = compose(verb, [*chosen[verb], *given[verb]])
        except Problems as error:
            problems += [Problem(f"{verb}: {p.key}", p.given, p.why) for p in error.problems]
    if problems:
        raise Problems(list(dict.fromkeys(problems)))
    return steps, deliveries


def _split(arguments: list[str]) -> tuple[str, str | None, list[str]]:
    named = dict(a.split("=", 1) for a in arguments if a.startswith(("experiment=", "results=")))
    rest = [a for a in arguments if not a.startswith(("experiment=", "results="))]
    if flags := [a for a in rest if a.startswith("-")]:
        raise Problems([Problem(flags[0], None, "is no option of `unclip run`: unclip run --help")])
    if "experiment" not in named:
        raise Problems([Problem("experiment", None, f"is not set; possible: {', '.join(experiments())}")])
    return named["experiment"], named.get("results"), rest


def _choice(experiment: str, part: str) -> list[str]:
    name = f"{experiment}/{part}"
    return [f"experiment={name}"] if name in options("experiment") else []


def _assigned(
    overrides: list[str], chosen: dict[str, list[str]]
) -> tuple[dict[str, list[str]], list[Problem]]:
    """Each override to the stage of its prefix, else to all that have the key."""
    given: dict[str, list[str]] = {part: [] for part in chosen}
    shared = []
    for line in overrides:
        prefix, dot, rest = line.partition(".")
        if dot and "=" not in prefix and prefix in given:
            given[prefix].append(rest)
        else:
            shared.append(line)
    taken = set()
    for part in chosen if shared else []:
        verb = part if part in DELIVERIES else "train"
        for line, takes in zip(shared, accepted(verb, chosen[part], shared), strict=True):
            given[part] += [line] if takes else []
            taken |= {line} if takes else set()
    stages = f"no stage has this key; stages: {', '.join(chosen)}"
    lost = (line.partition("=") for line in shared if line not in taken)
    return given, [Problem(key, value or None, stages) for key, _, value in lost]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def is_delivered(folder: Path, record: dict[str, Any]) -> bool:
    """Whether this very request was delivered there: its record is written last."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8")) == record
    except (OSError, ValueError):
        return False


def _stopped(status: int, arguments: list[str]) -> int:
    command = typed("run", arguments)
    if status in (INTERRUPTED, -2, -15):
        print(f"\ninterrupted; to go on from here: {command}", file=sys.stderr)
        return INTERRUPTED
    print(f"\nunclip run: stopped by the failure above; when it is mended: {command}", file=sys.stderr)
    return FAILED


def summary(folder: Path, experiment: str) -> str:
    """What was made, where, and what to type next."""
    made = {
        "report.html": "all of it on one page",
        "grid.png": "the captions in rows",
        "denoising.png": "from noise to pictures",
        "samples/": "single pictures, described by samples.jsonl",
        "metrics.json": "the numbers with all that defines them",
    }
    width = max(len(str(folder / name)) for name in made) + 3
    lines = [f"  {folder / name!s:{width}}{what}" for name, what in made.items() if (folder / name).exists()]
    return "\n".join(
        ["", "made:", *lines, "", "next:", *(f"  {c}" for c in next_commands(folder, experiment))]
    )


def next_commands(folder: Path, experiment: str) -> list[str]:
    """What to type after a pipeline."""
    linear = folder.with_name(f"{folder.name}-linear")
    return [
        *activation(),
        f"unclip sample run={folder} prompts='[\"an image of a bag\"]' per_prompt=8",
        f"unclip evaluate run={folder} guidance=1",
        f"unclip run experiment={experiment} decoder.schedule=linear results={linear}",
        f"unclip train -m experiment={experiment}/decoder schedule=linear,cosine objective=eps,v",
    ]


def activation() -> list[str]:
    """The command that puts `unclip` on the shell's path, where it is in an environment that is not active."""
    here = Path(sys.prefix)
    if sys.prefix == sys.base_prefix or Path(shutil.which("unclip") or "").parent == here / "bin":
        return []
    near = here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here
    return [f"source {near}/bin/activate"]
