"""Scenes of one or two things and the captions that say them: the grammar and the layout that garments and shapes
share. Knows nothing of pixels; who draws is attribute_world.py, who checks pictures is evaluate/attributes.py."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (235, 45, 40),
    "green": (55, 200, 70),
    "blue": (60, 95, 245),
    "yellow": (240, 215, 50),
    "purple": (190, 60, 225),
    "white": (235, 235, 235),
}
SIZES: Mapping[str, float] = {"small": 9 / 32, "large": 13 / 32}  # the longer side, as a part of the canvas
POSITIONS: Mapping[str, tuple[float, float]] = {  # of a centre: across, down
    "middle": (0.5, 0.5),
    "left": (0.25, 0.5),
    "right": (0.75, 0.5),
    "top": (0.5, 0.25),
    "bottom": (0.5, 0.75),
}
PAIRS = (("left", "right"), ("top", "bottom"))  # where two things are, the first one first
JITTER = 2 / 32  # of a centre, both ways
MARGIN = 1 / 32  # between a thing of two and the end of its half

_WHERE = {
    "middle": "in the middle",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
_ONE = (
    ("{0} {where}", True),
    ("{0} {where}", False),
    ("{where}, {0}", True),
)  # a wording, whether it says sizes
_TWO = (
    (("{0} to the left of {1}", "{0} above {1}"), False),
    (("{1} to the right of {0}", "{1} below {0}"), False),
    (("{0} on the left, {1} on the right", "{0} at the top, {1} at the bottom"), False),
    (("{0} left of {1}", "{0} over {1}"), True),
    (("{1} right of {0}", "{1} under {0}"), True),
)


@dataclass(frozen=True)
class Thing:
    """size: None where a caption does not say it."""

    kind: str
    colour: str
    size: str | None
    position: str


Scene = tuple[Thing, ...]  # one, or two in the order of PAIRS


@dataclass(frozen=True)
class Grammar:
    """Captions of scenes in several wordings, and back. kinds: what there is, with its article ("a ", or "" for what is
    plural). The longest caption of a world fits the 62 bytes that the byte tokenizer leaves."""

    kinds: Mapping[str, str]

    @staticmethod
    def wordings(things: int) -> int:
        """How many ways there are to say a scene of so many things."""
        return len(_ONE if things == 1 else _TWO)

    def caption(self, scene: Scene, wording: int) -> str:
        """What this wording says of a scene; only some wordings say sizes."""
        template, sized = _wording([thing.position for thing in scene], wording)
        said = [self._said(thing if sized else replace(thing, size=None)) for thing in scene]
        return template.format(*said, where=_WHERE[scene[0].position])

    def parse(self, caption: str) -> tuple[Scene, int]:
        """The scene and the wording of a caption, the inverse of `caption`. Raises ValueError for any other text."""
        for pattern, positions, wording in self._patterns:
            if found := pattern.fullmatch(caption):
                things = tuple(
                    Thing(found[f"kind{i}"], found[f"colour{i}"], found.groupdict().get(f"size{i}"), position)
                    for i, position in enumerate(positions)
                )
                if self.caption(things, wording) == caption:  # else an article is wrong
                    return things, wording
        raise ValueError(
            f"caption = {caption!r}: is none of this world; possible: such as "
            f"{self.caption((Thing(next(iter(self.kinds)), 'red', None, 'left'),), 1)!r}"
        )

    def _said(self, thing: Thing) -> str:
        words = (thing.size, thing.colour, thing.kind)
        return self.kinds[thing.kind] + " ".join(word for word in words if word)

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], tuple[str, ...], int]]:
        places: list[tuple[str, ...]] = [*((position,) for position in POSITIONS), *PAIRS]
        return [
            (self._pattern(positions, wording), positions, wording)
            for positions in places
            for wording in range(self.wordings(len(positions)))
        ]

    def _pattern(self, positions: tuple[str, ...], wording: int) -> re.Pattern[str]:
        template, sized = _wording(list(positions), wording)
        things = [self._any(i, sized) for i in range(len(positions))]
        return re.compile(template.format(*things, where=_WHERE[positions[0]]))

    def _any(self, number: int, sized: bool) -> str:
        """A pattern of any thing, with the article that its kind has."""
        size = f"(?P<size{number}>{'|'.join(SIZES)}) " if sized else ""
        return (
            f"(?:a )?{size}(?P<colour{number}>{'|'.join(COLOURS)}) (?P<kind{number}>{'|'.join(self.kinds)})"
        )


def _wording(positions: list[str], wording: int) -> tuple[str, bool]:
    if len(positions) == 1:
        return _ONE[wording]
    templates, sized = _TWO[wording]
    return templates[PAIRS.index((positions[0], positions[1]))], sized


@dataclass(frozen=True)
class HeldOut:
    """Combinations that training never shows: kinds in a colour, and two kinds in an order. `count` of the first, and
    at most a kind's number of the second; every kind, every colour and every kind at each place stay seen."""

    kinds: int
    count: int

    @cached_property
    def coloured(self) -> frozenset[tuple[int, int]]:
        """(kind, colour) by number, spread over both."""
        spread = range(self.count)
        return frozenset((i % self.kinds, (2 * i + i // self.kinds) % len(COLOURS)) for i in spread)

    @cached_property
    def ordered(self) -> frozenset[tuple[int, int]]:
        """(kind on the left or at the top, the other) by number; the opposite order stays."""
        return frozenset((i, (i + 1) % self.kinds) for i in range(min(self.count, self.kinds)))

    def holds(self, *things: tuple[int, int]) -> bool:
        """Whether things (kind, colour) show a combination that is held out."""
        alone = any(thing in self.coloured for thing in things)
        return alone or (len(things) == 2 and (things[0][0], things[1][0]) in self.ordered)

    def allowed(self, things: int, held_out: bool) -> list[tuple[tuple[int, int], ...]]:
        """All scenes' kinds and colours with, or without, a held-out combination; two things are never the same."""
        one = [(kind, colour) for kind in range(self.kinds) for colour in range(len(COLOURS))]
        every = itertools.permutations(one, things)
        return [scene for scene in every if self.holds(*scene) == held_out]
