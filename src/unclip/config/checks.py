"""What is wrong with one composed request: keys that are not there, values that their targets do not take, rules
between keys that it breaks. Composes nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from unclip.config import rules, schema, targets
from unclip.config.problems import Problem, nearest
from unclip.config.tree import options


def keys_of(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key under its dotted name, nodes included."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def _several_values(override: Override, verb: str) -> Problem | None:
    """The problem of an override with several values where one request is asked for."""
    if not override.is_sweep_override():
        return None
    sweep = "-m makes it a sweep; " if verb == "train" else ""
    why = f"has several values; {sweep}a list is written [a,b], a text with commas 'a,b'"
    return Problem(override.key_or_group, _typed(override), why)


def together(unread: list[Problem]) -> list[Problem]:
    """Words without a key as one problem: of a caption without quotes each word is an argument."""
    words = [p for p in unread if "=" not in p.key]
    others = [p for p in unread if "=" in p.key]
    return [*others, *([Problem(" ".join(p.key for p in words), None, words[0].why)] if words else [])]


def group_problem(override: Override, possible: list[str], verb: str) -> Problem | None:
    """What is wrong with a choice in a group of these options, in a request of this verb."""
    if several := _several_values(override, verb):
        return several
    group, value, listed = override.key_or_group, override.value(), f"possible: {', '.join(possible)}"
    if override.is_delete() and (value is None or isinstance(value, str)):
        return None
    if value is None or override.is_force_add() or override.is_delete():
        return Problem(group, _typed(override), f"is no choice; {listed}; ~{group} for none at all")
    chosen = value if isinstance(value, list) and value else [value]
    wrong = next((str(v) for v in chosen if not isinstance(v, str) or v not in possible), None)
    return (
        Problem(group, wrong, f"no such option{nearest(wrong, possible)}; {listed}")
        if wrong is not None
        else None
    )


def key_problem(override: Override, config: dict[str, Any], keys: list[str], verb: str) -> Problem | None:
    """What is wrong with the key of an override, the configuration having `keys`, in a request of this verb."""
    if several := _several_values(override, verb):
        return several
    key = override.key_or_group
    above, _, leaf = key.rpartition(".")
    if key == "paths" and not override.is_delete() and not isinstance(override.value(), dict):
        return Problem(key, _typed(override), "is two folders: paths.outputs=FOLDER, paths.data=FOLDER")
    if override.is_add() or override.is_force_add():
        group = key.split(".")[0]
        if above and group != "hydra" and not isinstance(config.get(group), dict):
            return Problem(key, _typed(override), f"there is no {group} here to add it to")
        if override.is_add() and key in keys and not isinstance(override.value(), dict | list):
            return Problem(key, _typed(override), "is there already: without the + it is changed")
        return None  # the target's signature decides, once it is composed
    if key not in keys:
        same_leaf = [k for k in keys if k.rpartition(".")[2] == leaf]
        inside = [k.rpartition(".")[2] for k in keys if k.rpartition(".")[0] == above]
        where = f"; {f'{above} has' if above else 'possible'}: {', '.join(inside)}" if inside else ""
        near = nearest(key, keys, same_leaf)
        return Problem(key, _typed(override), f"no such key{near}{where if above or not near else ''}")
    return _deletion_problem(key, config) if override.is_delete() else None


def _deletion_problem(key: str, config: dict[str, Any]) -> Problem | None:
    """Only what has a default, or is one of many, can be left out."""
    *above, leaf = key.split(".")
    node: Any = config
    for part in above:
        node = node.get(part, {})  # hydra's own are not in it
    if not above:
        needed = True
    else:
        target = node.get("_target_")
        accepted = (targets.parameters(target) if isinstance(target, str) else None) or {}
        needed = leaf == "_target_" or (leaf in accepted and accepted[leaf].default is targets.REQUIRED)
    return Problem(f"~{key}", None, f"cannot be left out; {key}=VALUE changes it") if needed else None


def _typed(override: Override) -> str | None:
    """The value as it was typed."""
    _, equals, value = str(override.input_line).partition("=")
    return value if equals else None


UNCOMPOSABLE = (HydraException, OmegaConfBaseException, YAMLError)
MEANT = {  # of what Hydra and OmegaConf say
    "Multiple values for": "is chosen already: without the + it chooses another",
    "Could not override": "names nothing that is there; + before it adds it",
    "Could not delete": "is not what is chosen: ~GROUP leaves out whatever is",
    "You must specify 'stage'": "names no stage: give stage=NAME, or experiment=NAME/STAGE",
    "is not in struct": "no such key; + before the override adds it",
}


@contextmanager
def hydras_own() -> Iterator[None]:
    """Make one of Hydra's exceptions of the many kinds that it raises on the user's own malformed YAML files."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, AssertionError, RecursionError) as error:
        if isinstance(error, UNCOMPOSABLE):
            raise
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigCompositionException(f"the YAML files of --config-dir do not compose: {why}") from error


