"""Ablations as their files say them, conf/ablation/NAME.yaml: read, checked, and multiplied out to cells and seeds.

Composes nothing, so that all of them are looked at in no time; what is run is ablate.py's. Imports no torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from unclip.config import schema, targets
from unclip.config.compose import config_folder, options, own_folder
from unclip.config.problems import Problem, Problems, nearest
from unclip.config.schema import Ablation
from unclip.evaluate import catalogue
from unclip.reading import DamagedFile, misfit, read_yaml
from unclip.report.statistics import parse
from unclip.runs import shapes
from unclip.runs.where import as_text

OF_A_BUDGET = tuple(shapes.Budget.__dataclass_fields__)
IN_RECORD = ("title", "paper", "baseline", "seed_key", "metrics", "claims", "published")


@dataclass(frozen=True)
class Planned:
    """An ablation with a budget: the cells by name, each with the values of its axes and its own overrides."""

    name: str
    budget: str
    ablation: Ablation
    experiment: str
    seeds: list[int]
    overrides: list[str]  # of every cell
    cells: dict[str, tuple[dict[str, str], list[str]]]

    def runs(self, more: list[str] | None = None) -> Iterator[tuple[dict[str, str], list[str]]]:
        """(what it is called, the overrides of its `unclip run`) of each cell with each seed, the same for all."""
        for cell, seed in itertools.product(self.cells, self.seeds):
            values, own = self.cells[cell]
            said = {"cell": cell, "seed": str(seed), **values}
            base = [f"experiment={self.experiment}", *self.overrides, *(more or []), *own]
            yield said, [*base, f"{self.ablation.seed_key}={seed}"]

    @property
    def in_record(self) -> dict[str, Any]:
        """What a sweep's record says of it."""
        said = asdict(self.ablation)
        return {"name": self.name, "budget": self.budget, **{k: said[k] for k in IN_RECORD}}


def read(name: str) -> Ablation:
    """The ablation of this name. Raises Problems: all that is wrong with its file."""
    possible = options("ablation")
    if name not in possible:
        near = nearest(name, possible)
        raise Problems([Problem("", None, f"{name} is no ablation{near}; possible: {', '.join(possible)}")])
    folders = [folder / "ablation" for folder in (own_folder(), config_folder()) if folder]
    path = next(p for f in folders if (p := f / f"{name}.yaml").is_file())
    try:
        found = read_yaml(path)
    except DamagedFile as error:
        raise Problems([Problem("", None, str(error))]) from None
    found = {key: value for key, value in found.items() if value is not None}
    if isinstance(found.get("baseline"), int | float):
        found["baseline"] = as_text(found["baseline"])
    wrong = [*_fields(found)]
    if wrong := wrong or [*_parts(Ablation(**found))] or [*_content(Ablation(**found))]:
        raise Problems([Problem(f"{path.name}: {p.key}", p.given, p.why) for p in wrong])
    return Ablation(**found)


def cells_of(ablation: Ablation) -> dict[str, tuple[dict[str, str], list[str]]]:
    """By name the values of its axes and the overrides of each cell; of axes the names are made of the values."""
    if ablation.cells:
        return {str(name): ({}, list(lines or [])) for name, lines in ablation.cells.items()}
    keys, found = list(ablation.axes), {}
    for point in itertools.product(*ablation.axes.values()):
        values = dict(zip(keys, map(as_text, point), strict=True))
        name = " ".join(text.rpartition("/")[2].rpartition("=")[2] for text in values.values())
        found[name] = values, [f"{key}={text}" for key, text in values.items()]
    return found


def planned(name: str, ablation: Ablation, request: Mapping[str, Any]) -> Planned:
    """With the budget and the seeds of a request of `ablate`. Raises Problems."""
    budget, presets = request["budget"], request["budgets"]
    possible = [*presets, *(b for b in ablation.budgets if b not in presets)]
    if budget not in possible:
        why = f"no such budget{nearest(str(budget), possible)}; possible: {', '.join(possible)}"
        raise Problems([Problem("budget", budget, why)])
    chosen = {**presets.get(budget, {}), **(ablation.budgets.get(budget) or {})}
    seeds: list[int] = request["seeds"] or chosen.get("seeds") or []
    problems = []
    if not chosen.get("experiment"):
        problems.append(Problem(f"budgets.{budget}.experiment", None, "is not set"))
    if not seeds or len(set(seeds)) < len(seeds) or not all(isinstance(s, int) and s >= 0 for s in seeds):
        problems.append(Problem("seeds", seeds, "must be a list of different whole numbers: seeds=[0,1,2]"))
    if problems:
        raise Problems(problems)
    cells = cells_of(ablation)
    if chosen.get("cells"):
        cells = {str(c): cells[str(c)] for c in chosen["cells"]}
    overrides = [*ablation.overrides, *(chosen.get("overrides") or [])]
    return Planned(name, budget, ablation, chosen["experiment"], seeds, overrides, cells)


