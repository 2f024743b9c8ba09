"""`unclip ablate NAME budget=small`: what is missing of an ablation is run, every cell with the same seeds; a report.

What the ablation is stands in ablation.py. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unclip.cli import DONE, FAILED, INTERRUPTED, WRONG_REQUEST
from unclip.config import targets
from unclip.config.compose import compose, many, options
from unclip.config.problems import Problem, Problems
from unclip.config.schema import Ablate
from unclip.evaluate import catalogue
from unclip.runs import whole
from unclip.runs.ablation import Planned, planned, read
from unclip.runs.cells import REQUESTS, aligned, key
from unclip.runs.multirun import OF_HYDRA, by_hydra, numbered
from unclip.runs.results import Results
from unclip.runs.store import typed
from unclip.runs.sweep import Sweep

OWN = tuple(Ablate.__dataclass_fields__)
DEFAULT_OFFER = ("captions", "model")  # what an evaluation of runs has, beside what the extractor gives


def main(arguments: list[str]) -> int:
    """Check the request as a whole, run what is missing, report."""
    names = [a for a in arguments if "=" not in a and not a.startswith("-")]
    flags = [a for a in arguments if a.startswith("-")]
    own = [_bracketed(a) for a in arguments if "=" in a and key(a).split(".")[0] in OWN]
    if flags == ["--list"] and not names:
        print(listed(compose("ablate", own).config))
        return DONE
    if flags or len(names) != 1:
        why = f"{flags[0]} is no option of it" if flags else "give one NAME"
        print(f"unclip ablate: {why}; possible: {', '.join(options('ablation'))}, --list", file=sys.stderr)
        return WRONG_REQUEST
    hydras = [a for a in arguments if a.startswith(OF_HYDRA)]
    rest = [a for a in arguments if "=" in a and key(a).split(".")[0] not in OWN and a not in hydras]
    rest += [a for a in own if key(a).startswith("paths.")]
    sweep, request = asked(names[0], own, rest)
    launcher = [] if any(h.startswith("hydra/launcher=") for h in hydras) else _local(request)
    status = by_hydra(sweep, numbered(len(sweep.known), [*launcher, *hydras]))
    if sweep.record is None or request["dry_run"] or status == INTERRUPTED:
        return status
    return _reported(sweep.record) or status


def asked(name: str, own: list[str], rest: list[str]) -> tuple[Sweep, dict[str, Any]]:
    """The sweep that an ablation is, with the request of `ablate`. own: overrides of that; rest: of every cell.

    Raises:
        Problems: of the ablation's file, the budget, and every cell, all at once.
    """
    request = compose("ablate", own).config
    plan = planned(name, read(name), request)
    more = [*rest, *_measured(plan, rest)]
    runs = list(plan.runs(more))
    how = [f"{k}=true" for k in ("retry", "dry_run") if request[k]]
    title = f"{name.replace('/', '-')}-{plan.budget}"
    if what := [o for o in rest if not o.startswith("paths.")]:  # another sweep than the ablation's own
        title += f"-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:6]}"
    cells = [[*overrides, *how, f"sweep={title}"] for _, overrides in runs]
    sweep = Sweep("run", [f"sweep={title}"], cells, [said for said, _ in runs], {"ablation": plan.in_record})
    sweep.command = typed("ablate", [name, *(o for o in own if key(o) not in ("retry", "dry_run")), *rest])
    sweep.again = f"{sweep.command} retry=true"
    sweep.metrics = plan.ablation.metrics
    return sweep, request


def _measured(plan: Planned, rest: list[str]) -> list[str]:
    """Every cell checked once; then what must be asked of `evaluate` so that the ablation's metrics are measured."""
    problems: dict[str, list[tuple[str, Problem]]] = {}
    requests: list[dict[str, Any]] = []
    for name, (_, own) in plan.cells.items():
        if clash := {key(o) for o in own} & {key(o) for o in rest}:
            why = "is what the cells differ in: leave it out"
            problems.setdefault("", []).append((name, Problem(min(clash), None, why)))
    with ExitStack() as kept:
        for verb in REQUESTS["run"]:
            kept.enter_context(many(verb))
        for said, overrides in plan.runs(rest):
            if said["seed"] != str(plan.seeds[0]):
                continue
            try:
                requests.append(whole.planned(overrides).record["evaluate"])
            except Problems as wrong:
                for problem in wrong.problems:
                    problems.setdefault(str(problem), []).append((said["cell"], problem))
    found = [_of_cells(wrong, len(plan.cells)) for wrong in problems.values()]
    heads = list(dict.fromkeys(metric.split(".")[0] for metric in plan.ablation.metrics))
    for evaluate in requests:
        lacking = {
            m: catalogue.lacking(m, [*offered(evaluate), "checks"]) for m in heads
        }  # checks: of the data
        found += [Problem("metrics", m, needs) for m, needs in lacking.items() if needs]
    if found:
        raise Problems(list(dict.fromkeys(found)))
    names: list[str] = []
    for evaluate in requests:
        given = evaluate["metrics"]
        names += given if given is not None else catalogue.chosen(None, offered(evaluate))
    missing = [m for m in heads if m not in names and "all" not in names]
    return [f"evaluate.metrics=[{','.join(dict.fromkeys([*names, *missing]))}]"] if missing else []


