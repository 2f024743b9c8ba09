"""CLIP's towers: unit norm, what the text tower reads and what it ignores."""

from __future__ import annotations

import math

import pytest
import torch

from unclip.data.tokenizer import ByteTokenizer
from unclip.nets.clip import CLIP

CAPTIONS = ["a bag", "a coat", "ab"]


@pytest.fixture(scope="module", params=["linear", "convolutions"])
def clip(request):
    torch.manual_seed(0)
    sizes = {"embedding_dim": 8, "patch": 4, "width": 16, "image_layers": 2, "text_layers": 2, "heads": 2}
    data = {"image_size": 8, "image_channels": 3, "vocabulary": 256, "context_length": 16}
    return CLIP(**data, **sizes, dropout=0.0, stem=request.param).eval()


def test_embeddings_have_unit_norm(clip):
    ids = ByteTokenizer(16).encode(CAPTIONS)
    torch.testing.assert_close(clip.encode_text(ids).embedding.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(clip.encode_image(torch.randn(4, 3, 8, 8)).norm(dim=1), torch.ones(4))


def test_every_patch_reaches_the_image_embedding(clip):
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    clip.encode_image(x)[:, 0].sum().backward()
    assert (x.grad.reshape(2, 3, 2, 4, 2, 4).abs().sum(dim=(1, 3, 5)) > 0).all()


def test_text_is_read_at_its_last_token(clip):
    """Every byte of a caption counts; the features after its end do not."""
    ids = ByteTokenizer(16).encode(["a bag", "a beg"])
    features = clip.encode_text(ids)
    assert (features.embedding[0] - features.embedding[1]).norm() > 1e-3
    assert features.mask.sum(1).tolist() == [7, 7]  # start, five bytes, end


def test_padding_does_not_reach_real_tokens(clip):
    """A tower with room for more padding gives the same features: the causal mask hides what comes after."""
    ids = ByteTokenizer(16).encode(CAPTIONS)
    before = clip.encode_text(ids)
    positions = clip.text.positions.detach().clone()
    try:
        with torch.no_grad():
            clip.text.positions[11:] += 5.0  # every caption has ended by then
        after = clip.encode_text(ids)
    finally:
        with torch.no_grad():
            clip.text.positions.copy_(positions)
    torch.testing.assert_close(before.embedding, after.embedding)
    torch.testing.assert_close(before.tokens[before.mask], after.tokens[after.mask])


def test_trailing_padding_may_be_left_out(clip):
    long, short = (
        clip.encode_text(ByteTokenizer(16).encode(CAPTIONS)),
        ByteTokenizer(16).encode_short(CAPTIONS),
    )
    assert short.shape[1] == 8
    torch.testing.assert_close(clip.encode_text(short).embedding, long.embedding)
    torch.testing.assert_close(clip.encode_text(short).tokens, long.tokens[:, :8])


def test_token_features_depend_on_what_came_before(clip):
    """They are encodings, not a table of the ids: the same byte in another place has other features."""
    ids = ByteTokenizer(16).encode(["aa"])
    tokens = clip.encode_text(ids).tokens[0]
    assert (tokens[1] - tokens[2]).norm() > 0.1


def test_temperature_starts_at_its_value_and_is_capped(clip):
    assert clip.logit_scale.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        start = clip.log_logit_scale.item()
        clip.log_logit_scale.fill_(math.log(1e4))
        assert clip.logit_scale.item() == 100
        clip.log_logit_scale.fill_(start)


def test_the_lowest_temperature_starts_at_the_cap(clip):
    sizes = {"image_size": 8, "image_channels": 1, "vocabulary": 256, "context_length": 16, "patch": 4}
    assert CLIP(**sizes, width=16, heads=2, temperature=0.01).logit_scale.item() == pytest.approx(100)
    with pytest.raises(ValueError, match=r"temperature = 0.001: must satisfy temperature >= 0.01"):
        CLIP(**sizes, width=16, heads=2, temperature=0.001)


def test_impossible_shapes_say_what_is_possible():
    sizes = {"image_size": 8, "image_channels": 1, "vocabulary": 256, "context_length": 16}
    with pytest.raises(
        ValueError, match=r"patch = 3 does not divide the image size 8; possible: \[1, 2, 4, 8\]"
    ):
        CLIP(**sizes, patch=3, width=16, heads=2)
    with pytest.raises(ValueError, match="heads = 5 does not divide the width 16"):
        CLIP(**sizes, width=16, heads=5)
    with pytest.raises(ValueError, match="patch = 3: a stem of convolutions needs a power of two"):
        CLIP(**{**sizes, "image_size": 9}, patch=3, width=16, heads=2, stem="convolutions")
    with pytest.raises(ValueError, match="dropout"):
        CLIP(**sizes, width=16, heads=2, dropout=1.5)


def test_captions_of_another_length_are_refused(clip):
    with pytest.raises(ValueError, match="17 tokens, but this text tower reads at most 16"):
        clip.encode_text(torch.ones(1, 17, dtype=torch.long))
