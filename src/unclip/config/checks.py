"""What is wrong with one composed request: keys that are not there, values that their targets do not take, rules
between keys that it breaks. Composes nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.override_parser.types import Override

from unclip.config import rules, targets
from unclip.config.problems import Problem


def keys_of(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key under its dotted name, nodes included."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def key_problem(override: Override, config: dict[str, Any], keys: list[str]) -> Problem | None:
    """What is wrong with the key of an override, the configuration having `keys`."""
    key = override.key_or_group
    if override.is_hydra_override() or key.split(".")[0] == "hydra":
        return None
    if override.is_add() or override.is_force_add():
        return None  # the target's signature decides, once it is composed
    if key in keys:
        return None
    given = None if override.is_delete() else override.get_value_element_as_str()
    same_leaf = [k for k in keys if k.rpartition(".")[2] == key.rpartition(".")[2]]
    inside = [k for k in keys if k.rpartition(".")[0] == key.rpartition(".")[0]]
    where = (
        f"; {key.rpartition('.')[0]} has: {', '.join(k.rpartition('.')[2] for k in inside)}" if inside else ""
    )
    return Problem(key, given, f"no such key{nearest(key, keys, same_leaf)}{where}")


def nearest(given: str, possible: Iterable[str], first: list[str] | None = None) -> str:
    """`; nearest: a or b`, those of `first` before what is spelled alike; nothing where nothing is."""
    close = [*(first or []), *difflib.get_close_matches(given, list(possible), 2, 0.6)]
    return f"; nearest: {' or '.join(dict.fromkeys(close[:3]))}" if close else ""


def walk(
    node: dict[str, Any], raw: dict[str, Any], prefix: str, accepted: dict[str, targets.Parameter] | None
) -> Iterator[Problem]:
    """Every value against the signature of the target, or the schema, that it goes to. `raw` is the node before
    interpolation: a value that comes from another key is that key's to answer for."""
    for key, value in node.items():
        full = f"{prefix}{key}"
        if str(key).startswith("_") or str(raw[key]).startswith("${"):
            continue
        if value == "???":
            yield Problem(full, None, "is not set")
            continue
        if accepted is not None and key not in accepted:
            if "_target_" in node:
                near = nearest(str(key), accepted)
                yield Problem(
                    full,
                    value,
                    f"{node['_target_']} takes no such parameter{near}; it takes: {', '.join(accepted)}",
                )
                continue
        elif accepted is not None and (why := accepted[key].check(value)):
            yield Problem(full, value, why)
            continue
        if isinstance(value, dict):
            target = value.get("_target_")
            inner = targets.parameters(target) if isinstance(target, str) else None
            if isinstance(target, str) and inner is None and target.startswith("unclip."):
                yield Problem(f"{full}._target_", target, "names nothing in this package")
            yield from walk(
                value, raw[key], f"{full}.", inner if inner is None else _without_name(inner, full)
            )


def broken_rules(
    config: dict[str, Any], base: dict[str, Any], choices: dict[str, str], strict: bool
) -> Iterator[Problem]:
    """The rules between keys; not strict where values are wrong already, over which a rule may stumble."""
    for rule in rules.RULES:
        try:
            yield from rule(config, base, choices)
        except (TypeError, KeyError, AttributeError, ZeroDivisionError):
            if strict:
                raise  # else it stumbled over a value that is already named


def _without_name(accepted: dict[str, targets.Parameter], full: str) -> dict[str, targets.Parameter]:
    """`stage.name` is the stage's own word, not its target's parameter."""
    return {**accepted, "name": targets.Parameter("name", None)} if full == "stage" else accepted
