"""Captions as bytes: a vocabulary of 256 that needs no files and reads every language.
Not a subword tokenizer: a caption costs one token a byte."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded

PADDING, START, END = 0, 2, 3  # NUL, STX, ETX: control characters, which captions do not contain


class ByteTokenizer:
    """`START bytes END PADDING...`, always `length` ids. The end is kept when a caption is truncated: text
    towers read it there."""

    vocabulary = 256

    @bounded
    def __init__(self, length: Annotated[int, "length >= 3"] = 64) -> None:
        self.length = length

    def encode(self, captions: Sequence[str]) -> Tensor:
        """-> int64 (B, length). Warns once a call about captions that do not fit; raises ValueError on
        control characters."""
        if isinstance(captions, str):
            raise TypeError(f"captions = {captions!r}: must be a list of strings")
        ids = torch.full((len(captions), self.length), PADDING, dtype=torch.int64)
        room = self.length - 2
        too_long = []
        for row, caption in zip(ids, captions, strict=True):
            text = caption.encode()
            if any(special in text for special in (PADDING, START, END)):
                raise ValueError(f"caption {caption!r}: holds a byte that marks start, end or padding")
            if len(text) > room:
                too_long.append(caption)
            text = bytes([START, *text[:room], END])
            row[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        if too_long:
            warnings.warn(
                f"{len(too_long)} caption(s) truncated to {room} bytes by length={self.length}, "
                f"first {too_long[0]!r}",
                stacklevel=2,
            )
        return ids

    def encode_short(self, captions: Sequence[str]) -> Tensor:
        """-> int64 (B, L), without the columns that are padding in all of them: less for a tower to read."""
        ids = self.encode(captions)
        return ids[:, : int((ids != PADDING).any(dim=0).sum())]

    def decode(self, ids: Tensor) -> list[str]:
        """int64 (B, length) -> captions; a character cut in half by truncation is dropped."""
        rows = ids.tolist()
        return [
            bytes(i for i in row if i not in (PADDING, START, END)).decode(errors="ignore") for row in rows
        ]
