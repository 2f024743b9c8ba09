"""Overrides in, one checked configuration out, or every problem in one message.

Hydra stops at the first problem; here each override is looked at by itself, the good ones are composed, and the result
is checked (checks.py) against the targets' signatures (targets.py) and the rules between keys (rules.py).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from unclip.config import checks, schema, trust
from unclip.config.problems import Problem, Problems
from unclip.config.schema import SCHEMAS
from unclip.config.tree import config_folder, options, own_folder
from unclip.evaluate import catalogue

SWEEP_VALUES_CHECKED = 50  # of each swept axis, one at a time; every cell is checked again in its turn


@dataclass(frozen=True)
class Composed:
    """A checked request: the resolved plain configuration and how it was asked for."""

    config: dict[str, Any]
    choices: dict[str, str]  # group -> option
    overrides: list[str] = field(default_factory=list)

    @property
    def experiment(self) -> str:
        """The experiment's name without its stage: demo/decoder is of the experiment demo."""
        chosen = self.choices.get("experiment") or "default"
        return chosen.rpartition("/")[0] or chosen


def compose(verb: str, overrides: list[str]) -> Composed:
    """Compose conf/<verb>.yaml with overrides as typed.

    Raises:
        Problems: everything that is wrong with the request, each with its key, what was given and what is possible.
    """
    with _composer(verb) as composer:
        return composer.checked(overrides)


@contextmanager
def many(verb: str, also: Iterable[str] = ()) -> Iterator[None]:
    """Requests of this verb inside share what they have in common, so that a thousand take seconds, not minutes.
    `also`: overrides of Hydra's own that hold for all of them."""
    with _Composer(verb, also) as composer:
        _kept.append(composer)
        try:
            yield
        finally:
            _kept.pop()


@contextmanager
def _composer(verb: str) -> Iterator[_Composer]:
    """The one that many() keeps, else one for this request alone."""
    if kept := next((c for c in reversed(_kept) if c.verb == verb), None):
        yield kept
        return
    with _Composer(verb) as composer:
        yield composer


def check_sweep(verb: str, overrides: list[str]) -> None:
    """Check every value of every swept axis, the other axes at their first value. Raises Problems."""
    with _Composer(verb) as composer:
        parsed = [(line, composer.parse(line)) for line in overrides]
        unreadable = [p for _, p in parsed if isinstance(p, Problem)]
        axes = [axis for line, p in parsed if isinstance(p, Override) and (axis := _axis(line, p))]
        if found := [*unreadable, *one_at_a_time(axes, composer.problems)]:
            raise Problems(list(dict.fromkeys(found)))


def one_at_a_time(axes: list[list[str]], problems: Callable[[list[str]], list[Problem]]) -> list[Problem]:
    """What is wrong with the values of each axis, the other axes at their first value."""
    first = [axis[0] for axis in axes]
    found = []
    for i, axis in enumerate(axes):
        for value in axis[:SWEEP_VALUES_CHECKED] if len(axis) > 1 else []:
            found += problems([*first[:i], value, *first[i + 1 :]])
    return list(dict.fromkeys([*found, *problems(first)]))


def accepted(verb: str, base: list[str], lines: list[str]) -> list[bool]:
    """Which overrides speak of a key, or a choice in a group, that the request `base` has."""
    with _composer(verb) as composer:
        return composer.accepted(base, lines)


def spoken(lines: list[str]) -> list[str]:
    """`prior=autoregressive` as the choice in a group that it is, `prior_kind`; any other `prior` names a run."""
    if not any(line.startswith("prior=") for line in lines):
        return lines
    kinds = set(options("prior_kind"))
    pairs = [line.partition("=") for line in lines]
    chosen = [key == "prior" and set(value.split(",")) <= kinds for key, _, value in pairs]
    return [f"prior_kind={p[2]}" if c else line for line, p, c in zip(lines, pairs, chosen, strict=True)]


