"""What a search is over, as its file says it: axes, objectives, and what may be wrong with them. Imports no Optuna."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from unclip.config.problems import Problem

RANGE, CHOICES = {"of", "low", "high", "step", "log"}, {"of", "choices"}
Point = dict[str, Any]  # by name the values of a trial


@dataclass(frozen=True)
class Axis:
    """One searched value: the keys that it goes to, and a range (numbers, whole where both ends are) or choices."""

    name: str
    keys: tuple[str, ...]
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(text, self.choices))
        steps = f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{steps}{', log' if self.log else ''}"

    def overrides(self, value: Any) -> list[str]:
        """What a value of it is, typed: the same for each of its keys."""
        return [f"{key}={text(value)}" for key in self.keys]


@dataclass(frozen=True)
class Objective:
    """A metric of the finished run, and which way is better."""

    metric: str
    direction: str


def axes_of(given: Any) -> tuple[dict[str, Axis], list[Problem]]:
    """The axes of a search's `space`, and what is wrong with it."""
    if not isinstance(given, dict) or not given:
        return {}, [Problem("space", given, "must name values to search, each with low and high, or choices")]
    found: dict[str, Axis] = {}
    problems: list[Problem] = []
    for name, node in given.items():
        if why := _wrong_axis(node):
            problems.append(Problem(f"space.{name}", node, why))
            continue
        of = node.get("of", name)
        keys = tuple(of) if isinstance(of, list) else (of,)
        if "choices" in node:
            choices = [c if _is_plain(c) else json.dumps(c).replace(" ", "") for c in node["choices"]]
            found[name] = Axis(name, keys, choices=tuple(choices))
        else:
            low, high, step = node["low"], node["high"], node.get("step")
            found[name] = Axis(name, keys, low, high, step, bool(node.get("log", False)))
    return found, problems


def _wrong_axis(node: Any) -> str | None:
    if not isinstance(node, dict) or not (node.keys() <= CHOICES or node.keys() <= RANGE):
        return "must have low and high (and step, or log: true), or choices; of: the key or keys it goes to"
    if "choices" in node:
        return None if isinstance(node["choices"], list) and node["choices"] else "choices must be a list"
    low, high, step = (node.get(key) for key in ("low", "high", "step"))
    numbers = (low, high, *([] if step is None else [step]))
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers):
        return "low, high and step must be numbers"
    assert low is not None
    assert high is not None
    if low > high:
        return f"is empty: low = {low} must not exceed high = {high}"
    if node.get("log") and low <= 0:
        return f"log needs low > 0, not {low}"
    if step is not None and (step <= 0 or node.get("log")):
        return "step must be above 0, and goes with log: false only"
    return None


def objectives_of(config: dict[str, Any]) -> tuple[list[Objective], list[Problem]]:
    """The objectives of a search, and what is wrong with them."""
    given, ways = config.get("objectives"), ("minimize", "maximize")
    why = "must be a list of {metric: NAME, direction: minimize|maximize}"
    if not isinstance(given, list) or not given:
        return [], [Problem("objectives", given, why)]
    wrong = [o for o in given if not isinstance(o, dict) or o.keys() != {"metric", "direction"}]
    wrong += [o for o in given if o not in wrong and o["direction"] not in ways]
    problems = [Problem("objectives", o, why) for o in wrong]
    prunes = not str(config["prune"].get("_target_")).endswith(".NopPruner")
    if prunes and len(given) > 1:
        problems.append(Problem("prune", None, "has no order to go by with two objectives: prune=none"))
    if prunes and config["verb"] == "run":
        problems.append(Problem("prune", None, "looks at a training while it runs; verb run: prune=none"))
    return ([] if wrong else [Objective(o["metric"], o["direction"]) for o in given]), problems


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def text(value: Any) -> str:
    """A value as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, float) else str(value)


def short(value: Any) -> str:
    """A value as it is shown: four digits."""
    return f"{value:.4g}" if isinstance(value, float) else text(value)
