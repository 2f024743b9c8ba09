"""`unclip train`: one run, or with -m a Hydra multirun of them. Imports no torch: the run is a process of its own."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from unclip.cli import DONE, FAILED, INTERRUPTED, WRONG_REQUEST
from unclip.runs import measure, process
from unclip.runs.cells import described, plan
from unclip.runs.multirun import hydra_main, multirun
from unclip.runs.store import Run, age, typed
from unclip.runs.upstream import request, resolve

HYDRAS_OWN = ("--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p", "--hydra-help")


def main(arguments: list[str]) -> int:
    """Check the request, train what it needs first, then become the training process."""
    flags = [a for a in arguments if a.startswith("-")]
    overrides = [a for a in arguments if not a.startswith("-")]
    if any(flag.split("=")[0] in HYDRAS_OWN for flag in flags):
        return hydra_main("train", arguments, lambda config: None)
    if {"-m", "--multirun"} & set(flags):
        return multirun("train", flags, overrides)
    if flags:
        print(f"unclip train: {flags[0]} is no option of it: unclip train --help", file=sys.stderr)
        return WRONG_REQUEST
    composed = request(overrides)
    config, upstreams = resolve(composed)
    run = Run.of(config, composed.experiment)
    if config["dry_run"]:
        print(described(*plan([overrides], [])))
        return DONE
    if run.state == "finished":
        return _finished(run, {**config, "experiment": composed.experiment})
    for stage, (upstream, upstream_overrides) in upstreams.items():
        if upstream.state != "finished":
            print(
                f"this {config['stage']['name']} needs its {stage} first: {typed('train', upstream_overrides)}",
                flush=True,
            )
            if status := process.run_child("unclip", "train", *upstream_overrides):
                return status if status == INTERRUPTED else FAILED
    return start(run, {**config, "experiment": composed.experiment}, typed("train", overrides))


def start(run: Run, config: dict[str, Any], command: str) -> int:
    """Bring one run to its end in this very process; returns only where nothing is to be done."""
    state, waited = run.state, False
    while state == "live" and os.environ.get(process.WAIT):
        time.sleep(process.WAIT_SECONDS)
        state, waited = run.state, True
    if state == "finished":
        return _finished(run, config)
    if state == "live":
        holder = run.status.get("pid", "unknown")
        print(
            f"unclip train: {run.folder} is being trained by process {holder}: wait for it, or stop it",
            file=sys.stderr,
        )
        return WRONG_REQUEST
    if state == "failed" and (
        waited or not config["retry"]
    ):  # what has just failed is not tried again at once
        error = run.status.get("error", "unknown error")
        print(
            f"unclip train: this run failed: {error}\n  {run.folder}\n  to try again: {command} retry=true",
            file=sys.stderr,
        )
        return FAILED
    run.prepare(config, command)
    process.become("unclip.runs.job", str(run.folder))
    return DONE


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
