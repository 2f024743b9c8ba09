"""`unclip bench NAME`: how fast a part of the project is, beside what others use for the same; a table and bench.json.

A benchmark is a function here, its settings in conf/bench_NAME.yaml, and a module in unclip/bench/ that does the work,
run in a process a side so that neither's memory is the other's.
"""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from unclip.cli import DONE, FAILED, VERBS, WRONG_REQUEST
from unclip.config.compose import compose
from unclip.files import write_json

QUICK = {"n": 5_000, "features": 512}
FULL = {"n": 50_000, "features": 2048}  # what published distances are measured with


def main(arguments: list[str]) -> int:
    """Check the request, measure, print and write."""
    if not arguments or "=" in arguments[0]:
        print(VERBS["bench"].help, file=sys.stderr)
        return WRONG_REQUEST
    name, *overrides = arguments
    if name not in BENCHES:
        close = difflib.get_close_matches(name, BENCHES, 1)
        near = f"; nearest: {close[0]}" if close else ""
        print(f"unclip bench: {name} is no benchmark{near}; possible: {', '.join(BENCHES)}", file=sys.stderr)
        return WRONG_REQUEST
    return BENCHES[name](compose(f"bench_{name}", overrides).config)


def evaluation(request: dict[str, Any]) -> int:
    """The Frechet distance, ours and torchmetrics'."""
    sizes = {key: request[key] or (FULL if request["full"] else QUICK)[key] for key in QUICK}
    settings = {**sizes, "batch": request["batch"], "seed": request["seed"]}
    sides = {}
    for side in ("unclip", "torchmetrics"):
        found = _in_a_process("unclip.bench.evaluation", side, *map(str, settings.values()))
        if found is None:
            print(f"unclip bench: the process that measured {side} did not end well", file=sys.stderr)
            return FAILED
        sides[side] = found
    ours, theirs = sides["unclip"], sides["torchmetrics"]
    result = {
        "bench": "evaluation",
        **settings,
        **{key: ours.pop(key) for key in ("threads", "torch", "processor") if theirs.pop(key)},
        "torchmetrics_version": metadata.version("torchmetrics"),
        **sides,
        "times_faster": theirs["seconds"] / ours["seconds"],
        "relative_difference": abs(ours["value"] - theirs["value"]) / theirs["value"],
    }
    path = Path(request["out"]) / "bench.json"
    write_json(path, result)
    _show(result)
    print(f"\n{path}")
    return DONE


BENCHES: dict[str, Callable[[dict[str, Any]], int]] = {"evaluation": evaluation}


def _in_a_process(*arguments: str) -> dict[str, Any] | None:
    """What `python -m <arguments> FILE` writes into FILE, or None where it failed."""
    from unclip.runs.process import run_child

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "measured.json")
        if run_child(*arguments, str(file)) != 0 or not file.is_file():
            return None
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    ours, theirs = result["unclip"], result["torchmetrics"]
    rows = (
        ("mean and covariance", "update_seconds", "{:.2f} s", 1),
        ("distance", "distance_seconds", "{:.2f} s", 1),
        ("both", "seconds", "{:.2f} s", 1),
        ("memory of its own", "own_bytes", "{:,.0f} MB", 1e6),
        ("memory, libraries included", "peak_bytes", "{:,.0f} MB", 1e6),
        ("value", "value", "{:.9g}", 1),
    )
    print(
        f"Frechet distance of {result['n']:,} x 2 features of {result['features']:,}, float32, "
        f"{result['batch']} at a time, {result['threads']} threads\n"
    )
    table = Table("", "unclip", f"torchmetrics {result['torchmetrics_version']}", box=None, pad_edge=False)
    for name, key, form, unit in rows:
        table.add_row(name, *(form.format(side[key] / unit) for side in (ours, theirs)))
    Console().print(table)
    print(
        f"\n{result['times_faster']:.1f} times as fast; "
        f"the values differ by {result['relative_difference']:.1e} of their size "
        "(torchmetrics rounds its own to float32)"
    )
