"""Grids of small images with labels, as PNG. No plotting library: pixels stay pixels. Imports no torch."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from einops import rearrange
from PIL import Image, ImageDraw, ImageFont

from unclip.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

TILE = 72  # pixels an image is enlarged to, at least
GAP = 4
FONT_SIZE = 15
LETTERS = 36  # of a line of a label
INK, PAPER = (32, 32, 32), (255, 255, 255)


def save(picture: Image.Image, path: Path) -> None:
    """As PNG, atomically."""
    write_atomic(path, lambda temporary: picture.save(temporary, format="PNG"))


def picture(image: Tensor) -> Image.Image:
    """uint8 (C,H,W), one or three channels, as a picture of its own size."""
    array = rearrange(image.cpu(), "c h w -> h w c").numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def grid(
    images: Tensor, columns: int, rows: Sequence[str] | None = None, headings: Sequence[str] | None = None
) -> Image.Image:
    """uint8 (N,C,H,W) in reading order, `columns` a row; a label left of each row, a heading above each column."""
    return sheet([picture(image) for image in images], columns, rows, headings)


def sheet(
    images: Sequence[Image.Image],
    columns: int,
    rows: Sequence[str] | None = None,
    headings: Sequence[str] | None = None,
) -> Image.Image:
    """The same of pictures of one size."""
    scale = max(1, TILE // images[0].width)
    height, width = images[0].height * scale + GAP, images[0].width * scale + GAP
    font = ImageFont.load_default(FONT_SIZE)
    count = -(-len(images) // columns)
    labels = [_wrapped(label, max(height // (FONT_SIZE + GAP), 1)) for label in rows or []]
    lines = [line for label in labels for line in label.split("\n")]
    left = max((int(font.getlength(line)) + 3 * GAP for line in lines), default=0) + GAP
    top = FONT_SIZE + 3 * GAP if headings else GAP
    canvas = Image.new("RGB", (left + columns * width, top + count * height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, image in enumerate(images):
        tile = image.convert("RGB")
        tile = tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)
        canvas.paste(tile, (left + i % columns * width, top + i // columns * height))
    for i, label in enumerate(labels):
        at = left - 2 * GAP, top + (i + 0.5) * height - GAP
        draw.multiline_text(at, label, INK, font, anchor="rm", align="right")
    for i, label in enumerate(headings or []):
        draw.text((left + (i + 0.5) * width - GAP / 2, GAP + FONT_SIZE / 2), label, INK, font, anchor="mm")
    return canvas


def _wrapped(label: str, most: int) -> str:
    """A label in `most` lines, so that a long caption does not push the images out of sight."""
    return "\n".join(textwrap.wrap(label, LETTERS, max_lines=most, placeholder="…"))


def png(
    images: Tensor, columns: int, rows: Sequence[str] | None = None, headings: Sequence[str] | None = None
) -> bytes:
    """The same grid as PNG bytes."""
    return as_png(grid(images, columns, rows, headings))


def as_png(drawn: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG")
    return buffer.getvalue()
