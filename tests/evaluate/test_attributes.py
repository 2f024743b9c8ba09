"""The checks read renderings exactly, forgive no exchange of colours, and take any garbage."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.data.attribute_world import AttributeWorld
from unclip.data.fashion_mnist import FashionMNIST
from unclip.data.garments import Garments
from unclip.data.scenes import COLOURS
from unclip.data.shapes import Shapes
from unclip.evaluate.attributes import Shown, agreement

SHAPES = Shapes(count=1000)


def read(world: AttributeWorld) -> dict[str, float]:
    """The share of things in test and held-out images of which each attribute is read right."""
    checks, found = world.attribute_checks(), {}
    parts = {"test": world.split("test"), "held_out": world.held_out_images()}
    seen = {part: checks.see(split.images) for part, split in parts.items() if split is not None}
    for name in ("kind", "colour", "size", "position"):
        right = [getattr(seen[part], name) == getattr(world.layout(part), name) for part in seen]  # type: ignore[arg-type]
        there = [world.layout(part).kind >= 0 for part in seen]  # type: ignore[arg-type]
        found[name] = torch.cat(right)[torch.cat(there)].double().mean().item()
    return found


@pytest.mark.parametrize("image_size", [32, 64])
def test_shapes_are_read_right(image_size: int) -> None:
    found = read(Shapes(count=2000, image_size=image_size))
    assert min(found.values()) >= 0.995
    assert found["kind"] == found["colour"] == found["position"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [32, 64])
def test_garments_are_read_right(fashion_mnist: FashionMNIST, image_size: int) -> None:
    found = read(Garments(folder=str(fashion_mnist.folder), count=8000, image_size=image_size))
    assert found["kind"] >= 0.985
    assert min(found["colour"], found["size"], found["position"]) >= 0.995


def test_renderings_agree_with_their_captions_and_not_with_those_of_others() -> None:
    test = SHAPES.split("test")
    checks = SHAPES.attribute_checks()
    own = checks.agreement(test.images, test.own_captions)
    assert own["value"] > 0.99
    assert own["binding"]["value"] == 0
    assert own["binding"]["n"] == own["binding"]["asked"] > 50
    others = checks.agreement(test.images, test.own_captions[1:] + test.own_captions[:1])
    assert others["value"] < 0.05
    assert others["colour"]["value"] < 0.5


def test_things_that_have_exchanged_their_colours_are_bound_wrong_and_all_else_is_right() -> None:
    laid, test, checks = SHAPES.layout("test"), SHAPES.split("test"), SHAPES.attribute_checks()
    different = (laid.kind[:, 1] >= 0) & (laid.kind[:, 0] != laid.kind[:, 1])
    different &= laid.colour[:, 0] != laid.colour[:, 1]
    shown = Shown(laid.kind, laid.colour.flip(1), laid.size, laid.position)
    asked = checks.asked(test.own_captions)
    exchanged = Shown(*(x[different] for x in (shown.kind, shown.colour, shown.size, shown.position)))
    wanted = Shown(*(x[different] for x in (asked.kind, asked.colour, asked.size, asked.position)))
    found = agreement(exchanged, wanted)
    assert found["binding"]["value"] == 1
    assert found["binding"]["n"] == int(different.sum())
    assert found["class"]["value"] == found["position"]["value"] == found["number"]["value"] == 1
    assert found["colour"]["value"] == found["value"] == 0


def test_things_that_have_exchanged_their_places_are_in_the_wrong_place_and_nothing_else() -> None:
    caption = ["a red circle to the left of a blue star"]
    asked = SHAPES.attribute_checks().asked(caption)
    found = agreement(Shown(asked.kind.flip(1), asked.colour.flip(1), asked.size, asked.position), asked)
    assert (found["position"]["value"], found["class"]["value"], found["colour"]["value"]) == (0, 1, 1)
    assert found["size"] == {"value": None, "n": 0}  # the caption says none
    assert found["binding"]["value"] == 0


def test_colours_dealt_at_random_are_bound_wrong_half_of_the_time() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 4000
    kind = torch.tensor([[0, 1]]).expand(n, -1)
    colour = torch.rand(n, len(COLOURS), generator=generator).argsort(1)[:, :2]
    where = torch.tensor([[1, 2]]).expand(n, -1)
    size = torch.zeros(n, 2, dtype=torch.int64)
    crossed = torch.rand(n, 1, generator=generator) < 0.5
    found = agreement(
        Shown(kind, torch.where(crossed, colour.flip(1), colour), size, where),
        Shown(kind, colour, size, where),
    )["binding"]
    low, high = found["interval"]
    assert low < found["chance"] < high


@given(
    st.sampled_from(["black", "white", "noise", "line", "speckle"]),
    st.sampled_from([1, 3]),
    st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_any_picture_gets_a_verdict_and_black_shows_nothing(what: str, channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(4, channels, 32, 32, dtype=torch.uint8)
    if what == "white":
        images += 255
    elif what == "noise":
        images = torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)
    elif what == "line":
        images[..., 31] = 200
    elif what == "speckle":
        images[:, :, seed % 32, (7 * seed) % 32] = 255
    checks = SHAPES.attribute_checks()
    seen = checks.see(images)
    assert (seen.things == 0).all() if what == "black" else (seen.things >= 1).all()
    assert ((seen.kind >= 0) == (seen.position >= 0)).all()
    found = checks.agreement(images, ["a red circle in the middle"] * 4)
    assert 0 <= found["value"] <= 1