def _axis(line: str, override: Override) -> list[str]:
    if not override.is_sweep_override() or override.is_hydra_override():
        return [line]
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), SWEEP_VALUES_CHECKED))
    except (HydraException, ValueError, TypeError):
        return []  # an interval or a glob: its values are the sweeper's to choose
    key = line.split("=", 1)[0]
    return [f"{key}={value}" for value in values]


_kept: list[_Composer] = []  # by many(), innermost last


class _Composer:
    """Hydra's composition of one verb's primary config, with the project's checks around it."""

    def __init__(self, verb: str, also: Iterable[str] = ()):
        self.verb = verb
        own = own_folder()
        path = QuotedString(f"file://{own}", Quote.single).with_quotes()
        self.always = [f"hydra.searchpath=[{path}]"] if own else []
        self.always += also
        if own:
            trust.allow_files(own)
        self.parser = OverridesParser.create()
        self.parsed: dict[str, Override | Problem] = {}
        self.by_groups: dict[
            tuple[str, ...], tuple[DictConfig, dict[str, str], dict[str, Any], list[str]]
        ] = {}
        self.by_lines: dict[tuple[str, ...], Composed] = {}
        self.hydra_keys: list[str] = []  # of the last composition

    def __enter__(self) -> _Composer:
        self.before = GlobalHydra.instance().hydra  # a multirun that is under way
        GlobalHydra.instance().clear()
        self.context = hydra.initialize_config_dir(str(config_folder().absolute()), version_base="1.3")
        self.context.__enter__()
        self.groups = set(self._loader.list_groups(""))
        return self

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        GlobalHydra.instance().hydra = self.before

    def checked(self, lines: list[str]) -> Composed:
        if (known := self.by_lines.get(tuple(lines))) is not None:
            return known
        problems, composed = self._check(lines)
        if problems or composed is None:
            raise Problems(problems, composed.config if composed else None)
        self.by_lines[tuple(lines)] = composed
        trust.allow(composed.config)
        return composed

    def problems(self, lines: list[str]) -> list[Problem]:
        return self._check(lines)[0]

    def accepted(self, base: list[str], lines: list[str]) -> list[bool]:
        if self.verb != "train":  # a kind of prior is no run to sample from
            return [
                yes and spoken([line]) == [line]
                for line, yes in zip(lines, self._accepts(base, lines), strict=True)
            ]
        return self._accepts(base, spoken(lines))

    def _accepts(self, base: list[str], lines: list[str]) -> list[bool]:
        parsed = {line: self.parse(line) for line in lines}
        named = {line: o.key_or_group for line, o in parsed.items() if isinstance(o, Override)}
        config, choices = self._compose(base)
        groups = [line for line, key in named.items() if key in choices and config.get(key) is not None]
        try:
            keys = set(checks.keys_of(self._compose([*base, *groups])[0]))
        except checks.UNCOMPOSABLE:
            keys = set(checks.keys_of(config))  # a choice that does not exist: whoever gets it will name it
        # what cannot be read goes to everybody, and is named
        return [line not in named or line in groups or named[line] in keys - choices.keys() for line in lines]

    def parse(self, line: str) -> Override | Problem:
        if line not in self.parsed:
            try:
                self.parsed[line] = self.parser.parse_override(line)
            except HydraException:
                why = "cannot be read; an override is key=value, with strings of spaces or commas quoted"
                self.parsed[line] = Problem(line, None, why)
        return self.parsed[line]

    def _check(self, typed: list[str]) -> tuple[list[Problem], Composed | None]:
        lines = spoken(typed) if self.verb == "train" else typed
        parsed = [(line, self.parse(line)) for line in lines]
        problems = checks.together([p for _, p in parsed if isinstance(p, Problem)])
        overrides = [(line, p) for line, p in parsed if isinstance(p, Override)]
        groups = [(line, o) for line, o in overrides if self._is_group(o.key_or_group)]
        values = [(line, o) for line, o in overrides if not self._is_group(o.key_or_group)]

        sound = []
        for line, override in groups:
            problem = checks.group_problem(override, self._options(override), self.verb)
            problems += [problem] if problem else []
            sound += [] if problem else [line]
        given = {o.key_or_group for _, o in groups if not o.is_delete()}
        if self.verb == "train" and not given & {"stage", "experiment"}:
            possible = ", ".join(options("stage"))
            return [*problems, Problem("stage", None, f"is not set; possible: {possible}")], None
        try:
            config, choices = self._compose(sound)
        except checks.UNCOMPOSABLE as error:
            return problems or [checks.not_composed(error, " ".join(sound))], None

        if choices.get("prior_kind") and choices["stage"] != "prior":
            why = f"is a choice of stage=prior, this is stage {choices['stage']}"
            return [*problems, Problem("prior", choices["prior_kind"], why)], None

        keys = [*checks.keys_of(config), *self.hydra_keys]
        for line, override in values:
            problem = checks.key_problem(override, config, keys, self.verb)
            problems += [problem] if problem else []
            sound += [] if problem else [line]
        try:
            composed, choices, raw = self._composed(sound)
            resolved = OmegaConf.to_container(composed, resolve=True)
        except checks.UNCOMPOSABLE as error:
            return [*problems, checks.not_composed(error)], None
        assert isinstance(resolved, dict)
        config = {str(key): value for key, value in resolved.items()}
        problems += checks.wrong_values(config, raw, schema.named(SCHEMAS[self.verb]))
        if self.verb == "train":
            own = [f"{group}={choices[group]}" for group in ("stage", "prior_kind") if choices.get(group)]
            base, _ = self._compose(own)
            strict = not problems and own_folder() is None
            problems += checks.broken_rules(config, base, choices, strict)
        if self.verb == "evaluate" and "metrics" not in {p.key for p in problems}:
            problems += [
                Problem("metrics", *wrong) for wrong in catalogue.wrong_names(config.get("metrics") or [])
            ]
        return problems, Composed(config, choices, typed)

    def _compose(self, lines: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        _, choices, plain = self._composed(lines)
        return plain, choices

    def _composed(self, lines: list[str]) -> tuple[DictConfig, dict[str, str], dict[str, Any]]:
        """Hydra's composition, the choices, and it as plain as it is before interpolation: once for each choice of
        groups, with the values put into a copy of it by Hydra's own function."""
        parsed = [(line, self.parse(line)) for line in lines]
        values = [(line, o) for line, o in parsed if isinstance(o, Override) and self._is_plain_value(o)]
        given = {line for line, _ in values}
        chosen = tuple(line for line in lines if line not in given)
        if chosen not in self.by_groups:
            with checks.hydras_own():
                config = hydra.compose(self.verb, [*self.always, *chosen], return_hydra_config=True)
            choices = dict(config.hydra.runtime.choices)
            with open_dict(config):
                hydra_keys = list(checks.keys_of(_plain(config.pop("hydra")), "hydra."))
            self.by_groups[chosen] = config, choices, _plain(config), hydra_keys
        config, choices, plain, self.hydra_keys = self.by_groups[chosen]
        if not values:
            return config, choices, plain
        config = copy.deepcopy(config)
        ConfigLoaderImpl._apply_overrides_to_config([o for _, o in values], config)
        return config, choices, _plain(config)

    def _is_plain_value(self, override: Override) -> bool:
        key = override.key_or_group
        return not (override.is_hydra_override() or key.split(".")[0] == "hydra" or self._is_group(key))

    @property
    def _loader(self) -> Any:
        return GlobalHydra.instance().config_loader()

    def _is_group(self, key: str) -> bool:
        group = key.split("@")[0]
        return group in self.groups or "/" in group

    def _options(self, override: Override) -> list[str]:
        group = override.key_or_group
        if group.startswith("hydra/"):
            return [str(option) for option in self._loader.get_group_options(group)]
        return options(group)


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
