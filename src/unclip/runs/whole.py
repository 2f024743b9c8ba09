"""What a whole run consists of: its stages, what is asked of sampling and evaluation, its results folder.

Planned from overrides alone, with every problem in one message; carried out by pipeline.py. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.config.compose import Composed, accepted, compose
from unclip.config.problems import Problem, Problems
from unclip.config.tree import experiments, options
from unclip.runs.references import NO_PRIOR, gaps
from unclip.runs.results import Results, digest
from unclip.runs.store import Run
from unclip.runs.upstream import STAGES, UPSAMPLERS, request, resolve

# what follows the stages, each with its settings in the experiment's folder
DELIVERIES = ("sample", "evaluate")


@dataclass(frozen=True)
class Step:
    """One stage: the run it leads to and the command that makes it."""

    stage: str
    run: Run
    overrides: list[str]
    config: dict[str, Any]


@dataclass(frozen=True)
class Whole:
    """A checked and planned run of all stages. record: what stands in request.json and pipeline.json."""

    experiment: str
    steps: list[Step]
    record: dict[str, Any]
    results: Results

    @property
    def dry_run(self) -> bool:
        return any(step.config["dry_run"] for step in self.steps)


def planned(overrides: list[str]) -> Whole:
    """The run that `unclip run` with these overrides is. Raises Problems."""
    experiment, folder, rest = split(overrides)
    steps, deliveries = plan(experiment, rest)
    record = {
        "experiment": experiment,
        "stages": {s.stage: {"signature": s.run.signature, "folder": str(s.run.folder)} for s in steps},
        **{verb: deliveries[verb].config for verb in DELIVERIES},
    }
    signature = digest(record)
    outputs = Path(steps[0].config["paths"]["outputs"])
    results = Path(folder) if folder else outputs / experiment / f"run-{signature}"
    return Whole(experiment, steps, record, Results(results, signature))


def plan(experiment: str, overrides: list[str]) -> tuple[list[Step], dict[str, Composed]]:
    """Each stage's checked request and planned run, and those of sampling and evaluation.

    Raises:
        Problems: of all stages together, and overrides that no stage has the key for.
    """
    stages = [s for s in (*STAGES, *UPSAMPLERS) if f"{experiment}/{s}" in options("experiment")]
    if not stages:
        why = f"no such experiment with stages to run; possible: {', '.join(experiments())}"
        raise Problems([Problem("experiment", experiment, why)])
    parts = [*stages, *DELIVERIES]
    chosen = {p: _choice(experiment, p) for p in parts}
    given, problems = _assigned(overrides, chosen)
    steps: list[Step] = []
    wrong: dict[str, list[Problem]] = {}
    signatures: dict[str, str] = {}
    for stage in stages:
        lines = [*chosen[stage], *given[stage]]
        try:
            composed = request(lines)
            passed = [f"{s}={signatures[s]}" for s in signatures if composed.config.get(s) == "auto"]
            config, _ = resolve(composed, planned={s.stage: s for s in steps})
        except Problems as error:
            wrong[stage] = error.problems
            continue
        run = Run.of(config, composed.experiment)
        signatures[stage] = run.signature
        steps.append(Step(stage, run, [*lines, *passed], config))
    if {"decoder"} < {s.stage for s in steps}:
        problems += gaps({s.stage: s.config for s in steps})
    deliveries: dict[str, Composed] = {}
    for verb in DELIVERIES:
        try:
            deliveries[verb] = compose(verb, [*chosen[verb], *given[verb]])
        except Problems as error:
            wrong[verb] = error.problems
    if problems := [*problems, *_together(wrong)]:
        raise Problems(list(dict.fromkeys(problems)))
    return _needed(steps, deliveries), deliveries


def _together(wrong: dict[str, list[Problem]]) -> list[Problem]:
    """The problems of all parts, each with the parts that have it: what is said of three stages is said once."""
    parts: dict[Problem, list[str]] = {}
    for part, problems in wrong.items():
        for problem in dict.fromkeys(problems):
            parts.setdefault(problem, []).append(part)
    return [Problem(f"{', '.join(named)}: {p.key}", p.given, p.why) for p, named in parts.items()]


def split(overrides: list[str]) -> tuple[str, str | None, list[str]]:
    """The experiment, the results folder where one is named, and the other overrides. Raises Problems."""
    named = dict(a.split("=", 1) for a in overrides if a.startswith(("experiment=", "results=")))
    rest = [a for a in overrides if not a.startswith(("experiment=", "results="))]
    if "experiment" not in named:
        raise Problems([Problem("experiment", None, f"is not set; possible: {', '.join(experiments())}")])
    return named["experiment"], named.get("results"), rest


def _choice(experiment: str, part: str) -> list[str]:
    name = f"{experiment}/{part}"
    return [f"experiment={name}"] if name in options("experiment") else []


def _is_for(part: str, line: str) -> bool:
    """Whether an override goes to this part: prior=none only to sampling and evaluation, clip= only to stages."""
    key, _, value = line.partition("=")
    if key == "prior" and value == NO_PRIOR:
        return part in DELIVERIES
    return key != "clip" or part not in DELIVERIES


def _needed(steps: list[Step], deliveries: dict[str, Composed]) -> list[Step]:
    """The steps without a CLIP that no other stage uses (clip=open_clip:..., say) and a prior that is not sampled."""
    used = {step.config.get(stage) for step in steps for stage in ("clip", "prior")}
    idle = {"clip"} if len(steps) > 1 else set()
    if all(one.config.get("prior") == NO_PRIOR for one in deliveries.values()):
        idle.add("prior")
    return [step for step in steps if step.stage not in idle or step.run.signature in used]


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
        for line, has in zip(shared, accepted(verb, chosen[part], shared), strict=True):
            takes = has and _is_for(part, line)
            given[part] += [line] if takes else []
            taken |= {line} if takes else set()
    stages = f"no stage has this key; stages: {', '.join(chosen)}"
    lost = (line.partition("=") for line in shared if line not in taken)
    return given, [Problem(key, value or None, stages) for key, _, value in lost]
