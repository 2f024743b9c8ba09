"""A request as it would be composed, near enough to say which keys and options it has: read from the YAML files alone,
without Hydra, in milliseconds. Checks nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

from unclip.config import tree
from unclip.config.tree import options
from unclip.reading import parse_yaml

# the groups whose keys are those of the request itself
GLOBAL = ("stage", "experiment", "search", "manipulation")


@cache
def _file(name: str) -> dict[str, Any]:
    path = tree.file_of(name)
    if path is None:
        return {}
    try:
        found = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the request itself says what is wrong with it
    return found if isinstance(found, dict) else {}


def defaults(name: str) -> dict[str, str | None]:
    """group -> option by a file's list of defaults, that of the files it includes first."""
    found: dict[str, str | None] = {}
    for entry in _file(name).get("defaults") or []:
        if isinstance(entry, dict):
            found |= {group.removeprefix("override ").lstrip("/"): option for group, option in entry.items()}
        elif entry.startswith("/"):
            found |= defaults(entry[1:])
    return found


def chosen(primary: str, typed: list[str]) -> dict[str, str | None]:
    """group -> option: the file's, the stage's, the experiment's, the line's; the last has the last word."""
    pairs = [word.partition("=") for word in typed]
    said: dict[str, str | None] = {key: value for key, _, value in pairs if key in tree.groups()}
    experiment = {**defaults(f"experiment/{said.get('experiment')}"), **said}
    return {**defaults(primary), **defaults(f"stage/{experiment.get('stage')}"), **experiment}


def content(name: str) -> dict[str, Any]:
    """A file's keys over those of the files it includes."""
    found: dict[str, Any] = {}
    for entry in _file(name).get("defaults") or []:
        if isinstance(entry, str) and entry != "_self_":
            beside = f"{name.rpartition('/')[0]}/{entry}"
            found = _merged(found, content(entry[1:] if entry.startswith("/") else beside))
    own = {key: value for key, value in _file(name).items() if key not in ("defaults", "hydra")}
    return _merged(found, own)


def composed(primary: str, typed: list[str], asked: str = "") -> dict[str, Any]:
    """The keys of a request. Those of a group only where it is the one `asked` for: of the option that is chosen, else
    of any that may be."""
    found, choices = content(primary), chosen(primary, typed)
    for group, option in choices.items():
        if group in GLOBAL or group not in tree.groups():
            continue
        known = options(group) if group == asked else []
        for name in [option] if option in known else known:
            found = _merged(found, {group: content(f"{group}/{name}")})
        found.setdefault(group, {})
    for group in GLOBAL:
        if choices.get(group):
            found = _merged(found, content(f"{group}/{choices[group]}"))
    return found


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {**one, **other}
    for key in one.keys() & other.keys():
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            both[key] = _merged(one[key], other[key])
    return both
