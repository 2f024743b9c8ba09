"""`unclip run experiment=NAME`: every stage in the order of dependence, then samples, metrics and report; -m sweeps it.

Imports no torch: each stage is a process of its own. What the stages are is planned in whole.py.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from unclip.cli import DONE, FAILED, INTERRUPTED, WRONG_REQUEST
from unclip.config.compose import options
from unclip.config.problems import Problem, Problems, in_words, last_line
from unclip.files import write_json
from unclip.report import table
from unclip.runs import process
from unclip.runs.store import REQUEST, Busy, Run, now, typed
from unclip.runs.upstream import no_data
from unclip.runs.whole import Step, Whole, planned


def main(arguments: list[str]) -> int:
    """Train what is missing, then deliver; what is finished is reused."""
    flags = [a for a in arguments if a.startswith("-")]
    overrides = [a for a in arguments if not a.startswith("-")]
    if unknown := [f for f in flags if f not in ("-m", "--multirun")]:
        raise Problems([Problem(unknown[0], None, "is no option of it; possible: -m, --config-dir=DIR")])
    if flags:
        from unclip.runs.multirun import multirun

        return multirun("run", overrides)
    asked = planned(overrides)
    if (by := asked.results.anothers) is not None:
        why = f"holds the results of another request{f' ({by})' if by else ''}: "
        how = f"another folder, or remove {asked.results.product} to have them overwritten"
        raise Problems([Problem("results", asked.results.folder, why + how)])
    if asked.dry_run:
        from unclip.runs.cells import described, plan

        print(described(*plan([overrides], [], verb="run")))
        return DONE
    if asked.results.state == "finished" and all(s.run.state == "finished" for s in asked.steps):
        return _carried_out(asked, overrides, None)  # nothing to write, and perhaps no right to
    if lost := [p for step in asked.steps if step.run.state != "finished" for p in no_data(step.config)]:
        raise Problems(list(dict.fromkeys(lost)))
    return start(asked, overrides)


def start(asked: Whole, overrides: list[str]) -> int:
    """Carry out a whole run under its lock. Where another process holds that, a child of a sweep waits for it; a
    command that was typed is refused."""
    results, waited = asked.results, False
    while True:
        try:
            with results.lock() as lock:
                if waited and results.state_unlocked == "failed":  # what has just failed is not tried again
                    print(f"unclip run: this run failed: {results.status.get('error')}", file=sys.stderr)
                    return FAILED
                return _attempt(asked, overrides, lock)
        except Busy:
            if not os.environ.get(process.WAIT):
                why = f"{results.folder} is being made by process {results.status.get('pid', 'unknown')}"
                print(f"unclip run: {why}: wait for it, or stop it", file=sys.stderr)
                return WRONG_REQUEST
        waited = True
        time.sleep(process.WAIT_SECONDS)


def _attempt(asked: Whole, overrides: list[str], lock: int) -> int:
    results, started = asked.results, time.monotonic()
    own = results.status.get("signature") == results.signature
    before = {k: results.status.get(k, 0.0) if own else 0.0 for k in ("seconds", "elapsed")}
    if results.state_unlocked != "finished":
        write_json(results.folder / REQUEST, asked.record)
    results.mark(
        "running", signature=results.signature, command=typed("run", overrides), started=now(), error=None,
        **before,
    )  # fmt: skip
    try:
        status = _carried_out(asked, overrides, lock)
    finally:
        elapsed = round(before["elapsed"] + time.monotonic() - started, 1)
        with suppress(OSError, ValueError):
            results.note(stage=None, elapsed=elapsed)
    if status == DONE:
        with suppress(OSError):  # it is finished by its record, whatever else can be written
            results.mark("finished", finished=now())
    return status


def _carried_out(asked: Whole, overrides: list[str], lock: int | None) -> int:
    """The stages and the delivery, said step by step; without a lock nothing is written, as all is there."""
    steps, results, experiment = asked.steps, asked.results, asked.experiment
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps) + 1}] {typed('train', step.overrides)}", flush=True)
        if step.run.state == "finished":
            print(f"      finished already: {step.run.folder}", flush=True)
            continue
        results.note(stage=step.stage)
        if status := process.run_child("unclip", "train", *step.overrides):
            return _stopped(status, asked, overrides, step)
    number = len(steps) + 1
    print(f"[{number}/{number}] samples, metrics and report into {results.folder}", flush=True)
    if results.state_unlocked == "finished":
        print("      finished already", flush=True)
    else:
        assert lock is not None
        results.note(stage="sampling")
        results.product.unlink(missing_ok=True)  # a damaged one: from here on the folder holds nothing whole
        began = time.monotonic()
        status = process.run_child("unclip.report.deliver", str(results.folder), pass_fds=(lock,))
        seconds = round(results.status.get("seconds", 0.0) + time.monotonic() - began, 1)
        results.note(seconds=seconds)
        if status:
            return _stopped(status, asked, overrides, None)
    measured = json.loads((results.folder / "metrics.json").read_text(encoding="utf-8"))
    if lock is not None:
        results.note(metrics=main_numbers(measured))
    if not os.environ.get(process.WAIT):  # else a cell of a sweep, which says itself what came of it
        print()
        table.show(measured)
        print(summary(results.folder, experiment))
    return DONE


def main_numbers(measured: dict[str, Any]) -> dict[str, float]:
    """Of each metric its value."""
    found = {name: one.get("value") for name, one in measured.items() if isinstance(one, dict)}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _stopped(status: int, asked: Whole, overrides: list[str], step: Step | None) -> int:
    """Say why it stops there, and what to type."""
    command = typed("run", overrides)
    if status in process.WAS_STOPPED:
        asked.results.mark("interrupted")
        print(f"\ninterrupted; to go on from here: {command}", file=sys.stderr)
        return INTERRUPTED
    error = _error(step.run) if step else _error(asked.results)
    if error:
        asked.results.mark("failed", error=f"{step.stage}: {error}" if step else error)
    else:  # it could not say what: killed, say, and to be resumed like any that was interrupted
        asked.results.mark("interrupted")
    print(f"\nunclip run: stopped by the failure above; when it is mended: {command}", file=sys.stderr)
    return FAILED


def _error(run: Run) -> str | None:
    """The last line of what a run says has failed."""
    try:
        status = run.status
    except (OSError, ValueError) as damaged:
        return in_words(damaged)
    return last_line(status.get("error")) or None if status.get("state") == "failed" else None


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
    last = json.loads((folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    prompts = (
        f" prompts={shlex.quote(json.dumps([last['prompt']], ensure_ascii=False))}" if last["prompt"] else ""
    )
    own = f"{experiment}/evaluate"  # its judge, among others
    judged = f" experiment={own}" if own in options("experiment") else ""
    return [
        *activation(),
        f"unclip sample run={folder}{prompts} per_prompt=8",
        f"unclip evaluate run={folder}{judged} guidance=1",
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