def _fields(found: dict[Any, Any]) -> Iterator[Problem]:
    accepted = targets.parameters(f"{schema.__name__}.Ablation") or {}
    for key, value in found.items():
        if key not in accepted:
            yield Problem(
                str(key),
                None,
                f"no such key{nearest(str(key), accepted)}; it has: {', '.join(accepted)}",
            )
        elif why := accepted[key].check(value):
            yield Problem(key, value, why)
    for key, parameter in accepted.items():
        if parameter.default is targets.REQUIRED and key not in found:
            yield Problem(key, None, "is not set")


def _content(ablation: Ablation) -> Iterator[Problem]:
    if bool(ablation.axes) == bool(ablation.cells):
        yield Problem("axes", None, "either axes or cells must say what the cells are, not both")
        return
    if wrong := [
        key for key, values in (ablation.axes or {}).items() if not isinstance(values, list) or not values
    ]:
        yield Problem(f"axes.{wrong[0]}", None, "must be a list of values")
        return
    names = list(cells_of(ablation))
    count = math.prod(map(len, (ablation.axes or {}).values()))
    if ablation.axes and len(names) < count:
        yield Problem("axes", None, f"{count} combinations have only {len(names)} names: name them in cells")
    for name in names:
        if set("<>") & set(name):
            yield Problem("cells", name, "a name has no < or >: claims compare with them")
    for where, name in _named(ablation):
        if name not in names:
            yield Problem(where, name, f"is no cell{nearest(name, names)}; possible: {', '.join(names)}")
    for i, claim in enumerate(ablation.claims):
        if why := _unreadable(claim["claim"]):
            yield Problem(f"claims[{i}]", None, why)
    for budget, one in ablation.budgets.items():
        for key in one or {}:
            if key not in OF_A_BUDGET:
                yield Problem(f"budgets.{budget}", key, f"no such key; it has: {', '.join(OF_A_BUDGET)}")
    claimed = [str(claim["metric"]) for claim in ablation.claims]
    heads = [metric.split(".")[0] for metric in [*ablation.metrics, *claimed]]
    for name, why in catalogue.wrong_names(dict.fromkeys(heads)):
        yield Problem("metrics", name, why)


def _parts(ablation: Ablation) -> Iterator[Problem]:
    """Claims, tables and budgets of another form than they must have."""
    for kind, shape in (("claims", "Claim"), ("published", "Published")):
        for i, one in enumerate(getattr(ablation, kind)):
            if why := misfit(one, f"{shapes.__name__}.{shape}"):
                yield Problem(f"{kind}[{i}]", None, why)
    for budget, one in ablation.budgets.items():
        if why := misfit(one or {}, f"{shapes.__name__}.Budget"):
            yield Problem(f"budgets.{budget}", None, why)


def _named(ablation: Ablation) -> Iterator[tuple[str, str]]:
    """(where, name) of every cell that the file speaks of."""
    if ablation.baseline is not None:
        yield "baseline", ablation.baseline
    for i, claim in enumerate(ablation.claims):
        pairs = [] if _unreadable(claim["claim"]) else parse(claim["claim"])
        yield from ((f"claims[{i}]", name) for left, _, right in pairs for name in (left, right))
    for i, published in enumerate(ablation.published):
        yield from ((f"published[{i}]", str(name)) for name in published["values"])
    for budget, one in ablation.budgets.items():
        yield from ((f"budgets.{budget}.cells", str(name)) for name in (one or {}).get("cells") or [])


def _unreadable(claim: str) -> str | None:
    try:
        parse(claim)
    except ValueError as error:
        return str(error)
    return None
