"""`unclip runs`: what runs there are, two of them compared, and those removed that nobody needs. Imports no torch.

Plain arguments, no Hydra: it answers at once, also for runs that no longer compose.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unclip.cli import DONE, FAILED
from unclip.config.problems import Problem, Problems, nearest
from unclip.runs import where
from unclip.runs.listing import UNREADABLE, Listed, chosen, dotted, in_order, scan
from unclip.runs.store import CLOCKS_DIFFER, Busy, find

ACTIONS = ("compare", "clean")
KEYS = {
    "list": ("paths.outputs", "where", "sort", "limit"),
    "compare": ("paths.outputs",),
    "clean": ("paths.outputs", "where", "older", "yes"),
}
UNFINISHED = ("new", "interrupted", "failed")
FIRST = ("fd", "fid", "loss")  # of a run's metrics, those to look at first
SHOWN = 3
MB = 1e6


def main(arguments: list[str]) -> int:
    """List, compare or clean."""
    as_json = "--json" in arguments
    words = [a for a in arguments if "=" not in a and a != "--json"]
    action = words.pop(0) if words and words[0] in ACTIONS else "list"
    options = _options(action, [a for a in arguments if "=" in a])
    if unknown := [w for w in words if w.startswith("-")]:
        raise Problems([Problem(unknown[0], None, "is no option of it: unclip runs --help")])
    if action == "compare":
        return compare(words, Path(options.get("paths.outputs", "outputs")), as_json)
    if len(words) > 1:
        raise Problems(
            [Problem("", None, f"{len(words)} folders are given, one is possible: {' '.join(words)}")]
        )
    folder = Path(words[0] if words else options.get("paths.outputs", "outputs"))
    if not folder.is_dir():
        near = nearest(words[0], ACTIONS) if words else ""
        raise Problems(
            [Problem("paths.outputs", folder, f"there is no such folder{near}; give one with runs")]
        )
    return (clean if action == "clean" else show)(folder, options, as_json)


# ---- the list ---------------------------------------------------------------------------------------------------


def show(folder: Path, options: dict[str, str], as_json: bool) -> int:
    """The runs under a folder, newest first, as lines or JSON."""
    limit = options.get("limit")
    if limit is not None and not (limit.isdecimal() and int(limit)):
        raise Problems([Problem("limit", limit, "is no whole number above 0")])
    every, notes = scan(folder)
    found = in_order(chosen(every, options.get("where")), every, options.get("sort", "age"))
    listed = found[: int(limit)] if limit else found
    if as_json:
        _print_json([_as_json(one) for one in listed])
    elif every:
        _table(
            ("experiment", "stage", "signature", "state", "age", "steps", ""), [_row(one) for one in listed]
        )
        of = f" of {len(every)}" if len(found) < len(every) else ""
        first = f", the first {len(listed)} shown" if len(listed) < len(found) else ""
        states = ", ".join(f"{n} {state}" for state, n in Counter(one.state for one in found).most_common())
        print(f"\n{_runs(len(found))}{of}{': ' + states if states else ''}{first}")
    else:
        print(f"no runs under {folder}")
    _complain([*notes, *(one.problem for one in every if one.problem)])
    return DONE


def _row(one: Listed) -> list[str]:
    columns = one.columns()
    step, steps = columns["step"], columns["steps"]
    done = "" if step is None else f"{step}" if steps in (None, -1, step) else f"{step}/{steps}"
    said = columns["error"] or ", ".join(f"{k} {v:.4g}" for k, v in _main_metrics(one))
    names = (str(columns[key] or "") for key in ("experiment", "stage", "signature", "state"))
    return [*names, _ago(one.age), done, " ".join(str(said).split())]


def _main_metrics(one: Listed) -> list[tuple[str, float]]:
    metrics = [(k, n) for k, v in one.metrics.items() if (n := where.number(v)) is not None]
    rank = {prefix: i for i, prefix in enumerate(FIRST)}
    metrics.sort(key=lambda item: rank.get(item[0].split("_")[0], len(rank)))
    return metrics[:SHOWN]


def _as_json(one: Listed) -> dict[str, Any]:
    return {**one.columns(), "seed": one.config.get("seed"), "metrics": one.metrics}


# ---- two runs ---------------------------------------------------------------------------------------------------


def compare(names: list[str], outputs: Path, as_json: bool) -> int:
    """The keys in which two runs' configurations differ, and their metrics."""
    if len(names) != 2:
        given = f"{len(names)} given{': ' if names else ''}{' '.join(names)}"
        raise Problems([Problem("compare", None, f"takes two runs, by signature or folder; {given}")])
    pair = [_one(name, outputs) for name in names]
    a, b = (dict(_leaves(one.config)) for one in pair)
    absent = "-"
    keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key, absent) != b.get(key, absent)]
    metrics = list(dict.fromkeys([*pair[0].metrics, *pair[1].metrics]))
    if as_json:
        runs = [_as_json(one) for one in pair]
        _print_json({"runs": runs, "differences": {k: [a.get(k), b.get(k)] for k in keys}})
        return DONE
    rows = [[key, *(where.as_text(c[key]) if key in c else absent for c in (a, b))] for key in keys]
    rows += [["", "", ""], ["state", *(one.state for one in pair)]]
    rows += [[key, *(where.as_text(one.metrics.get(key, absent)) for one in pair)] for key in metrics]
    _table(("", *(one.run.signature for one in pair)), rows)
    print(f"\n{len(keys)} differing {'key' if len(keys) == 1 else 'keys'}")
    return DONE


