"""Captions to ids and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unclip.data.tokenizer import END, PADDING, START, ByteTokenizer

captions = st.text(
    st.characters(codec="utf-8", min_codepoint=4), max_size=15
)  # 15 characters: 60 bytes at most


@given(st.lists(captions, max_size=4))
def test_what_fits_comes_back(texts):
    assert ByteTokenizer(64).decode(ByteTokenizer(64).encode(texts)) == texts


def test_layout():
    ids = ByteTokenizer(8).encode(["ab", ""])
    assert ids.tolist() == [[START, 97, 98, END] + [PADDING] * 4, [START, END] + [PADDING] * 6]
    assert ids.dtype == torch.int64


def test_truncation_is_one_line_that_names_the_limit_and_keeps_the_end(capsys):
    for _ in range(2):
        ids = ByteTokenizer(6).encode(["abc", "abcdé"])
    assert capsys.readouterr().err == "1 caption(s) truncated to 4 bytes by length=6, first 'abcdé'\n"
    assert ids[1].tolist() == [START, 97, 98, 99, 100, END]
    assert ByteTokenizer(5).decode(ByteTokenizer(5).encode(["abé"])) == ["ab"]  # not half an é


def test_a_caption_with_a_reserved_byte_is_refused():
    with pytest.raises(ValueError, match=r"'a\\x03b': holds a byte that marks"):
        ByteTokenizer().encode(["a\x03b"])
    with pytest.raises(ValueError, match="length = 2: must satisfy length >= 3"):
        ByteTokenizer(2)
