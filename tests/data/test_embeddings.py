"""The cache of CLIP embeddings: right, reused, and never stale."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.data import embeddings
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
    load(CountingCLIP(), data, tmp_path, splits=("train",))
    clip = CountingCLIP()
    load(clip, data, tmp_path)
    assert clip.shown == {"images": 20, "captions": 0}
    load(clip, data, tmp_path, splits=("train", "validation", "test"))
    # the test split here has the images of the validation split: the same content is the same file
    assert clip.shown == {"images": 20, "captions": 0}


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


class CountingPrior:
    """Says which caption and which number it was asked for, and with which seed."""

    def __init__(self):
        self.asked = 0

    def __call__(self, text, numbers, seed):
        self.asked += len(numbers)
        said = torch.stack([numbers.float(), torch.full((len(numbers),), float(seed % 1000))], dim=1)
        return torch.cat([text["text"], said], dim=1)


def test_a_priors_samples_are_those_of_each_images_caption_shared_in_turns(data, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "PER_CAPTION", 8)
    true, prior = load(CountingCLIP(), data, tmp_path), CountingPrior()
    drawn = true.imagined(prior, "a prior", data, tmp_path)
    captions = data.split("train").caption_ids  # 103 images of 5 captions: 20 or 21 of each
    assert torch.equal(drawn.image["train"][:, :6], true.text[captions])
    assert torch.equal(drawn.captions(captions)["text"], true.text[captions])
    numbers = drawn.image["train"][:, 6]
    for caption in range(5):
        assert numbers[captions == caption].unique(return_counts=True)[1].tolist() in (
            [3] * 4 + [2] * 4,
            [3] * 5 + [2] * 3,
        )
    assert prior.asked == 5 * 8 + 20, "the 20 validation images have 4 of each caption, each its own sample"
    assert drawn.image["train"][0, 7] != drawn.image["validation"][0, 7], "another split, other noise"


def test_a_priors_samples_are_reused_and_never_stale(data, tmp_path):
    true, prior = load(CountingCLIP(), data, tmp_path), CountingPrior()
    first = true.imagined(prior, "a prior", data, tmp_path)
    once = prior.asked
    again = true.imagined(prior, "a prior", data, tmp_path)
    assert prior.asked == once == 103 + 20
    assert torch.equal(first.image["train"], again.image["train"])
    true.imagined(prior, "another prior", data, tmp_path)
    assert prior.asked == 2 * once
    load(CountingCLIP(seed=1), data, tmp_path).imagined(prior, "a prior", data, tmp_path)
    assert prior.asked == 3 * once, "of another CLIP's text embeddings"
