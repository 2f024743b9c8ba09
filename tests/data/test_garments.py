"""Garments and their captions: what is said is what is drawn, the grammar goes both ways, and nothing of the test is
ever shown in training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unclip.data.fashion_mnist import FashionMNIST
from unclip.data.garments import Garments, cut_out
from unclip.data.scenes import COLOURS, PAIRS, POSITIONS, SIZES, Grammar, HeldOut, Scene, Thing
from unclip.data.tokenizer import ByteTokenizer

GRAMMAR = Grammar(Garments.kinds)
things = st.builds(
    Thing, st.sampled_from(list(GRAMMAR.kinds)), st.sampled_from(list(COLOURS)), st.sampled_from(list(SIZES)),
    st.just(""),
)  # fmt: skip
places = st.one_of(st.sampled_from(list(POSITIONS)).map(lambda p: (p,)), st.sampled_from(PAIRS))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    where = draw(places)
    drawn = [draw(things) for _ in where]
    return tuple(Thing(t.kind, t.colour, t.size, p) for t, p in zip(drawn, where, strict=True))


def world(fashion_mnist: FashionMNIST, **options: int) -> Garments:
    return Garments(folder=str(fashion_mnist.folder), **{"count": 512, **options})


@given(scenes(), st.integers(0, 4))
def test_a_caption_says_its_scene_and_its_scene_gives_the_caption_back(scene: Scene, number: int) -> None:
    wording = number % GRAMMAR.wordings(len(scene))
    caption = GRAMMAR.caption(scene, wording)
    said, found = GRAMMAR.parse(caption)
    assert found == wording
    assert GRAMMAR.caption(said, found) == caption
    for thing, original in zip(said, scene, strict=True):
        assert (thing.kind, thing.colour, thing.position) == (
            original.kind,
            original.colour,
            original.position,
        )
        assert thing.size in (None, original.size)
    assert len(caption.encode()) <= ByteTokenizer().length - 2


def test_captions_read_as_a_person_would_say_it() -> None:
    sneaker, bag = Thing("sneaker", "red", "small", "left"), Thing("bag", "blue", "large", "right")
    assert [GRAMMAR.caption((sneaker, bag), i) for i in range(5)] == [
        "a red sneaker to the left of a blue bag",
        "a blue bag to the right of a red sneaker",
        "a red sneaker on the left, a blue bag on the right",
        "a small red sneaker left of a large blue bag",
        "a large blue bag right of a small red sneaker",
    ]
    assert (
        GRAMMAR.caption((Thing("trousers", "white", "large", "top"),), 0) == "large white trousers at the top"
    )


@pytest.mark.parametrize(
    "text",
    ["", "a bag", "a red trousers in the middle", "red bag in the middle", "a red bag above a blue bag "],
)
def test_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^caption = .*: is none of this world; possible: such as [^\n]*$"):
        GRAMMAR.parse(text)


@given(st.integers(4, 8), st.integers(0, 8))
def test_what_is_held_out_leaves_every_kind_colour_and_place_in_training(kinds: int, count: int) -> None:
    held_out = HeldOut(kinds, count)
    assert len(held_out.coloured) == count
    seen = held_out.allowed(1, False)
    assert {kind for ((kind, _),) in seen} == set(range(kinds))
    assert {colour for ((_, colour),) in seen} == set(range(len(COLOURS)))
    pairs = held_out.allowed(2, False)
    for place in (0, 1):
        assert {pair[place][0] for pair in pairs} == set(range(kinds))
    assert not {(b, a) for a, b in held_out.ordered} & held_out.ordered


def test_no_held_out_combination_and_no_test_garment_is_in_training(fashion_mnist: FashionMNIST) -> None:
    data = world(fashion_mnist)
    held_out, kinds, colours = data.held_out, list(data.kinds), list(COLOURS)

    def combinations(part: str) -> list[bool]:
        return [
            held_out.holds(*((kinds.index(t.kind), colours.index(t.colour)) for t in scene))
            for scene in data.scenes(part)  # type: ignore[arg-type]
        ]

    for part in ("train", "validation", "test"):
        assert not any(combinations(part))
    assert all(combinations("held_out"))
    pools = {part: torch.cat(data._pool(part)).flatten(1) for part in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert [len(pool) for pool in pools.values()] == [
        pytest.approx(n, rel=0.05) for n in (20_000, 4_000, 4_000)
    ]
    assert torch.equal(torch.cat(data._pool("held_out")).flatten(1), pools["test"])


def test_image_i_depends_on_its_number_and_not_on_how_many_there_are_or_on_the_loaders_seed(
    fashion_mnist: FashionMNIST,
) -> None:
    few, many = world(fashion_mnist, count=128), world(fashion_mnist, count=256, seed=7)
    assert torch.equal(few.split("train").images, many.split("train").images[:128])
    assert few.split("train").own_captions == many.split("train").own_captions[:128]
    other = world(fashion_mnist, count=128, scene_seed=1)
    assert not torch.equal(few.split("train").images, other.split("train").images)
    assert not torch.equal(few.split("test").images, few.split("validation").images)


def test_all_splits_and_the_held_out_images_share_one_list_of_captions(fashion_mnist: FashionMNIST) -> None:
    data = world(fashion_mnist)
    held_out = data.held_out_images()
    assert held_out is not None
    assert held_out.captions == data.captions == data.split("test").captions
    assert len(set(data.captions)) == len(data.captions)
    asked = data.prompts(7)
    assert len(set(asked)) == 7
    assert set(asked) <= set(data.split("test").own_captions)
    assert world(fashion_mnist, held_out=0).held_out_images() is None


def test_objects_1_shows_one_thing_and_one_is_left_of_the_other_in_pictures_of_two(
    fashion_mnist: FashionMNIST,
) -> None:
    assert all(len(scene) == 1 for scene in world(fashion_mnist, objects=1).scenes("train"))
    data = world(fashion_mnist)
    split = data.split("train")
    bright = (split.images.amax(1) > 50).float()
    for image, scene in zip(bright, data.scenes("train"), strict=True):
        if len(scene) == 2:
            dark = image[:, 15:17] if scene[0].position == "left" else image[15:17]
            assert dark.sum() == 0
    assert {len(scene) for scene in data.scenes("train")} == {1, 2}


@pytest.mark.parametrize("pixels", [9, 13, 26])
def test_a_garment_cut_out_fills_its_tile(pixels: int) -> None:
    garment = torch.zeros(3, 28, 28)
    garment[0, 3:24, 10:15] = 0.5  # tall, wide, and one that fills the picture
    garment[1, 20:25, 2:26] = 0.5
    garment[2] = 0.5
    tiles = cut_out(garment, pixels) > 0.3
    assert tiles.any(2).sum(1).tolist() == [pixels, pytest.approx(pixels * 5 / 24, abs=1.5), pixels]
    assert tiles.any(1).sum(1).tolist() == [pytest.approx(pixels * 5 / 21, abs=2), pixels, pixels]