def not_composed(error: Exception, request: str = "") -> Problem:
    """Hydra's or OmegaConf's own complaint, with the key that it is about."""
    inner = str(error).startswith(("Error merging override", "Could not override")) and error.__cause__
    lines = str(inner or error).strip().splitlines()
    key = next((line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("full_key:")), "")
    why = next((ours for theirs, ours in MEANT.items() if theirs in lines[0]), lines[0])
    return Problem(key or request, None, why)


def wrong_values(config: dict[str, Any], raw: dict[str, Any], top: str) -> list[Problem]:
    """Every value against the signature of the target, or of the schema `top`, that it goes to. `raw` is the
    configuration before interpolation: where a value comes from another key that is wrong itself, that one answers."""
    found = list(_walk(config, raw, "", targets.parameters(top)))
    keys = {problem.key for problem, _ in found}
    return [problem for problem, source in found if source not in keys]


def _walk(
    node: dict[str, Any], raw: Any, prefix: str, accepted: dict[str, targets.Parameter] | None
) -> Iterator[tuple[Problem, str]]:
    """Problems, each with the key that the value comes from, if any."""
    yield from ((problem, "") for problem in _missing(node, prefix, accepted or {}))
    for key, value in node.items():
        full, before = f"{prefix}{key}", raw.get(key) if isinstance(raw, dict) else raw
        source = before[2:-1] if isinstance(before, str) and before.startswith("${") else ""
        parameter = (accepted or {}).get(key)
        if str(key).startswith("_"):
            continue
        if value == "???":
            yield Problem(full, None, "is not set"), source
        elif accepted is not None and parameter is None and (not prefix or "_target_" in node):
            if prefix and targets.open_ended(node["_target_"]):
                continue
            what = f"{node['_target_']} takes no such parameter" if prefix else "no such key"
            why = f"{what}{nearest(str(key), accepted)}; possible: {', '.join(accepted) or 'none'}"
            yield Problem(full, value, why), source
        elif source and value is None:
            continue  # that key's own null is for its schema to judge: in `sample` it is "as it was configured"
        elif parameter and parameter.each and isinstance(value, dict):
            yield from _walk(value, before, f"{full}.", dict.fromkeys(value, parameter.each))
        elif parameter and (wrong := parameter.check(value)):
            yield Problem(full, _shown(value), wrong), source
        elif isinstance(value, dict):
            target = value.get("_target_")
            if "_target_" in value and (wrong := _wrong_target(target)):
                yield Problem(f"{full}._target_", target, wrong), source
            inner = targets.parameters(target) if isinstance(target, str) else None
            inner = inner if inner is None else _without_name(inner, full)
            yield from _walk(value, before, f"{full}.", inner)


def _shown(value: Any) -> Any:
    """A value as a message shows it: a mapping not at all."""
    return "null" if value is None else None if isinstance(value, dict) else value


def _missing(node: dict[str, Any], prefix: str, accepted: dict[str, targets.Parameter]) -> Iterator[Problem]:
    """Keys that must be there: in groups that are not whole the program gives the rest."""
    group = prefix[:-1]
    whole = not group or group in schema.WHOLE
    demanded = [key for key, p in accepted.items() if whole and p.default is targets.REQUIRED]
    for key in dict.fromkeys([*schema.NEEDED.get(group, []), *demanded]):
        if key not in node:
            listed = "" if group else ", ".join(options(key))
            how = f"give {prefix}{key}=VALUE, or write it into the YAML file"
            yield Problem(f"{prefix}{key}", None, f"is not set; {f'possible: {listed}' if listed else how}")


def _wrong_target(target: Any) -> str | None:
    """What is wrong with a `_target_`."""
    if not isinstance(target, str):
        return "must be the dotted name of a class or function"
    if target.startswith("unclip.") and targets.parameters(target) is None:
        return "names nothing in this package"
    return None if targets.exists(target) else "names nothing that could be imported from here"


def broken_rules(
    config: dict[str, Any], base: dict[str, Any], choices: dict[str, str], strict: bool
) -> list[Problem]:
    """What the rules between keys find. An exception in a rule is ignored once another rule has found something, and
    where not `strict`: values may be wrong already, or files of the user's own have shapes that no rule knows."""
    config, found = _with_defaults(config), []
    for rule in rules.RULES:
        try:
            for problem in rule(config, base, choices):
                found.append(problem)
        except (TypeError, LookupError, AttributeError, ValueError, ArithmeticError):
            if strict and not found:
                raise
    return found


def _with_defaults(node: Any) -> Any:
    """A node with what its targets assume for the keys that it leaves out."""
    if not isinstance(node, dict):
        return node
    target = node.get("_target_")
    accepted = (targets.parameters(target) if isinstance(target, str) else None) or {}
    unknown = (targets.REQUIRED, targets.UNREADABLE)
    assumed = {key: p.default for key, p in accepted.items() if p.default not in unknown}
    return {**assumed, **{key: _with_defaults(value) for key, value in node.items()}}


def _without_name(accepted: dict[str, targets.Parameter], full: str) -> dict[str, targets.Parameter]:
    """`stage.name` is the stage's own word, not its target's parameter."""
    return {**accepted, "name": targets.Parameter("name", ast.Name("str"))} if full == "stage" else accepted
