"""`unclip search NAME`: what is asked for, checked, and what is said about it. Imports no torch, and Optuna only when
the request is sound.

The trials' records are in search_study.py, their processes in search_jobs.py, the page in report/search.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.cli import DONE, FAILED, INTERRUPTED, WRONG_REQUEST
from unclip.config.compose import compose, options
from unclip.config.problems import Problem, Problems
from unclip.runs import whole
from unclip.runs.cells import Cell, aligned, key, plan
from unclip.runs.search_space import Axis, Objective, Point, axes_of, objectives_of, short
from unclip.runs.store import typed
from unclip.runs.upstream import request as train_request

HOW = (
    "trials",
    "storage",
    "n_jobs",
    "jobs_per_gpu",
    "retry",
    "report",
    "dry_run",
    "suggest",
    "prune",
)  # keys of the search that do not change what is searched
WHAT = ("space", "objectives", "intermediate")  # keys of the search that do


@dataclass(frozen=True)
class Request:
    """A checked search."""

    name: str  # NAME, or NAME-<hash> where the command line changes what is searched
    config: dict[str, Any]
    overrides: list[str]  # of every trial
    space: dict[str, Axis]
    objectives: list[Objective]
    command: str

    @property
    def folder(self) -> Path:
        """Of the report and of the locks; the journal lies beside it."""
        return Path(self.config["paths"]["outputs"]) / "searches" / self.name

    @property
    def what(self) -> dict[str, Any]:
        """All that a trial's value depends on: trials are only compared with those of the same."""
        found = {
            "verb": self.config["verb"],
            "overrides": [o for o in self.overrides if not o.startswith("paths.")],
            **{key: self.config[key] for key in WHAT},
        }
        return dict(json.loads(json.dumps(found)))

    def of_trial(self, point: Point) -> list[str]:
        """The overrides of the trial at this point: the search's, then its own."""
        retry = ["retry=true"] if self.config["retry"] else []
        own = [o for name, axis in self.space.items() if name in point for o in axis.overrides(point[name])]
        return [*self.overrides, *own, *retry]


def main(arguments: list[str]) -> int:
    """Check the request, bring the search to its number of trials, write its page."""
    names = [a for a in arguments if "=" not in a and not a.startswith("-")]
    flags = [a for a in arguments if a.startswith("-")]
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    if flags == ["--list"]:
        print(listed(overrides))
        return DONE
    if flags or len(names) != 1:
        why = f"{flags[0]} is no option of it" if flags else "give one NAME"
        print(f"unclip search: {why}; possible: {', '.join(options('search'))}, --list", file=sys.stderr)
        return WRONG_REQUEST
    asked = request(names[0], overrides)
    _first_trial(asked)
    _needs_optuna()
    from unclip.runs.search_jobs import Jobs
    from unclip.runs.search_study import Ledger

    config = asked.config
    jobs = Jobs(asked)  # a wrong number of them is said before anything is written
    if config["dry_run"]:
        ledger = Ledger(asked) if Ledger.exists(asked) else None
        print(described(asked, ledger.counts() if ledger else ""))
        return DONE
    if config["report"] and not Ledger.exists(asked):
        raise Problems([Problem("report", asked.name, f"this search has no trials yet: {asked.command}")])
    with Ledger(asked) as ledger:
        print(f"search {asked.name}: {ledger.counts()}; {ledger.place}", flush=True)
        stopped = False if config["report"] else jobs.work(ledger)
        return _end(asked, ledger, stopped)


def _end(asked: Request, ledger: Any, stopped: bool) -> int:
    from unclip.report import search as page

    trials = ledger.trials()
    if any(t.state == "complete" for t in trials):
        print(f"\n{summary(asked, trials)}\n{page.deliver(asked, trials, ledger.importance())}")
    failed = [t for t in trials if t.state == "failed"]
    print(f"search {asked.name}: {ledger.counts()}")
    if failed:
        lines = [f"  [{t.number}] {t.label}: {t.error}" for t in failed]
        count = "1 trial" if len(failed) == 1 else f"{len(failed)} trials"
        print(
            "\n".join([f"\nunclip search: {count} failed:", *lines]),
            f"to try failed trials again: {asked.command} retry=true",
            sep="\n",
            file=sys.stderr,
        )
    if stopped:
        print(f"\ninterrupted; to go on from here: {asked.command}", file=sys.stderr)
        return INTERRUPTED
    return DONE if any(t.state == "complete" for t in trials) else FAILED


