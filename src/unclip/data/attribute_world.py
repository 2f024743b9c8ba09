"""`AttributeWorld`: images of one or two things whose class, colour, size and position are known, and their captions.
Scenes, colours and canvas are here; what a thing looks like is its subclass's business (garments.py, shapes.py)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor

from unclip.data.image_text import ImageText, Split
from unclip.data.module import ImageTextData
from unclip.data.scenes import (
    COLOURS,
    JITTER,
    MARGIN,
    PAIRS,
    POSITIONS,
    SIZES,
    Grammar,
    HeldOut,
    Scene,
    Thing,
)
from unclip.diffusion.bounds import bounded
from unclip.evaluate.attributes import Checks
from unclip.randomness import key

Part = Literal["train", "validation", "test", "held_out"]
PARTS: tuple[Part, ...] = ("train", "validation", "test", "held_out")
DRAWS = 16  # random numbers a scene
OTHERS = 2000  # images of a part that is not training, at most
DRAWN_AT_ONCE = 2000


@dataclass(frozen=True)
class Layout:
    """Scenes as numbers: kind, colour, size, position int64 (N,2) into the names, -1 where there is no second thing;
    centre (N,2,2) across and down, 0 to 1; light (N,2) from 0.85 to 1; own float64 (N,2,3), to draw each with."""

    kind: Tensor
    colour: Tensor
    size: Tensor
    position: Tensor
    centre: Tensor
    light: Tensor
    own: Tensor
    wording: Tensor  # int64 (N,)

    def __len__(self) -> int:
        return len(self.kind)


class AttributeWorld(ImageTextData):
    """`count` training images, a quarter as many (at most 2,000) for validation and for testing, and as many for
    `held_out_images`: of the `held_out` combinations of kind and colour, and of as many ordered pairs of kinds (at most
    one a kind), that no other part shows.

    objects: things in an image, at most. Image i of a part depends on (scene_seed, part, i) and on nothing else but
    image_size, objects and held_out. A label is the kind of the first thing (the left or upper one). Every caption is
    one of several wordings, of which some say sizes.
    """

    kinds: ClassVar[Mapping[str, str]]  # with their articles
    exemplars: ClassVar[int]  # of each kind, for the checks

    @bounded
    def __init__(
        self,
        image_size: Annotated[int, "image_size >= 32"] = 32,
        count: Annotated[int, "count >= 128"] = 10_000,
        objects: Annotated[int, "1 <= objects <= 2"] = 2,
        held_out: Annotated[int, "0 <= held_out <= 8"] = 4,
        scene_seed: Annotated[int, "scene_seed >= 0"] = 0,
        **loader: Any,
    ) -> None:
        super().__init__(image_size, **loader)
        self.count, self.objects, self.scene_seed = count, objects, scene_seed
        self.held_out = HeldOut(len(self.kinds), held_out)
        self.grammar = Grammar(self.kinds)
        self._layouts: dict[Part, Layout] = {}

    def tiles(self, part: Part, kind: Tensor, pixels: int, own: Tensor) -> Tensor:
        """How bright things are, 0 to 1: kind (n,) -> (n,pixels,pixels), the longer side filling the tile.

        own: float64 (n,3) in [0,1), what else may vary: which garment, how a shape is turned.
        """
        raise NotImplementedError

    def load(self, split: Split) -> ImageText:
        return self._drawn(split)

    def held_out_images(self) -> ImageText | None:
        """Images of the combinations that no other part shows; None where none are held out."""
        return self._drawn("held_out") if self.held_out.count else None

    def attribute_checks(self) -> Checks:
        """They know each kind by exemplars of the training part."""
        return self._checks

    @functools.cached_property
    def _checks(self) -> Checks:
        n = self.exemplars * len(self.kinds)
        generator = torch.Generator().manual_seed(key(self.scene_seed, "exemplars"))
        kind = torch.arange(n) % len(self.kinds)
        images = torch.zeros(n, 1, self.image_size, self.image_size)
        for number, part in enumerate(SIZES.values()):
            mine = torch.arange(n) // len(self.kinds) % len(SIZES) == number
            pixels = round(part * self.image_size)
            tiles = self.tiles(
                "train", kind[mine], pixels, torch.rand(n, 3, generator=generator).double()[mine]
            )
            start = (self.image_size - pixels) // 2
            images[mine, 0, start : start + pixels, start : start + pixels] = tiles
        return Checks(self.grammar, (255 * images).round().to(torch.uint8), kind)

    def layout(self, part: Part) -> Layout:
        """The scenes of a part, drawn at the first call."""
        if part not in self._layouts:
            self._layouts[part] = self._laid_out(part)
        return self._layouts[part]

    def scenes(self, part: Part) -> list[Scene]:
        """What each image of a part shows."""
        laid, names = self.layout(part), [list(x) for x in (self.kinds, COLOURS, SIZES, POSITIONS)]
        numbers = torch.stack([laid.kind, laid.colour, laid.size, laid.position], dim=2).tolist()  # (N,2,4)
        return [
            tuple(
                Thing(*(of[i] for of, i in zip(names, thing, strict=True))) for thing in row if thing[0] >= 0
            )
            for row in numbers
        ]

    def _laid_out(self, part: Part) -> Layout:
        count = self.count if part == "train" else min(self.count // 4, OTHERS)
        generator = torch.Generator().manual_seed(key(self.scene_seed, "scenes", part))
        u = torch.rand(count, DRAWS, generator=generator, dtype=torch.float64)
        two = (u[:, 0] < 0.5) & (self.objects == 2)
        things = torch.full((count, 2, 2), -1)  # kind and colour
        for number, chosen in ((1, ~two), (2, two)):
            allowed = torch.tensor(self.held_out.allowed(number, part == "held_out")).reshape(-1, number, 2)
            if len(allowed) and chosen.any():
                things[chosen, :number] = allowed[(u[chosen, 1] * len(allowed)).long()]
        places = list(POSITIONS)
        pairs = torch.tensor([[places.index(p) for p in pair] for pair in PAIRS])
        position = torch.stack([(u[:, 2] * len(places)).long(), torch.full((count,), -1)], dim=1)
        position[two] = pairs[(u[two, 2] * len(pairs)).long()]
        absent = things[..., 0] < 0
        size = (u[:, 3:5] * len(SIZES)).long().masked_fill(absent, -1)
        own, where = u[:, 5:11].unflatten(1, (2, 3)), u[:, 11:15].unflatten(1, (2, 2))
        wordings = torch.where(two, Grammar.wordings(2), Grammar.wordings(1))
        return Layout(
            things[..., 0],
            things[..., 1],
            size,
            position,
            _centres(position, size, two, where),
            0.85 + 0.15 * own[..., 2],
            own,
            (u[:, 15] * wordings).long(),
        )

    @functools.cached_property
    def _captions(self) -> dict[str, int]:
        """All captions of all parts, numbered."""
        said = (caption for part in self._parts for caption in self._said(part))
        return {caption: number for number, caption in enumerate(dict.fromkeys(said))}

    @property
    def _parts(self) -> tuple[Part, ...]:
        return PARTS if self.held_out.count else PARTS[:3]

    def _said(self, part: Part) -> list[str]:
        wordings = self.layout(part).wording.tolist()
        return [self.grammar.caption(s, w) for s, w in zip(self.scenes(part), wordings, strict=True)]

    def _drawn(self, part: Part) -> ImageText:
        laid = self.layout(part)
        numbers = self._captions
        return ImageText(
            images=torch.cat(
                [self._canvas(part, rows) for rows in torch.arange(len(laid)).split(DRAWN_AT_ONCE)]
            ),
            caption_ids=torch.tensor([numbers[caption] for caption in self._said(part)]),
            captions=tuple(numbers),
            labels=laid.kind[:, 0].clone(),
            class_names=tuple(self.kinds),
        )

    def _canvas(self, part: Part, rows: Tensor) -> Tensor:
        """uint8 (n,3,S,S): the things of these images on black."""
        laid, side = self.layout(part), self.image_size
        canvas = torch.zeros(len(rows), side, side, 3)
        palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
        for thing in range(2):
            for number, share in enumerate(SIZES.values()):
                mine = (laid.size[rows, thing] == number).nonzero().flatten()  # (m,)
                if not len(mine):
                    continue
                pixels, at = round(share * side), rows[mine]
                tiles = self.tiles(part, laid.kind[at, thing], pixels, laid.own[at, thing])
                corner = (laid.centre[at, thing] * side - pixels / 2).round().long().clamp(0, side - pixels)
                across, down = (corner[:, i : i + 1] + torch.arange(pixels) for i in (0, 1))  # (m,pixels)
                colour = palette[laid.colour[at, thing]] * laid.light[at, thing, None].float()  # (m,3)
                here = rearrange(mine, "m -> m 1 1"), rearrange(down, "m h -> m h 1"), across[:, None]
                canvas[here] = rearrange(tiles, "m h w -> m h w 1") * rearrange(colour, "m c -> m 1 1 c")
        return rearrange(canvas.round_().to(torch.uint8), "n h w c -> n c h w").contiguous()


def _centres(position: Tensor, size: Tensor, two: Tensor, where: Tensor) -> Tensor:
    """(N,2,2): the anchors, jittered by `where` in [0,1); of two things each within its own half."""
    anchors = torch.tensor(list(POSITIONS.values()), dtype=torch.float64)[position.clamp(min=0)]
    half = torch.tensor(list(SIZES.values()), dtype=torch.float64)[size.clamp(min=0)] / 2  # (N,2)
    room = torch.full_like(anchors, JITTER)
    along = (anchors - 0.5).abs() > 0.1  # the axis on which the two are apart
    inside = (0.25 - MARGIN - half).clamp(0, JITTER)  # to either end of the half
    room = torch.where(along & two[:, None, None], inside[..., None], room)
    return anchors + (2 * where - 1) * room
