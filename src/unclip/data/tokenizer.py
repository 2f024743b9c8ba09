"""Captions as token ids: what every tokenizer shares, and the one by bytes, which needs no files and reads every
language at one token a byte. Subwords are in bpe.py."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded

PADDING, START, END = 0, 2, 3  # NUL, STX, ETX: control characters, which captions do not contain


class Tokenizer:
    """`START ids END PADDING...`, always `length` of them. The end is kept when a caption is truncated: text towers
    read it there. A subclass turns a caption into ids and back, and says how many ids there are."""

    kind: str  # one word for messages: what a token is
    vocabulary: int
    length: int

    def ids(self, caption: str) -> Sequence[int]:
        """The tokens of a caption without start and end, however many. Raises ValueError on what it cannot read."""
        raise NotImplementedError

    def text(self, ids: Sequence[int]) -> str:
        """The inverse, of ids without start, end and padding."""
        raise NotImplementedError

    @property
    def saved(self) -> str | None:
        """What beside its settings the tokenizer needs to be made again; None where that is nothing."""
        return None

    def count(self, caption: str) -> int:
        """Tokens of a caption, start and end included, before anything is cut off."""
        return len(self.ids(caption)) + 2

    def encode(self, captions: Sequence[str]) -> Tensor:
        """-> int64 (B, length). Warns once a call about captions that do not fit; raises TypeError on what is no text,
        ValueError on control characters."""
        if isinstance(captions, str):
            raise TypeError(f"captions = {captions!r}: must be a list of strings")
        ids = torch.full((len(captions), self.length), PADDING, dtype=torch.int64)
        room = self.length - 2
        too_long = []
        for row, caption in zip(ids, captions, strict=True):
            if not isinstance(caption, str):
                raise TypeError(f"caption {caption!r} is {type(caption).__name__}: must be text")
            found = self.ids(caption)
            if len(found) > room:
                too_long.append(caption)
            whole = torch.tensor([START, *found[:room], END])
            row[: len(whole)] = whole
        if too_long:
            warnings.warn(
                f"{len(too_long)} caption(s) truncated to {room} {self.kind} by length={self.length}, "
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
        return [self.text([i for i in row if i not in (PADDING, START, END)]) for row in ids.tolist()]


class ByteTokenizer(Tokenizer):
    """A token a byte of UTF-8."""

    kind = "bytes"
    vocabulary = 256

    @bounded
    def __init__(self, length: Annotated[int, "length >= 3"] = 64) -> None:
        self.length = length

    def ids(self, caption: str) -> bytes:
        text = caption.encode()
        if any(special in text for special in (PADDING, START, END)):
            raise ValueError(f"caption {caption!r}: holds a byte that marks start, end or padding")
        return text

    def text(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="ignore")
