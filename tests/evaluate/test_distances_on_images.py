"""Distances of real images, by the classifier that ships with the package: zero where nothing differs, growing with
whatever does, and biased by the number of images as the literature says."""

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from unclip.evaluate.distances import cmmd, fd_infinity, frechet, frechet_distance, kid, moments
from unclip.evaluate.extractors import FashionMnistClassifier
from unclip.evaluate.manifold import prdc

REFERENCE, N = 4000, 1000


@pytest.fixture(scope="module")
def extractor():
    return FashionMnistClassifier()


@pytest.fixture(scope="module")
def reference(extractor, fashion_mnist):
    return extractor.features(fashion_mnist.split("train").images[:REFERENCE])


@pytest.fixture(scope="module")
def test_images(fashion_mnist):
    return fashion_mnist.split("test").images


@pytest.fixture(scope="module")
def held_out(extractor, test_images):
    return extractor.features(test_images[:N])


def noisy(images, level):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 255 * level * noise).round().clamp(0, 255).to(torch.uint8)


def shifted(images, pixels):
    return images.roll(pixels, 3)


def blurred(images, sigma):
    return gaussian_blur(images, 9, sigma)


DISTANCES = {
    "frechet": lambda a, b: frechet(a, b).item(),
    "kid": lambda a, b: kid(a, b, subsets=20, subset_size=500).value,
    "cmmd": lambda a, b: cmmd(a, b).item(),
    "not covered": lambda a, b: 1 - prdc(b, a).coverage,
}


@pytest.mark.parametrize(("change", "levels"), [(noisy, (0.05, 0.15, 0.4)), (blurred, (0.7, 1.2, 2))])
def test_they_grow_with_noise_and_blur(change, levels, extractor, reference, held_out, test_images):
    sets = [held_out, *(extractor.features(change(test_images[:N], level)) for level in levels)]
    for name, distance in DISTANCES.items():
        values = [distance(x, reference[:N]) for x in sets]
        assert values == sorted(values), name
        assert values[1] > 3 * values[0], name


def test_they_grow_with_a_shift_the_frechet_distance_from_one_pixel_on(
    extractor, reference, held_out, test_images
):
    # the classifier was trained on shifted images: one pixel of 32 is all but nothing to it, four are not
    sets = [held_out, *(extractor.features(shifted(test_images[:N], pixels)) for pixels in (1, 2, 4))]
    values = [frechet(x, reference).item() for x in sets]
    assert values == sorted(values)
    assert values[1] > 1.1 * values[0]
    for name, distance in DISTANCES.items():
        assert distance(sets[3], reference[:N]) > 2 * distance(held_out, reference[:N]), name


def test_they_grow_with_every_class_that_is_missing(extractor, reference, fashion_mnist):
    test = fashion_mnist.split("test")
    features, labels = extractor.features(test.images[:2000]), test.labels[:2000]
    sets = [features[labels >= dropped][:900] for dropped in (0, 1, 2, 5)]
    for name, distance in DISTANCES.items():
        values = [distance(x, reference[:900]) for x in sets]
        assert values == sorted(values), name
        assert values[1] > 1.3 * values[0], name


def test_one_distribution_is_at_distance_zero(reference, held_out):
    halves = reference[: REFERENCE // 2], reference[REFERENCE // 2 :]
    estimate = kid(*halves, subsets=50, subset_size=1000)
    assert abs(estimate.value) < 3 * estimate.std
    total = moments(reference).covariance.trace().item()
    assert frechet(*halves).item() < 0.01 * total  # what is left is bias
    assert abs(fd_infinity(held_out, reference).value) < 0.5 * frechet(held_out, reference).item()
    assert frechet(reference, reference.flip(0)).item() < 1e-9 * total


def test_batches_and_order_change_nothing(extractor, test_images, held_out, reference):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([extractor.features(part) for part in test_images[:N][order].split(173)])
    for distance in (frechet, cmmd):
        assert distance(shuffled, reference).item() == pytest.approx(
            distance(held_out, reference).item(), rel=1e-5
        )
    assert prdc(reference[:N], shuffled) == prdc(reference[:N], held_out)


@pytest.mark.slow
def test_the_bias_falls_as_one_over_n(extractor, fashion_mnist):
    """Training images against other training images, 30,000 of them, as published: 18.6 at N = 250, 3.9 at 1000, .97 at
    5000 for a classifier of as many features but another scale. What must agree is the law, N FD = const."""
    features = extractor.features(fashion_mnist.split("train").images)
    real, rest = moments(features[:30_000]), features[30_000:]
    generator = torch.Generator().manual_seed(0)
    counts = (250, 500, 1000, 2500, 5000)
    means = []
    for n in counts:
        draws = [rest[torch.randperm(len(rest), generator=generator)[:n]] for _ in range(8)]
        means.append(np.mean([frechet_distance(*moments(x), *real).item() for x in draws]))
    slope = np.polyfit(np.log(counts), np.log(means), 1)[0]
    assert slope == pytest.approx(-1, abs=0.12)
    published = 18.6 / 0.97
    assert means[0] / means[-1] == pytest.approx(published, rel=0.3)
    extrapolated = np.mean([fd_infinity(rest[i : i + 5000], real).value for i in range(0, 20_000, 5000)])
    largest = frechet_distance(*moments(rest), *real).item()
    assert abs(extrapolated - largest) < 0.5 * means[-1]
