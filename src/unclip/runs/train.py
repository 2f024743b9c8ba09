"""`unclip train`: one run, or with -m a Hydra multirun of them. Imports no torch: the run is a process of its own."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any

from unclip.cli import DONE, FAILED, INTERRUPTED, WRONG_REQUEST
from unclip.config.compose import compose
from unclip.config.problems import Problem, Problems
from unclip.runs import measure, process
from unclip.runs.cells import described, plan
from unclip.runs.multirun import hydra_main, multirun
from unclip.runs.store import Busy, Run, age, typed
from unclip.runs.upstream import no_data, request, resolve

SHOW = ("--cfg", "job", "hydra", "all")  # an option of Hydra's, and its values


def main(arguments: list[str]) -> int:
    """Check the request, train what it needs first, then become the training process."""
    flags, overrides = _separated(arguments)
    if SHOW[0] in flags:
        if "-m" not in flags:
            compose("train", overrides)
        return hydra_main("train", [*flags, *overrides], lambda config: None)
    if "-m" in flags:
        return multirun("train", overrides)
    composed = request(overrides)
    config, upstreams = resolve(composed)
    run = Run.of(config, composed.experiment)
    if config["dry_run"]:
        print(described(*plan([overrides], [])))
        return DONE
    if run.state == "finished":
        return _finished(run, {**config, "experiment": composed.experiment})
    if problems := no_data(config):
        raise Problems(problems)
    for stage, (upstream, upstream_overrides) in upstreams.items():
        if upstream.state != "finished":
            print(
                f"this {config['stage']['name']} needs its {stage} first: {typed('train', upstream_overrides)}",
                flush=True,
            )
            if status := process.run_child("unclip", "train", *upstream_overrides):
                return INTERRUPTED if status in process.WAS_STOPPED else FAILED
    return start(run, {**config, "experiment": composed.experiment}, typed("train", overrides))


def _separated(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Options, as Hydra knows them, and overrides. Raises Problems."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            overrides.append(word)
        elif word in ("-m", "--multirun"):
            flags.append("-m")
        elif word == "--resolve":
            flags.append(word)
        elif name in (SHOW[0], "-c"):
            value = value if equals else next(rest, "")
            if value not in SHOW[1:]:
                raise Problems(
                    [Problem(SHOW[0], value or None, f"prints what? possible: {', '.join(SHOW[1:])}")]
                )
            flags += [SHOW[0], value]
        else:
            why = "is no option of it; possible: -m, --cfg job, --resolve, --config-dir=DIR"
            raise Problems([Problem(word, None, why)])
    return flags, overrides


def start(run: Run, config: dict[str, Any], command: str) -> int:
    """Bring one run to its end in this very process; returns only where nothing is to be done."""
    waited = False
    while True:
        state = run.state
        if state == "finished":
            return _finished(run, config)
        if state == "failed" and (waited or not config["retry"]):
            # what has just failed is not tried again at once
            error = run.status.get("error", "unknown error")
            print(
                f"unclip train: this run failed: {error}\n  {run.folder}\n  to try again: {command} retry=true",
                file=sys.stderr,
            )
            return FAILED
        if state != "live":
            with suppress(Busy):  # another process was quicker
                run.prepare(config, command)
                process.become("unclip.runs.job", str(run.folder))
                return DONE
        if not os.environ.get(process.WAIT):
            holder = run.status.get("pid", "unknown")
            print(
                f"unclip train: {run.folder} is being trained by process {holder}: wait for it, or stop it",
                file=sys.stderr,
            )
            return WRONG_REQUEST
        time.sleep(process.WAIT_SECONDS)
        waited = True


def _finished(run: Run, config: dict[str, Any]) -> int:
    if measure.lacks(run, config):
        print(
            f"finished {age(run.status.get('finished'))}: measures what it lacks, trains nothing", flush=True
        )
        measure.ask(run, config)
        process.become("unclip.runs.measure", str(run.folder))
    metrics = ", ".join(f"{k} {v:.4g}" for k, v in sorted(run.status.get("metrics", {}).items()))
    print(f"finished {age(run.status.get('finished'))}, nothing to do{': ' + metrics if metrics else ''}")
    print(f"run: {run.folder}")
    return DONE
