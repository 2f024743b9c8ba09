"""Corruptions of low-resolution pictures: nothing at strength 0, more with strength, each image by its own key."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from unclip.data.corruption import Degradation, GaussianBlur, Untouched, blurred, compressed
from unclip.randomness import KeyedNoise

CORRUPTIONS = [GaussianBlur(), Degradation()]


def pictures(channels: int = 1) -> torch.Tensor:
    """Smooth grey ones with an edge, (4,C,16,16) in [-1,1]."""
    x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(3)).expand(-1, channels, -1, -1)
    x = F.avg_pool2d(x, 3, 1, 1) * 1.5
    x[..., 8:] += 0.5
    return x.clamp(-1, 1)


def corrupted(
    corruption, images: torch.Tensor, strength: float, seed: int = 0, first: int = 0
) -> torch.Tensor:
    indices = range(first, first + len(images))
    return corruption(images, torch.full((len(images),), strength), KeyedNoise(seed, indices))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: type(c).__name__)
def test_strength_is_how_much(corruption, channels):
    images = pictures(channels)
    torch.testing.assert_close(corrupted(corruption, images, 0.0), images)
    # over many draws: one of a degradation may be mild at any strength
    change = [
        sum(float((corrupted(corruption, images, s, seed) - images).square().mean()) for seed in range(8))
        for s in (0.1, 0.5, 1.0)
    ]
    assert change == sorted(change)
    assert change[2] > 3 * change[0]
    assert corrupted(corruption, images, 1.0).shape == images.shape


def test_none_leaves_pictures_and_draws_no_strength():
    images = pictures()
    assert corrupted(Untouched(), images, 1.0) is images
    assert Untouched.strongest == 0


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: type(c).__name__)
def test_each_image_has_its_own_draws_in_any_batch(corruption):
    images = pictures()
    whole = corrupted(corruption, images, 0.7)
    torch.testing.assert_close(whole[2:], corrupted(corruption, images[2:], 0.7, first=2))
    same = corrupted(corruption, images[:1].expand(4, -1, -1, -1), 0.7)
    if isinstance(corruption, Degradation):
        assert min(float((same[0] - other).abs().max()) for other in same[1:]) > 1e-3
        assert float((whole - corrupted(corruption, images, 0.7, seed=1)).abs().max()) > 1e-3


def test_the_blur_is_a_gaussian_of_that_width_that_keeps_the_mean():
    point = torch.zeros(2, 1, 41, 41)
    point[..., 20, 20] = 1
    spread = blurred(point, torch.tensor([1.5, 3.0]), torch.tensor([1.5, 0.0]))
    torch.testing.assert_close(spread.sum((2, 3)), torch.ones(2, 1))
    place = torch.arange(41.0) - 20
    deviation = (spread.sum(3) * place**2).sum(2).sqrt().flatten()  # of rows
    torch.testing.assert_close(deviation, torch.tensor([1.5, 3.0]), rtol=1e-3, atol=0)
    assert (spread[1, 0, :, :20] == 0).all()
    flat = torch.full((1, 1, 9, 9), 0.3)
    torch.testing.assert_close(blurred(flat, torch.tensor([2.0]), torch.tensor([2.0])), flat)  # borders too


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_jpeg_keeps_the_picture_at_high_quality_and_less_of_it_at_low(channels):
    image = pictures(channels)[0]
    high, low = ((compressed(image, q) - image).square().mean() for q in (100, 10))
    assert high < 2e-3
    assert low > 3 * high