def request(name: str, overrides: list[str]) -> Request:
    """The search NAME with these overrides, checked. Raises Problems, all in one message."""
    own = [o for o in overrides if key(o).split(".")[0] in (*HOW, *WHAT, "paths")]
    rest = [o for o in overrides if key(o).split(".")[0] not in (*HOW, *WHAT)]  # paths: of both
    config = compose("search", [f"search={name}", *own]).config
    space, wrong = axes_of(config["space"])
    objectives, more = objectives_of(config)
    if wrong or more:
        raise Problems([*wrong, *more])
    given = {key(o): o for o in config["overrides"]} | {key(o): o for o in rest}
    what = [o for o in overrides if key(o).split(".")[0] not in (*HOW, "paths")]
    digest = hashlib.sha256(json.dumps(sorted(what)).encode()).hexdigest()[:8]
    asked = [o for o in overrides if key(o) not in ("retry", "report", "dry_run")]
    return Request(
        name=f"{name}-{digest}" if what else name,
        config=config,
        overrides=list(given.values()),
        space=space,
        objectives=objectives,
        command=typed("search", [name, *asked]),
    )


def cell(asked: Request, point: Point, number: int) -> Cell:
    """The run of the trial at this point; where the request for it is wrong, why."""
    (found,) = plan([asked.of_trial(point)], [], start=number, verb=asked.config["verb"])
    found.values = {name: short(value) for name, value in point.items()}
    return found


def described(asked: Request, counts: str) -> str:
    """`dry_run=true`: what is searched, and how far it has come."""
    config = asked.config
    rows = [[axis.name, ", ".join(axis.keys), str(axis)] for axis in asked.space.values()]
    ways = [f"{o.direction} {o.metric}" for o in asked.objectives]
    by, pruned = (config[key]["_target_"].rpartition(".")[2] for key in ("suggest", "prune"))
    counts = counts or f"0 of {config['trials']} trials"
    return "\n".join(
        [
            f"search {asked.name}: {counts}",
            f"{' and '.join(ways)}, by {by}, {pruned}",
            aligned(rows),
            f"a trial: {typed(config['verb'], asked.of_trial(_corner(asked)))}",
        ]
    )


def summary(asked: Request, trials: list[Any]) -> str:
    """The best trials, and the command line of the first of them."""
    best = [t for t in trials if t.best]
    rows = [["", *(o.metric for o in asked.objectives), *asked.space, "folder"]]
    for t in best:
        values = [f"{v:.5g}" for v in t.values]
        rows.append([f"[{t.number}]", *values, *(short(t.point.get(n)) for n in asked.space), t.folder or ""])
    word = "best" if len(asked.objectives) == 1 else "not to be had better in both"
    return f"{word}:\n{aligned(rows)}\n{typed(asked.config['verb'], asked.of_trial(best[0].point))}"


def listed(overrides: list[str]) -> str:
    """Every search there is, with how far it has come here."""
    rows = [["search", "what", "verb", "objectives", "trials"]]
    for name in options("search"):
        asked = request(name, overrides)
        metrics = ", ".join(o.metric for o in asked.objectives)
        rows.append([name, asked.config["title"], asked.config["verb"], metrics, _progress(asked)])
    return aligned(rows)


def _progress(asked: Request) -> str:
    if importlib.util.find_spec("optuna") is None:
        return ""
    from unclip.runs.search_study import Ledger

    try:
        return Ledger(asked).counts() if Ledger.exists(asked) else f"0 of {asked.config['trials']}"
    except Problems as problems:
        return str(problems.problems[0])


def _needs_optuna() -> None:
    if importlib.util.find_spec("optuna") is None:
        why = "needs Optuna, which is not installed: pip install 'unclip-lab[search]'"
        raise Problems([Problem("unclip search", None, why)])


def _first_trial(asked: Request) -> None:
    """Unknown keys and the like are said at once, not by every trial."""
    check = train_request if asked.config["verb"] == "train" else whole.planned
    check(asked.of_trial(_corner(asked)))


def _corner(asked: Request) -> Point:
    return {name: axis.choices[0] if axis.choices else axis.low for name, axis in asked.space.items()}
