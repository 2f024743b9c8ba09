"""What a picture of one or two things shows, read off its pixels: class, colour, size and position of each, and how
often that is what the caption asked for. No network, and no knowledge of how such pictures are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.data.scenes import COLOURS, PAIRS, POSITIONS, SIZES, Grammar
from unclip.evaluate.intervals import wilson

BRIGHT = 0.22  # of white, in any channel: part of a thing
CROSSING = 1 / 32  # of the canvas: two things are apart where no more pixels of any middle line are bright
SHARE = 0.1  # of all bright pixels that the smaller of two things has, at least
CROP = 16  # pixels: what the class is told from
WIDTH = 0.25  # of the kernel, as a distance of crops of length 1
RIDGE = 1e-2
PART = 500  # pictures at a time
ATTRIBUTES = ("class", "colour", "size", "position")


@dataclass(frozen=True)
class Shown:
    """int64 (N,2) each, numbers into the names of the world; -1: there is no such thing, or nothing is said of it. Two
    things in the order of PAIRS: the left or upper one first."""

    kind: Tensor
    colour: Tensor
    size: Tensor
    position: Tensor

    @cached_property
    def stacked(self) -> Tensor:
        """(N,2,4), attributes in the order of ATTRIBUTES."""
        return torch.stack([self.kind, self.colour, self.size, self.position], dim=2)

    @property
    def things(self) -> Tensor:
        """(N,) how many there are."""
        return (self.kind >= 0).sum(1)


class Checks:
    """Told by exemplars, uint8 (M,1,S,S) of one thing each, of the kinds (M,), what each kind looks like.

    The class is the verdict of kernel ridge regression on crops of a fixed size (a Gaussian kernel; the weights are one
    linear solve: nothing to train, nothing to store). Everything else is measured: the bounding box of what is bright,
    and the mean colour in it. Works on any picture; garbage gets a verdict, or none, but never an error.
    """

    def __init__(self, grammar: Grammar, exemplars: Tensor, kinds: Tensor) -> None:
        self.grammar, self.names = grammar, tuple(grammar.kinds)
        self.exemplars, self.kinds = exemplars, kinds

    def see(self, images: Tensor) -> Shown:
        """uint8 (N,3,S,S), or one channel -> what they show."""
        parts = [self._see(part) for part in images.split(PART)]
        return Shown(*(torch.cat(x) for x in zip(*parts, strict=True)))

    def asked(self, captions: Sequence[str]) -> Shown:
        """What captions ask for; -1 for what they do not say. Raises ValueError for a caption of no such scene."""
        names = [list(x) for x in (self.names, COLOURS, SIZES, POSITIONS)]
        found = torch.full((len(captions), 2, 4), -1)
        for row, caption in zip(found, captions, strict=True):
            for of, thing in zip(row, self.grammar.parse(caption)[0], strict=False):
                words = (thing.kind, thing.colour, thing.size, thing.position)
                of[:] = torch.tensor(
                    [-1 if w is None else n.index(w) for w, n in zip(words, names, strict=True)]
                )
        return Shown(*found.unbind(2))

    def agreement(self, images: Tensor, captions: Sequence[str]) -> dict[str, Any]:
        """How often pictures (N,C,S,S) show what their captions ask for."""
        return agreement(self.see(images), self.asked(captions))

    @cached_property
    def _regression(self) -> tuple[Tensor, Tensor]:
        """Crops of the exemplars (M,F) and a weight for each and every kind, (M,kinds)."""
        value = _value(self.exemplars)
        x = torch.cat([_crops(part, _Boxes.of(part > BRIGHT)) for part in value.split(PART)])
        kernel = _kernel(x, x)
        kernel.diagonal().add_(RIDGE)
        wanted = 2 * F.one_hot(self.kinds, len(self.names)).to(x) - 1
        return x, torch.cholesky_solve(wanted, torch.linalg.cholesky(kernel))

    def _see(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        value = _value(images)  # (n,S,S)
        bright = value > BRIGHT
        apart, regions = _regions(bright)  # (n,), (n,2,S,S)
        boxes = [_Boxes.of(regions[:, i]) for i in (0, 1)]
        there = torch.stack([box.there for box in boxes], dim=1)  # (n,2)
        exemplars, weights = self._regression
        kind = torch.stack(
            [
                (_kernel(_crops(value * regions[:, i], box), exemplars) @ weights).argmax(1)
                for i, box in enumerate(boxes)
            ],
            dim=1,
        )
        side = torch.stack([box.side for box in boxes], dim=1) / images.shape[-1]
        limits = torch.tensor(list(SIZES.values()))
        size = (side[..., None] - limits).abs().argmin(2)
        position = _positions(boxes[0], apart, images.shape[-1])
        found = kind, _colours(images, regions), size, position
        return tuple(x.masked_fill(~there, -1) for x in found)  # type: ignore[return-value]


def agreement(seen: Shown, asked: Shown) -> dict[str, Any]:
    """Shares of what was asked for, each with its n and 95% interval: `value`, pictures in which all is right, number
    included; each attribute, over the things of which it was asked; `binding`.

    Of two things each is compared with the one that it has more in common with. binding: of pictures asked for two
    kinds in two colours that show both kinds and both colours, the part that has them exchanged (Ramesh et al. 2022,
    section 7): `chance` is what colours dealt at random would get.
    """
    found, wanted = seen.stacked, asked.stacked
    said = wanted >= 0
    straight, crossed = ((x == wanted) & said for x in (found, found.flip(1)))
    exchanged = crossed.sum((1, 2)) > straight.sum((1, 2))
    right = torch.where(exchanged[:, None, None], crossed, straight)  # (N,2,4)
    number = seen.things == asked.things
    whole = (right | ~said).all(2).all(1) & number
    result = {**_share(whole), "number": _share(number)}
    for i, name in enumerate(ATTRIBUTES):
        result[name] = _share(right[..., i][said[..., i]])
    return {**result, "binding": _binding(seen, asked)}


def _binding(seen: Shown, asked: Shown) -> dict[str, Any]:
    two = (asked.things == 2) & (asked.kind[:, 0] != asked.kind[:, 1])
    two &= asked.colour[:, 0] != asked.colour[:, 1]
    alike = [
        (x.sort(1).values == y.sort(1).values).all(1)
        for x, y in ((seen.kind, asked.kind), (seen.colour, asked.colour))
    ]
    judged = two & alike[0] & alike[1]
    straight = seen.kind[:, 0] == asked.kind[:, 0]
    colour = torch.where(straight[:, None], seen.colour, seen.colour.flip(1))
    return {**_share((colour != asked.colour).any(1)[judged]), "asked": int(two.sum()), "chance": 0.5}


def _share(right: Tensor) -> dict[str, Any]:
    n = right.numel()
    if not n:
        return {"value": None, "n": 0}
    value = right.double().mean().item()
    return {"value": value, "n": n, "interval": wilson(value, n)}


@dataclass(frozen=True)
class _Boxes:
    """Bounding boxes of what is True in (n,S,S): centre (n,2) across and down and longer side (n,), in pixels."""

    centre: Tensor
    side: Tensor
    there: Tensor

    @classmethod
    def of(cls, bright: Tensor) -> _Boxes:
        last = bright.shape[-1] - 1
        ends = []
        for axis in (1, 2):
            line = bright.any(axis).float()
            ends.append((line.argmax(1).float(), last - line.flip(1).argmax(1).float()))
        centre = torch.stack([(low + high + 1) / 2 for low, high in ends], dim=1)
        side = torch.stack([high - low + 1 for low, high in ends], dim=1).amax(1)
        return cls(centre, side, bright.flatten(1).any(1))


def _value(images: Tensor) -> Tensor:
    """uint8 (n,C,S,S) -> (n,S,S) in [0,1], the brightest channel: grey garments get their own values back."""
    return images.amax(1).float() / 255


def _regions(bright: Tensor) -> tuple[Tensor, Tensor]:
    """(n,S,S) -> 0 for one thing, 1 or 2 for two that are apart across or down, (n,); bool (n,2,S,S), where each is."""
    n, side = len(bright), bright.shape[-1]
    middle = slice(side // 2 - side // 32, side // 2 + side // 32)
    first = torch.arange(side) < side // 2
    total = bright.flatten(1).sum(1)
    scores = []
    for along in (bright, bright.mT):  # apart across: the lines are columns
        lines = along.sum(1)  # (n,S)
        halves = torch.minimum(lines[:, first].sum(1), lines[:, ~first].sum(1))
        gap = (lines[:, middle].amax(1) <= CROSSING * side) & (halves >= SHARE * total) & (total > 0)
        scores.append(torch.where(gap, halves, -1))
    best = torch.stack(scores, dim=1)
    apart = torch.where(best.amax(1) >= 0, best.argmax(1) + 1, 0)
    everywhere = torch.ones(side, side, dtype=torch.bool)
    masks = torch.stack([everywhere, first.expand(side, -1), first[:, None].expand(-1, side)])
    mine = masks[apart]  # (n,S,S)
    other = ~mine
    return apart, torch.stack([bright & mine, bright & other], dim=1).view(n, 2, side, side)


def _positions(box: _Boxes, apart: Tensor, side: int) -> Tensor:
    """(n,2) numbers of positions: of one thing the nearest anchor, of two those of their pair."""
    names = list(POSITIONS)
    anchors = torch.tensor(list(POSITIONS.values()))
    nearest = torch.cdist(box.centre / side, anchors).argmin(1)
    pairs = torch.tensor([[-1, -1], *([names.index(p) for p in pair] for pair in PAIRS)])[apart]
    one = torch.stack([nearest, torch.full_like(nearest, -1)], dim=1)
    return torch.where(apart[:, None] > 0, pairs, one)


def _colours(images: Tensor, regions: Tensor) -> Tensor:
    """(n,2): the name whose hue is nearest to the mean colour of each region."""
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    rgb = images.float().expand(-1, 3, -1, -1) if images.shape[1] == 1 else images.float()
    mean = torch.einsum("nchw,nthw->ntc", rgb, regions.float())
    mean, palette = (x / x.amax(-1, keepdim=True).clamp(min=1e-6) for x in (mean, palette))
    return torch.cdist(rearrange(mean, "n t c -> (n t) c"), palette).argmin(1).view(len(images), 2)


def _crops(value: Tensor, box: _Boxes) -> Tensor:
    """(n,S,S) -> (n,CROP^2) of length 1: the square around the box, whatever its size."""
    side = value.shape[-1]
    steps = (torch.arange(CROP) + 0.5) / CROP - 0.5
    at = rearrange(box.centre, "n a -> n a 1") + rearrange(box.side, "n -> n 1 1") * steps  # (n,2,CROP)
    at = at * 2 / side - 1
    grid = torch.stack(
        [at[:, 0, None, :].expand(-1, CROP, -1), at[:, 1, :, None].expand(-1, -1, CROP)], dim=-1
    )
    crops = F.grid_sample(rearrange(value, "n h w -> n 1 h w"), grid, align_corners=False)
    return F.normalize(crops.flatten(1), dim=1)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x - y|^2 / (2 WIDTH^2)) of rows of length 1."""
    return ((x @ y.T - 1) / WIDTH**2).exp()
