"""`unclip schedules`: noise schedules side by side, before anything is trained; with run=..., how trained models do at
each noise level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unclip.cli import DONE
from unclip.config.compose import compose, options
from unclip.config.problems import Problem, Problems
from unclip.runs.store import Run
from unclip.runs.upstream import only

LISTS = ("compare", "weightings", "spacings", "run")  # key=a,b means key=[a,b]: no sweep


def main(arguments: list[str]) -> int:
    """Check the request, draw, write pages and pictures."""
    request = checked([listed(argument) for argument in arguments])
    runs = _runs(request)

    from unclip.report import schedules
    from unclip.runs.process import stop_at_once_when_asked

    stop_at_once_when_asked("interrupted")
    out = Path(request["out"])
    made = schedules.deliver(request, runs, out)
    print(f"{len(request['compare'])} schedules: {out / 'schedules.html'}; pictures: {', '.join(made)}")
    return DONE


def checked(arguments: list[str]) -> dict[str, Any]:
    """The request, with `compare` and `weightings` from names to the nodes they name. Raises Problems, all at once."""
    found: list[Problem] = []
    try:
        composed = compose("schedules", arguments)
        request, objective = composed.config, composed.choices["objective"]
    except Problems as problems:
        found, request, objective = problems.problems, problems.config or {}, None
    for key, group in (("compare", "schedule"), ("weightings", "weighting")):
        nodes = {}
        names = request.get(key) or []
        for name in options(group) if names == ["all"] else names:
            try:
                nodes[name] = compose("train", ["stage=prior", "weighting=vlb", f"{group}={name}"]).config[
                    group
                ]
            except Problems as problems:
                found += [Problem(key, problem.given, problem.why) for problem in problems.problems]
        if not nodes and not found:
            found.append(Problem(key, [], f"names none; possible: {', '.join(options(group))}"))
        request[key] = nodes
    if found:
        raise Problems(list(dict.fromkeys(found)))
    return {**request, "objective_name": objective}


def listed(argument: str) -> str:
    """The argument with the values of a list in brackets."""
    key, equals, value = argument.partition("=")
    bare = equals and key in LISTS and not value.startswith("[")
    return f"{key}=[{value}]" if bare else argument


def _runs(request: dict[str, Any]) -> list[Run]:
    runs = [only(reference, request["paths"]["outputs"]) for reference in request["run"]]
    for reference, run in zip(request["run"], runs, strict=True):
        if (stage := run.config["stage"]["name"]) not in ("prior", "decoder"):
            raise Problems(
                [Problem("run", reference, f"is a run of stage {stage}; possible: prior, decoder")]
            )
    return runs
