"""The cache of CLIP embeddings: right, reused, and never stale."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.data.embeddings import Embeddings
from unclip.data.images import to_float
from unclip.data.module import ImageTextData
from unclip.data.tokenizer import ByteTokenizer


class TextFeatures(NamedTuple):
    embedding: Tensor
    tokens: Tensor
    mask: Tensor


class CountingCLIP(nn.Module):
    """Linear towers that count the images and captions they are shown."""

    def __init__(self, seed=0, heads=1):
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(0.5)
        generator = torch.Generator().manual_seed(seed)
        self.image_weight = nn.Parameter(torch.randn(128, 6, generator=generator))
        self.text_weight = nn.Parameter(torch.randn(256, 6, generator=generator))
        self.shown = {"images": 0, "captions": 0}

    def encode_image(self, x):
        self.shown["images"] += len(x)
        return F.normalize(self.dropout(x.flatten(1)) @ self.image_weight, dim=1)

    def encode_text(self, ids):
        self.shown["captions"] += len(ids)
        tokens = self.text_weight[ids]
        return TextFeatures(F.normalize(tokens.sum(1), dim=1), tokens, ids != 0)


@pytest.fixture
def data(numbered):
    class Data(ImageTextData):
        def load(self, split):
            return numbered if split == "train" else numbered.head(20)

    return Data(8)


def load(clip, data, folder, **arguments):
    return Embeddings.load(clip, ByteTokenizer(8), data, folder, **arguments)


def test_they_are_the_clips_own_in_eval_mode_which_is_left_as_it_was(data, tmp_path):
    clip = CountingCLIP().train()
    embeddings = load(clip, data, tmp_path)
    assert clip.training
    clip.eval()
    torch.testing.assert_close(
        embeddings.image["train"], clip.encode_image(to_float(data.split("train").images))
    )
    torch.testing.assert_close(embeddings.image["validation"], embeddings.image["train"][:20])
    text = clip.encode_text(ByteTokenizer(8).encode_short(data.captions))
    for found, expected in zip(
        (embeddings.text, embeddings.tokens, embeddings.token_mask), text, strict=True
    ):
        torch.testing.assert_close(found, expected)
    assert not embeddings.text.requires_grad


def test_the_second_time_nothing_passes_through_the_clip(data, tmp_path, capsys):
    first = load(CountingCLIP(), data, tmp_path)
    assert "computing" in capsys.readouterr().err
    clip = CountingCLIP()
    second = load(clip, data, tmp_path)
    assert clip.shown == {"images": 0, "captions": 0}
    assert capsys.readouterr().err == ""
    assert torch.equal(first.image["train"], second.image["train"])
    assert torch.equal(first.token_mask, second.token_mask)


def test_only_missing_splits_are_computed(data, tmp_path):
    load(CountingCLIP(), data, tmp_path)
    clip = CountingCLIP()
    load(clip, data, tmp_path, splits=("train", "validation", "test"))
    # the test split here has the images of the validation split: the same content is the same file
    assert clip.shown == {"images": 0, "captions": 0}


@pytest.mark.parametrize("change", [{"seed": 1}, {"heads": 2}])
def test_another_clip_gets_its_own(data, tmp_path, change):
    load(CountingCLIP(), data, tmp_path)
    other = CountingCLIP(**change)
    embeddings = load(other, data, tmp_path)
    assert other.shown == {"images": 123, "captions": 5}
    other.eval()
    torch.testing.assert_close(
        embeddings.image["train"], other.encode_image(to_float(data.split("train").images))
    )


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_byte, "does not hold what was written into it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "is not a whole safetensors file"),
        (lambda path: path.write_bytes(b""), "is not a whole safetensors file"),
    ],
)
def test_a_damaged_file_is_named_and_computed_again(data, tmp_path, capsys, damage, words):
    good = load(CountingCLIP(), data, tmp_path)
    largest = max(tmp_path.glob("image-*"), key=lambda path: path.stat().st_size)
    damage(largest)
    capsys.readouterr()
    clip = CountingCLIP()
    again = load(clip, data, tmp_path)
    assert clip.shown == {"images": 103, "captions": 0}
    assert f"computing again, {largest} {words}" in capsys.readouterr().err
    assert torch.equal(good.image["train"], again.image["train"])
    clip = CountingCLIP()
    load(clip, data, tmp_path)
    assert clip.shown["images"] == 0
