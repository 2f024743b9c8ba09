"""`unclip bench NAME`: how fast a part of the project is, beside what others use for the same; a table, bench.json
and bench.md. Imports no torch.

A benchmark is a module in unclip/bench/ with a function `measure(request)`, run in a process of its own, and its
settings in conf/bench_NAME.yaml. One whose settings have `training` takes overrides of `unclip train` too.
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

from unclip.bench import tables
from unclip.cli import DONE, FAILED, VERBS, WRONG_REQUEST
from unclip.config import schema, targets
from unclip.config.compose import SCHEMAS, compose
from unclip.files import write_json, write_text
from unclip.runs.store import typed
from unclip.runs.upstream import request as train_request

QUICK = {"n": 5_000, "features": 512}
FULL = {"n": 50_000, "features": 2048}  # what published distances are measured with


def main(arguments: list[str]) -> int:
    """Check the request, measure, print and write."""
    if not arguments or "=" in arguments[0]:
        print(VERBS["bench"].help, file=sys.stderr)
        return WRONG_REQUEST
    name, *overrides = arguments
    if name in MEASURED:
        return measured(name, overrides)
    if name not in BENCHES:
        possible = (*BENCHES, *MEASURED)
        close = difflib.get_close_matches(name, possible, 1)
        near = f"; nearest: {close[0]}" if close else ""
        print(
            f"unclip bench: {name} is no benchmark{near}; possible: {', '.join(possible)}",
            file=sys.stderr,
        )
        return WRONG_REQUEST
    return BENCHES[name](compose(f"bench_{name}", overrides).config)


def measured(name: str, overrides: list[str]) -> int:
    """Check the request, measure, print and write."""
    own = set(targets.parameters(f"{schema.__name__}.{SCHEMAS[f'bench_{name}'].__name__}") or {})
    mine = [o for o in overrides if key_of(o).split(".")[0] in own]
    rest = [o for o in overrides if o not in mine]
    trains = "training" in own
    request = compose(f"bench_{name}", mine if trains else overrides).config
    if trains:  # what is typed has the last word on each key
        given = {key_of(o): o for o in [*request["training"], *rest]}
        request["training"] = list(given.values())
        train_request(request["training"])
    found = _in_a_process("unclip.bench", name, request=request)
    if found is None:
        return FAILED
    result = {"bench": name, "command": typed("bench", [name, *overrides]), "request": request, **found}
    folder = Path(request["out"])
    write_json(folder / "bench.json", result)
    write_text(folder / "bench.md", tables.markdown(result))
    print(f"{tables.plain(result)}\n\n{folder / 'bench.json'}")
    return DONE


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
MEASURED = ("training",)


def _in_a_process(*arguments: str, request: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """What `python -m <arguments> [REQUEST] FILE` writes into FILE, or None where it failed."""
    from unclip.runs.process import run_child

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "measured.json")
        if request is not None:
            asked = Path(folder, "request.json")
            asked.write_text(json.dumps(request))
            arguments = (*arguments, str(asked))
        if run_child(*arguments, str(file)) != 0 or not file.is_file():
            return None
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def key_of(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


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
