"""Drawn shapes: they look like their names, and their edges are smooth."""

from __future__ import annotations

import math

import torch

from unclip.data.shapes import SHAPES, Shapes

# of the square around a shape of radius 1, the part that is inside
AREAS = {
    "circle": math.pi / 4,
    "square": 0.93**2,
    "triangle": 0.935 * 0.94 * 2 / 4,
    "cross": (2 * 0.95 * 0.66 * 2 - 0.66**2) / 4,
    "star": 5 * 0.48 * math.sin(math.pi / 5) / 0.951**2 / 4,
}


def test_a_shape_covers_the_area_that_geometry_says() -> None:
    data = Shapes()
    for number, name in enumerate(SHAPES):
        largest = torch.tensor([[1.0, 0.5, 0.5]], dtype=torch.float64)  # full size, not turned
        tile = data.tiles("train", torch.tensor([number]), 64, largest)
        assert abs(tile.mean().item() - AREAS[name]) < 0.02, name


def test_edges_are_anti_aliased_and_turned_shapes_differ() -> None:
    data = Shapes()
    kinds = torch.arange(len(SHAPES)).repeat(2)
    own = torch.zeros(len(kinds), 3, dtype=torch.float64)
    own[len(SHAPES) :, 1] = 0.99
    tiles = data.tiles("train", kinds, 13, own)
    between = ((tiles > 0) & (tiles < 1)).flatten(1).sum(1)
    assert (between >= 8).all()
    straight, turned = tiles.chunk(2)
    assert ((straight - turned).abs().flatten(1).amax(1) > 0.1)[1:].all()  # a circle stays what it is


def test_images_depend_on_their_number_and_their_seed_alone() -> None:
    few, many = Shapes(count=128), Shapes(count=256, seed=3)
    assert torch.equal(few.split("train").images, many.split("train").images[:128])
    assert few.fingerprint != Shapes(count=128, scene_seed=1).fingerprint
    rows = {tuple(image.flatten().tolist()) for image in many.split("train").images}
    assert not any(tuple(image.flatten().tolist()) in rows for image in many.split("test").images)
    assert few.split("train").images.shape == (128, 3, 32, 32)
