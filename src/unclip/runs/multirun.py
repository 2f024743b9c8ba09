"""How a sweep is handed to Hydra and its launchers: overrides to cells, `-m` to a multirun. Imports no torch.

Of `train` Hydra knows the overrides themselves; whole runs it is given by number, as their keys belong to several
configurations at once.
"""

from __future__ import annotations

import itertools
import math
import sys
from contextlib import ExitStack
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from unclip.cli import DONE
from unclip.config.compose import check_sweep, config_folder, many, one_at_a_time, options, own_folder, spoken
from unclip.config.problems import Problem, Problems
from unclip.runs import whole
from unclip.runs.cells import REQUESTS, key
from unclip.runs.sweep import Sweep

OF_HYDRA = ("hydra.", "hydra/")
KNOWN_SWEEPERS = ("local", "basic")  # they make each combination, once
MOST = 10_000  # runs of a sweep


def multirun(verb: str, overrides: list[str]) -> int:
    """`unclip VERB -m`: check every value, then hand the combinations to Hydra's launcher. Raises Problems."""
    hydras = [o for o in overrides if o.startswith(OF_HYDRA)]
    if verb == "train":
        check_sweep("train", overrides)
        mine = [o for o in overrides if not o.startswith(OF_HYDRA)]
        own = all(o.partition("=")[2] in KNOWN_SWEEPERS for o in hydras if o.startswith("hydra/sweeper="))
        return by_hydra(Sweep(verb, overrides, combinations(mine) if own else None), ["-m", *overrides])
    cells = checked([o for o in overrides if o not in hydras])
    return by_hydra(Sweep(verb, overrides, cells), numbered(len(cells), hydras))


def numbered(cells: int, hydras: list[str]) -> list[str]:
    """What Hydra is given for whole runs: their numbers. Raises Problems where its own overrides are wrong."""
    check_sweep("train", ["stage=classifier", *hydras])  # any request will do
    return ["--multirun", f"cell=range(0,{cells})", *hydras]


def by_hydra(sweep: Sweep, arguments: list[str]) -> int:
    """Launch a sweep, and sum it up."""
    try:
        hydra_main(sweep.verb, arguments, sweep)  # flags first: Hydra wants them in this order
    except KeyboardInterrupt:
        sweep.stopped = True
    return sweep.end()


def hydra_main(name: str, arguments: list[str], task: Any) -> int:
    """Hydra's own command line for conf/NAME.yaml."""
    import hydra

    own = own_folder()
    extra = [f"--config-dir={own}"] if own else []
    before = sys.argv
    sys.argv = [f"unclip {name}", *spoken(arguments), *extra]
    try:
        hydra.main(config_path=str(config_folder()), config_name=name, version_base="1.3")(task)()
    finally:
        sys.argv = before
    return DONE


def checked(overrides: list[str]) -> list[list[str]]:
    """The cells of a sweep of whole runs: every value of every axis is checked, the other axes at their first one.

    Raises:
        Problems: of all values together.
    """
    if named := next((o for o in overrides if key(o) == "results"), None):
        why = "a sweep's runs have a folder each, named by their signatures: leave it out"
        raise Problems([Problem("results", named.partition("=")[2], why)])
    axes = _axes(overrides)
    with ExitStack() as kept:
        for verb in REQUESTS["run"]:
            kept.enter_context(many(verb))
        if found := one_at_a_time(axes, _problems):
            raise Problems(found)
    return _product(axes)


def combinations(overrides: list[str]) -> list[list[str]]:
    """The cartesian product of what the overrides list. Raises Problems for what has no list of values."""
    return _product(_axes(overrides))


def _product(axes: list[list[str]]) -> list[list[str]]:
    if (count := math.prod(map(len, axes))) > MOST:
        raise Problems(
            [Problem("", None, f"the sweep would be of {count:,} runs or more; possible: {MOST:,} at a time")]
        )
    return [list(cell) for cell in itertools.product(*axes)]


def _axes(overrides: list[str]) -> list[list[str]]:
    parser, found, problems = OverridesParser.create(), [], []
    for line in overrides:
        try:
            parsed = parser.parse_override(line)
            found.append(_values(line, parsed) if parsed.is_sweep_override() else [line])
        except (HydraException, ValueError, TypeError):
            problems.append(Problem(line, None, "has no list of values: key=a,b, range(0,10) or glob(*)"))
    if problems:
        raise Problems(problems)
    return found


def _values(line: str, parsed: Override) -> list[str]:
    name, value = line.partition("=")[0], parsed.value()
    if isinstance(value, Glob):  # of the group's options, whichever stage it is for
        given = value.filter(options(key(line).rpartition(".")[2]))
        if not given:
            raise ValueError(line)
        return [f"{name}={option}" for option in given]
    return [f"{name}={option}" for option in itertools.islice(parsed.sweep_string_iterator(), MOST + 1)]


def _problems(cell: list[str]) -> list[Problem]:
    try:
        whole.planned(cell)
    except Problems as problems:
        return problems.problems
    return []
