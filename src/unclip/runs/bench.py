"""`unclip bench NAME`: how fast a part of the project is, beside what others use for the same; a table, bench.json
and bench.md. Imports no torch.

A benchmark is a module in unclip/bench/ with a function `measure(request)`, run in a process of its own, and its
settings in conf/bench_NAME.yaml. One whose settings have `training` takes overrides of `unclip train` too.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from unclip.bench import plan_tables, tables
from unclip.cli import DONE, FAILED, WRONG_REQUEST
from unclip.config import schema, targets
from unclip.config.compose import SCHEMAS, compose
from unclip.config.problems import nearest
from unclip.files import write_json, write_text
from unclip.runs.cells import key
from unclip.runs.store import typed
from unclip.runs.upstream import request as train_request

BENCHES = ("training", "prior", "sampling", "data", "evaluation", "sweep", "startup", "plan")


def main(arguments: list[str]) -> int:
    """Check the request, measure, print and write."""
    name, *overrides = arguments or [""]
    if name not in BENCHES:
        why = (
            f"{name} is no benchmark{nearest(name, BENCHES)}" if name and "=" not in name else "give one NAME"
        )
        print(f"unclip bench: {why}; possible: {', '.join(BENCHES)}", file=sys.stderr)
        return WRONG_REQUEST
    request = requested(name, overrides)
    found = _measured(name, request)
    if found is None:
        return FAILED
    result = {"bench": name, "command": typed("bench", arguments), "request": request, **found}
    folder = Path(request["out"])
    write_json(folder / "bench.json", result)
    shown: Any = plan_tables if name == "plan" else tables
    write_text(folder / "bench.md", shown.markdown(result))
    print(f"{shown.plain(result)}\n\n{folder / 'bench.json'}")
    return DONE


def requested(name: str, overrides: list[str]) -> dict[str, Any]:
    """The checked request. Raises Problems, also of the training that is asked for."""
    keys = set(targets.parameters(schema.named(SCHEMAS[f"bench_{name}"])) or {})
    if "training" not in keys:
        return compose(f"bench_{name}", overrides).config
    own = [o for o in overrides if key(o).split(".")[0] in keys]
    request = compose(f"bench_{name}", own).config
    rest = [o for o in overrides if o not in own]
    last = {key(o): o for o in [*request["training"], *rest]}  # what is typed has the last word on each key
    typed_once = request["training"] = list(last.values())
    trained = [[f"experiment={name}", *typed_once] for name in request.get("shares", [])] or [typed_once]
    for overrides in [*trained, *([request["prior"]] if "prior" in request else [])]:
        train_request(overrides)
    return request


def _measured(name: str, request: dict[str, Any]) -> dict[str, Any] | None:
    """What `measure(request)` of a benchmark gives, in a process of its own; None where that failed."""
    from unclip.runs.process import WAS_STOPPED, run_child

    with tempfile.TemporaryDirectory() as folder:
        asked, found = Path(folder, "request.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(request))
        status = run_child("unclip.bench", name, str(asked), str(found))
        if status in WAS_STOPPED:
            raise KeyboardInterrupt
        if status != 0 or not found.is_file():
            return None
        result: dict[str, Any] = json.loads(found.read_text())
        return result
