"""Captions as token ids: what every tokenizer shares, and the one by bytes, which needs no files and reads every
language at one token a byte. Subwords are in bpe.py."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from unclip.data.cache import say
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

    def tokens(self, caption: str) -> list[int]:
        """All tokens of a caption, start and end included, before anything is cut off."""
        return [START, *self.ids(caption), END]

    def count(self, caption: str) -> int:
        """How many these are."""
        return len(self.tokens(caption))

    def encode(self, captions: Sequence[str]) -> Tensor:
        """-> int64 (B, length). A line on stderr names captions that do not fit, once; raises TypeError on what is no
        text, ValueError on control characters."""
        if isinstance(captions, str):
            raise TypeError(f"captions = {captions!r}: must be a list of strings")
        ids = torch.full((len(captions), self.length), PADDING, dtype=torch.int64)
        too_long = []
        for row, caption in zip(ids, captions, strict=True):
            if not isinstance(caption, str):
                raise TypeError(f"caption {caption!r} is {type(caption).__name__}: must be text")
            found = self.tokens(caption)
            if len(found) > self.length:
                too_long.append(caption)
                found[self.length - 1 :] = found[-1:]
            row[: len(found)] = torch.tensor(found)
        if too_long:
            room = f"{self.length - 2} {self.kind} by length={self.length}"
            first = too_long[0] if len(too_long[0]) < 80 else f"{too_long[0][:77]}..."
            _say_once(f"{len(too_long)} caption(s) truncated to {room}, first {first!r}")
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


@functools.cache
def _say_once(line: str) -> None:
    say(line)
