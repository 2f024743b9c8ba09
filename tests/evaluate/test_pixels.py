"""The distance between distributions of brightness against scipy's, and on sets whose distance is known."""

import pytest
import scipy.stats
import torch

from unclip.evaluate.pixels import brightness, brightness_distance


def images(n, seed=0, low=0, high=256, channels=1):
    generator = torch.Generator().manual_seed(seed)
    top = torch.randint(low + 1, high + 1, (n, 1, 1, 1), generator=generator)
    return (low + torch.rand(n, channels, 6, 5, generator=generator) * (top - low)).to(torch.uint8)


@pytest.mark.parametrize(("n", "m"), [(200, 200), (200, 37), (1, 5)])
def test_it_is_scipys(n, m):
    a, b = images(n, seed=1), images(m, seed=2, low=60)
    expected = scipy.stats.wasserstein_distance(brightness(a).numpy(), brightness(b).numpy())
    assert brightness_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert brightness_distance(b, a) == pytest.approx(expected, rel=1e-12)


def test_brightness_is_the_mean_of_pixels_and_channels_from_black_to_white():
    x = images(20, channels=3)
    torch.testing.assert_close(brightness(x), x.double().mean((1, 2, 3)) / 255)
    ends = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 255)]).to(torch.uint8)
    assert brightness(ends).tolist() == [0, 1]


def test_a_shift_of_all_is_the_distance_and_medium_brightness_only_is_seen():
    x = images(300, high=200)
    assert brightness_distance(x, x.flip(0)) == 0
    assert brightness_distance(x, x + 51) == pytest.approx(51 / 255)
    # the same mean: half black, half white against all grey, which is what a lost lowest frequency does
    grey = torch.full((100, 1, 4, 4), 128, dtype=torch.uint8)
    extremes = torch.cat([torch.zeros_like(grey[:50]), torch.full_like(grey[:50], 255)])
    assert brightness_distance(grey, extremes) == pytest.approx(0.5, abs=1e-3)


def test_what_is_no_set_of_stored_images_is_refused():
    with pytest.raises(ValueError, match=r"images of torch.float32 .*: must be uint8 \(N,C,H,W\)"):
        brightness(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="at least one"):
        brightness_distance(images(3), images(3)[:0])
