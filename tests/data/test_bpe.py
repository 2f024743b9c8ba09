"""Subwords learned from captions: nothing is lost, everything can be read, and the same captions give the same ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unclip.data.bpe import SPECIAL, BpeTokenizer
from unclip.data.tokenizer import END, PADDING, START, ByteTokenizer

CAPTIONS = [f"a {size} {colour} {thing}" for size in ("small", "large") for colour in ("red", "blue", "green")
            for thing in ("sneaker", "ankle boot", "pullover")]  # fmt: skip
BPE = BpeTokenizer(CAPTIONS, vocabulary=400, length=12)


def test_captions_come_back_and_take_fewer_tokens():
    assert BPE.decode(BPE.encode(CAPTIONS)) == CAPTIONS
    assert sum(map(BPE.count, CAPTIONS)) * 3 < sum(map(ByteTokenizer().count, CAPTIONS))


def test_the_same_captions_give_the_same_tokenizer_and_what_is_saved_makes_it_again():
    assert BpeTokenizer(CAPTIONS, vocabulary=400, length=12).saved == BPE.saved
    again = BpeTokenizer(saved=BPE.saved, length=12)
    assert again.vocabulary == BPE.vocabulary <= 400
    assert torch.equal(again.encode(CAPTIONS), BPE.encode(CAPTIONS))


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=30))
def test_any_text_is_read_in_ids_of_the_vocabulary(text: str):
    ids = BPE.ids(text)
    assert all(len(SPECIAL) <= i < BPE.vocabulary for i in ids)


def test_start_end_and_padding_surround_it_and_a_long_caption_is_cut_with_a_line(capsys):
    row = BPE.encode(["a small red sneaker"])[0].tolist()
    assert row[0] == START
    assert row[-1] == PADDING
    assert row[row.index(PADDING) - 1] == END
    cut = BPE.encode(["xyzzy " * 20])[0].tolist()
    assert "1 caption(s) truncated to 10 subwords by length=12" in capsys.readouterr().err
    assert cut[-1] == END


def test_case_does_not_matter():
    assert BPE.ids("A Small RED sneaker") == BPE.ids("a small red sneaker")


@pytest.mark.parametrize("tokenizer", [BPE, ByteTokenizer()], ids=["bpe", "bytes"])
def test_what_is_no_text_is_refused(tokenizer):
    with pytest.raises(TypeError, match="caption 3 is int: must be text"):
        tokenizer.encode(["a bag", 3])
    with pytest.raises(TypeError, match="must be a list of strings"):
        tokenizer.encode("a bag")


def test_a_caption_cannot_smuggle_an_end_in():
    with pytest.raises(ValueError, match="which mark start, end or padding"):
        BPE.encode(["a bag <end> of tricks"])


def test_it_needs_captions_or_what_was_saved():
    with pytest.raises(ValueError, match="needs captions to learn from"):
        BpeTokenizer()
    with pytest.raises(ValueError, match="vocabulary >= 260"):
        BpeTokenizer(CAPTIONS, vocabulary=100)
