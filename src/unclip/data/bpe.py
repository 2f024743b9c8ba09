"""Captions as subwords: byte-pair encoding (Sennrich et al. 2016) on bytes, learned from the captions of a data set by
the library `tokenizers`. Shared handling of length, start and end is in tokenizer.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from unclip.data.cache import DamagedFile
from unclip.data.tokenizer import END, PADDING, START, Tokenizer
from unclip.diffusion.bounds import bounded

SPECIAL = ("<padding>", "<unused>", "<start>", "<end>")  # ids 0 to 3


class BpeTokenizer(Tokenizer):
    """Learned from `captions`, or made again from what an earlier one `saved`. Every language can be read: what is no
    subword is spelled in bytes. Captions are read in lower case.

    vocabulary: ids at most, bytes and four special ones included; small sets of captions give fewer subwords.
    """

    kind = "subwords"

    @bounded
    def __init__(
        self,
        captions: Sequence[str] | None = None,
        saved: str | None = None,
        vocabulary: Annotated[int, "vocabulary >= 260"] = 2048,
        length: Annotated[int, "length >= 3"] = 64,
    ) -> None:
        import tokenizers  # a compiled library: only where it is asked for

        if saved is not None:
            try:
                self._bpe = tokenizers.Tokenizer.from_str(saved)
            except Exception as error:  # the library raises nothing more special
                raise DamagedFile(f"the tokenizer saved with the weights cannot be read ({error})") from None
        elif captions:
            self._bpe = _learned(captions, vocabulary)
        else:
            raise ValueError("a BPE tokenizer needs captions to learn from, or what another one saved")
        self.length = length
        self.vocabulary = self._bpe.get_vocab_size()

    @property
    def saved(self) -> str:
        return str(self._bpe.to_str())

    def ids(self, caption: str) -> list[int]:
        found: list[int] = self._bpe.encode(caption, add_special_tokens=False).ids
        if any(special in found for special in (PADDING, START, END)):
            raise ValueError(
                f"caption {caption!r}: holds one of {', '.join(SPECIAL)}, which mark start, end or padding"
            )
        return found

    def text(self, ids: Sequence[int]) -> str:
        return str(self._bpe.decode(list(ids))).replace("\N{REPLACEMENT CHARACTER}", "").removeprefix(" ")


def _learned(captions: Sequence[str], vocabulary: int):  # type: ignore[no-untyped-def]  # of a library without types
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    bpe = Fast(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    return bpe
