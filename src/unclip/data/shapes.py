"""Shapes: one or two drawn, anti-aliased shapes on a black canvas, with the captions of scenes.py. No files, no end to
them, and every picture can be checked exactly. For first steps synthetic.py is smaller."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from unclip.data.attribute_world import AttributeWorld, Part


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points, 1 to the left and right: the side of the line from a point to a notch, in a sector of 36 degrees."""
    x, y = 0.951 * x, 0.951 * (y - 0.1)
    half = math.pi / 5
    angle = (
        (torch.atan2(x, -y) + half).remainder(2 * half) - half
    ).abs()  # 0 at a point, 36 degrees at a notch
    radius = torch.hypot(x, y)
    along, across = radius * angle.cos(), radius * angle.sin()
    notch_along, notch_across = NOTCH * math.cos(half), NOTCH * math.sin(half)
    return (along - 1) * notch_across + across * (1 - notch_along)


NOTCH = 0.48  # radius of the notches between the points of a star
# shapes that fill the square from -1 to 1 or nearly: negative inside; x to the right, y down
SHAPES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: torch.hypot(x, y) - 1,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) - 0.93,
    "triangle": lambda x, y: torch.maximum(0.894 * x.abs() - 0.447 * y - 0.42, y - 0.93),
    "star": _star,
    "cross": lambda x, y: torch.maximum(
        torch.minimum(x.abs(), y.abs()) - 0.33, torch.maximum(x.abs(), y.abs()) - 0.95
    ),
}
SMALLEST = 0.97  # of a shape's full size
TURN = math.radians(4)  # at most, either way
FINER = 4  # samples a pixel and axis


class Shapes(AttributeWorld):
    """Circles, squares, triangles, stars and crosses, each turned a little, and a little larger or smaller."""

    licence = "none needed: drawn on the spot"
    kinds: ClassVar[Mapping[str, str]] = dict.fromkeys(SHAPES, "a ")
    exemplars: ClassVar[int] = 100

    def tiles(self, part: Part, kind: Tensor, pixels: int, own: Tensor) -> Tensor:
        fine = (torch.arange(pixels * FINER) + 0.5) * 2 / (pixels * FINER) - 1
        radius = rearrange(SMALLEST + (1 - SMALLEST) * own[:, 0].float(), "n -> n 1 1")
        turn = rearrange((2 * own[:, 1].float() - 1) * TURN, "n -> n 1 1")
        x, y = fine / radius, rearrange(fine, "p -> p 1") / radius  # (n,1,P), (n,P,1)
        x, y = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()  # (n,P,P)
        inside = torch.zeros_like(x)
        for number, edge in enumerate(SHAPES.values()):
            mine = kind == number
            inside[mine] = (edge(x[mine], y[mine]) < 0).float()
        return rearrange(inside, "n (h a) (w b) -> n h w (a b)", a=FINER, b=FINER).mean(-1)