def _of_cells(wrong: list[tuple[str, Problem]], cells: int) -> Problem:
    """One problem of one or several cells; of all of them it is the ablation's own."""
    names, problem = [name for name, _ in wrong], wrong[0][1]
    if len(names) == cells and cells > 1:
        return problem
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Problem(f"cell {names[0]}{more}: {problem.key}", problem.given, problem.why)


def offered(evaluate: Mapping[str, Any]) -> list[str]:
    """What an evaluation of runs can measure by: read from the extractor's source."""
    target = str((evaluate.get("extractor") or {}).get("_target_"))
    gives = [name for name in ("logits", "text") if targets.parameters(f"{target}.{name}") is not None]
    return [*DEFAULT_OFFER, *gives]


def listed(request: Mapping[str, Any]) -> str:
    """All ablations: cells x seeds of each budget, and how many of these are done, failed, missing."""
    budgets = list(request["budgets"])
    rows = [["", *budgets, ""]]
    for name in options("ablation"):
        try:
            ablation = read(name)
            states = [_state(planned(name, ablation, {**request, "budget": b}), request) for b in budgets]
            rows.append([name, *states, ablation.title])
        except Problems as problems:
            rows.append([name, *("" for _ in budgets), str(problems.problems[0])])
    return aligned(rows)


def _state(plan: Planned, request: Mapping[str, Any]) -> str:
    """`3 x 2: 4 done, 2 missing`, by the record of its sweep and the results folders that this names."""
    path = Path(request["paths"]["outputs"]) / "sweeps" / f"{plan.name.replace('/', '-')}-{plan.budget}.json"
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["cells"]
        known = {(c["values"]["cell"], c["values"]["seed"]): c for c in recorded}
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    counts = Counter(
        _state_of(known.get((said["cell"], said["seed"])), overrides) for said, overrides in plan.runs()
    )
    words = ", ".join(
        f"{counts[word]} {word}" for word in ("done", "running", "failed", "missing") if counts[word]
    )
    return f"{len(plan.cells)} x {len(plan.seeds)}: {words}"


def _state_of(cell: Mapping[str, Any] | None, overrides: Sequence[str]) -> str:
    """The state of a cell in a record; one that the record has with other overrides is missing."""
    if not cell or not cell.get("folder") or not set(overrides) <= set(cell["overrides"]):
        return "missing"
    try:
        state = Results(Path(cell["folder"]), str(cell["signature"])).state
    except ValueError:
        return "failed"
    return {"finished": "done", "live": "running", "failed": "failed"}.get(state, "missing")


def _reported(record: Path) -> int:
    """The ablation's report, and its short summary; 1 where there is nothing to report."""
    from unclip.runs import report

    print()
    try:
        return report.main([str(record)])
    except Problems as problems:
        print(f"unclip ablate: {problems}", file=sys.stderr)
        return FAILED


def _local(request: Mapping[str, Any]) -> list[str]:
    jobs = "null" if request["n_jobs"] is None else request["n_jobs"]
    return [f"hydra.launcher.n_jobs={jobs}", f"hydra.launcher.jobs_per_gpu={request['jobs_per_gpu']}"]


def _bracketed(argument: str) -> str:
    """`seeds=0,1` as the list that it is."""
    name, _, value = argument.partition("=")
    return f"{name}=[{value}]" if name == "seeds" and "," in value and not value.startswith("[") else argument