def _one(name: str, outputs: Path) -> Listed:
    found = find(name, outputs)
    if len(found) != 1:
        many = f"names {len(found)} runs: {', '.join(str(run.folder) for run in found)}"
        none = f"names no run under {outputs}; give a signature, its beginning, or a folder"
        raise Problems([Problem("compare", name, many if found else none)])
    (one,), _ = scan(found[0].folder)
    if one.problem and not one.config:
        raise Problems([Problem("compare", name, one.problem)])
    return one


def _leaves(config: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((key, value) for key, value in dotted(config) if not (isinstance(value, dict) and value))


# ---- removal ----------------------------------------------------------------------------------------------------


def clean(folder: Path, options: dict[str, str], as_json: bool) -> int:
    """What may go, and with yes=true its removal."""
    from unclip.runs import cleaning

    older, yes = options.get("older"), options.get("yes", "false")
    seconds = where.duration(older) if older else 0.0
    if seconds is None:
        raise Problems([Problem("older", older, "is no time; possible: 30d, 12h, 90m, 2w")])
    if yes not in ("true", "false"):
        raise Problems([Problem("yes", yes, "must be true or false")])
    every, notes = scan(folder)
    meant = [one for one in chosen(every, options.get("where")) if one.age >= seconds]
    if "where" not in options:
        meant = [one for one in meant if one.state in (*UNFINISHED, UNREADABLE)]
    references = cleaning.referring(every, folder) if meant else cleaning.References([])
    kept = {one.folder: why for one in meant if (why := cleaning.stays(one, references))}
    going = [one for one in meant if one.folder not in kept]
    rests = list(cleaning.rests(folder))  # decided on before, whatever is meant now
    sizes = {path: cleaning.size(path) for path in [*(one.folder for one in going), *rests]}
    removed, finished, failures = _removed(going, rests) if yes == "true" else ([], [], [])
    gone, over = (removed, finished) if yes == "true" else (going, rests)
    freed = sum(sizes[path] for path in [*(one.folder for one in gone), *over]) / MB
    if as_json:
        lists = {"removed": removed, "would_remove": going if yes != "true" else []}
        _print_json(
            {
                **{name: [_as_json(one) for one in runs] for name, runs in lists.items()},
                "kept": {str(path): why for path, why in kept.items()},
                "rests": [str(path) for path in over],
                "mb": round(freed, 3),
            }
        )
    else:
        rows = [[f"{sizes[one.folder] / MB:.1f} MB", *_row(one)] for one in gone]
        if rows:
            _table(("", "experiment", "stage", "signature", "state", "age", "steps", ""), rows)
            print()
        for path, why in kept.items():
            print(f"stays: {path} {why}")
        for path in over:
            print(f"rest of a removal that was cut off: {path}, {sizes[path] / MB:.1f} MB")
        if yes == "true":
            print(f"{_runs(len(removed))} removed, {freed:.1f} MB freed")
        else:
            print(
                f"{_runs(len(going))} would go, {freed:.1f} MB"
                f"{'; to remove: the same with yes=true' * bool(going or rests)}"
            )
    _complain([*notes, *failures])
    return FAILED if failures else DONE


def _removed(going: list[Listed], rests: list[Path]) -> tuple[list[Listed], list[Path], list[str]]:
    """Those runs and rests that are gone, and why others are not."""
    from unclip.runs import cleaning

    every: list[Listed | Path] = [*going, *rests]
    removed, finished, failures = [], [], []
    for one in every:
        try:
            if isinstance(one, Listed):
                cleaning.remove(one)
                removed.append(one)
            else:
                cleaning.finish(one)
                finished.append(one)
        except (OSError, Busy) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            path = one.folder if isinstance(one, Listed) else one
            failures.append(f"{path} is not removed: {reason}")
    return removed, finished, failures


# ---- said -------------------------------------------------------------------------------------------------------


def _options(action: str, given: list[str]) -> dict[str, str]:
    options = dict(line.split("=", 1) for line in given)
    possible = KEYS[action]
    wrong = [
        Problem(key, value, f"no such key{nearest(key, possible)}; possible: {', '.join(possible)}")
        for key, value in options.items()
        if key not in possible
    ]
    if wrong:
        raise Problems(wrong)
    return options


def _runs(count: int) -> str:
    return f"{count} {'run' if count == 1 else 'runs'}"


def _ago(seconds: float) -> str:
    if seconds < -CLOCKS_DIFFER:
        return "future"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _table(heads: Sequence[str], rows: list[list[str]]) -> None:
    """Columns as wide as they need; lines end where the terminal does."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    end = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in [list(heads), *rows]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip()[:end])


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=1, default=str))


def _finite(value: Any) -> Any:
    """NaN and infinities, which JSON has not, as null."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _complain(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"unclip runs: {note}", file=sys.stderr)
