"""Frechet and kernel distance against other formulations of the same numbers, and on sets whose distance is
known."""

import numpy as np
import pytest
import scipy.linalg
import torch

from unclip.evaluate.distances import (
    cmmd,
    fd_infinity,
    frechet,
    frechet_distance,
    kid,
    mmd2,
    moments,
)


def features(n, f, seed=0, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(f, f, generator=generator, dtype=torch.float64)
    return scale * torch.randn(n, f, generator=generator, dtype=torch.float64) @ mixing + shift


def as_usually_computed(a, b):
    """With the general matrix square root of the product, as FID implementations do."""
    a, b = a.numpy(), b.numpy()
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(root).real


@pytest.mark.parametrize("f", [1, 8, 64])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (2.0, 0.5), (1e-3, 1.0)])
def test_frechet_against_sqrtm_of_the_product(f, scale, shift):
    a, b = features(500, f, seed=1), features(400, f, seed=2, scale=scale, shift=shift)
    one_dimensional = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    expected = one_dimensional if f == 1 else as_usually_computed(a, b)
    assert frechet(a, b).item() == pytest.approx(float(expected), rel=1e-9)


def test_frechet_against_torchmetrics_on_the_same_moments():
    from torchmetrics.image.fid import _compute_fid

    (m1, s1), (m2, s2) = moments(features(500, 32, seed=1)), moments(features(500, 32, seed=2))
    expected = _compute_fid(m1, s1, m2, s2).item()
    assert frechet_distance(m1, s1, m2, s2).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 500), (500, 20), (65, 64), (64, 65)])
def test_fewer_images_than_features_take_the_low_rank_form_to_the_same_number(n, m):
    a, b = features(n, 64, seed=1), features(m, 64, seed=2, shift=0.5)
    from_moments = frechet_distance(*moments(a), *moments(b))
    assert frechet(a, b).item() == pytest.approx(from_moments.item(), rel=1e-6)  # roots of rounded zeros
    # exactly: in the space that both sets span, where covariances are regular or the sets' own
    q = torch.linalg.qr(torch.cat([a, b]).T).Q
    assert frechet(a @ q, b @ q).item() == pytest.approx(frechet(a, b).item(), rel=1e-9)


def test_the_low_rank_form_makes_no_matrix_of_features_by_features():
    # 50,000 features: a covariance would take 20 GB
    a, b = (torch.randn(20, 50_000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    gram = torch.cat([a, b]).double() @ torch.cat([a, b]).double().T  # (40,40) holds all there is
    values, vectors = torch.linalg.eigh(gram)
    small = vectors * values.clamp_min(0).sqrt()
    assert frechet(a, b).item() == pytest.approx(frechet(small[:20], small[20:]).item(), rel=1e-9)


def test_features_that_are_always_zero_change_nothing():
    a, b = features(300, 16, seed=1), features(300, 16, seed=2)
    dead = torch.zeros(300, 9, dtype=torch.float64)
    value = frechet(torch.cat([a, dead], 1), torch.cat([b, dead], 1))
    assert value.item() == pytest.approx(frechet(a, b).item(), rel=1e-12)


def test_covariances_of_a_wide_range_lose_no_more_than_they_hold():
    # standard deviations from 1 to 1e-6, rotated: the distance of commuting Gaussians is known exactly
    basis = torch.linalg.qr(features(60, 60)).Q
    sd = torch.logspace(0, -6, 60, dtype=torch.float64)
    zero = torch.zeros(60, dtype=torch.float64)
    value = frechet_distance(zero, basis * sd**2 @ basis.T, zero, basis * (1.1 * sd) ** 2 @ basis.T)
    assert value.item() == pytest.approx((0.1 * sd).square().sum().item(), rel=1e-9)


def test_commuting_gaussians_have_a_closed_form():
    # S1 and S2 diagonal in the same basis: sum of (mean difference)^2 + (difference of standard deviations)^2
    basis = torch.linalg.qr(features(6, 6)).Q
    sd1, sd2 = torch.rand(2, 6, dtype=torch.float64) * 3
    mean = torch.arange(6.0, dtype=torch.float64)
    value = frechet_distance(mean, basis * sd1**2 @ basis.T, 0 * mean, basis * sd2**2 @ basis.T)
    assert value.item() == pytest.approx(((mean**2) + (sd1 - sd2) ** 2).sum().item(), rel=1e-12)


@pytest.mark.parametrize("n", [500, 20])  # 20 < 64: singular covariances
def test_a_set_is_at_distance_zero_from_itself(n):
    a = features(n, 64)
    assert frechet(a, a.flip(0)).item() == pytest.approx(0, abs=1e-9 * moments(a).covariance.trace().item())


def test_singular_covariances_are_no_worse_than_regular_ones():
    # the same sets in 16 dimensions and embedded in 128: the distance cannot change
    a, b = features(300, 16, seed=1), features(300, 16, seed=2)
    embedding = torch.linalg.qr(features(128, 128)).Q[:16]
    assert frechet(a @ embedding, b @ embedding).item() == pytest.approx(frechet(a, b).item(), rel=1e-9)


def test_both_distances_are_symmetric_and_grow_with_noise():
    a = features(400, 16)
    noise = torch.randn(400, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    further = [a + level * noise for level in (0.1, 0.5, 1.0, 2.0, 4.0)]
    for distance in (frechet, mmd2):
        values = [distance(a, b).item() for b in further]
        assert values == sorted(values)
        assert distance(further[2], a).item() == pytest.approx(values[2], rel=1e-9)


def naive_mmd2(a, b, normalise):
    a, b = a.tolist(), b.tolist()
    f = len(a[0])

    def kernel(x, y):
        dot = sum(i * j for i, j in zip(x, y, strict=True))
        if normalise:
            dot *= f / (sum(i * i for i in x) * sum(j * j for j in y)) ** 0.5
        return (dot / f + 1) ** 3

    def within(x):
        return sum(kernel(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j) / (
            len(x) * (len(x) - 1)
        )

    return within(a) + within(b) - 2 * sum(kernel(p, q) for p in a for q in b) / (len(a) * len(b))


@pytest.mark.parametrize("normalise", [True, False])
def test_mmd_against_its_definition(normalise):
    a, b = features(23, 5, seed=1), features(31, 5, seed=2, shift=0.3)
    assert mmd2(a, b, normalise).item() == pytest.approx(naive_mmd2(a, b, normalise), rel=1e-9)


def test_kernel_matrices_in_blocks_equal_whole_ones(monkeypatch):
    a, b = features(200, 5, seed=1), features(150, 5, seed=2)
    whole = mmd2(a, b)
    monkeypatch.setattr("unclip.evaluate.distances.ENTRIES", 1000)  # 6 rows against 150
    torch.testing.assert_close(mmd2(a, b), whole, rtol=1e-12, atol=0)


def test_mmd_is_unbiased():
    # two sets of the same distribution: a mean of 0, within its standard error
    generator = torch.Generator().manual_seed(0)
    values = torch.stack([mmd2(*torch.randn(2, 20, 4, generator=generator).double()) for _ in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 20
    assert values.min() < 0  # which a biased estimate never is


def test_kid_repeats_and_approaches_the_distance_of_the_whole_sets():
    a, b = features(600, 8, seed=1), features(500, 8, seed=2, shift=0.5)
    result = kid(a, b, subsets=60, subset_size=100)
    assert result == kid(a, b, subsets=60, subset_size=100)
    assert result != kid(a, b, subsets=60, subset_size=100, seed=1)
    assert result.value == pytest.approx(mmd2(a, b).item(), abs=4 * result.std / 60**0.5)
    with pytest.raises(ValueError, match="subset_size = 1000: must be at most the number of samples, 500"):
        kid(a, b)


def test_fd_infinity_is_the_line_through_its_points():
    a, b = features(2000, 8, seed=1), features(3000, 8, seed=1, shift=0.2)
    result = fd_infinity(a, b, points=6, smallest=200)
    assert result.counts == (200, 560, 920, 1280, 1640, 2000)
    assert result.distances[-1] == pytest.approx(frechet(a, b).item(), rel=1e-9)
    slope, intercept = np.polyfit(1 / np.array(result.counts), result.distances, 1)
    assert (result.value, result.slope) == pytest.approx((intercept, slope), rel=1e-9)
    assert result == fd_infinity(a, moments(b), points=6, smallest=200)
    assert result.distances[:-1] != fd_infinity(a, b, points=6, smallest=200, seed=1).distances[:-1]
    assert len(fd_infinity(a[:9], b).counts) == 8  # 2 to 9: no more sizes than there are


def test_fd_infinity_takes_the_bias_away():
    # samples of N(0, I) against N(0, I) itself: what they measure is all bias, (F + F (F + 1) / 4) / N
    eye = moments(torch.eye(32, dtype=torch.float64))._replace(
        mean=torch.zeros(32, dtype=torch.float64), covariance=torch.eye(32, dtype=torch.float64)
    )
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn(1000, 32, generator=generator, dtype=torch.float64) for _ in range(8)]
    fits = [fd_infinity(x, eye, smallest=200) for x in sets]
    biased = np.mean([fit.distances[-1] for fit in fits])
    assert biased == pytest.approx((32 + 32 * 33 / 4) / 1000, rel=0.1)
    assert abs(np.mean([fit.value for fit in fits])) < 0.15 * biased
    assert np.mean([fit.slope for fit in fits]) == pytest.approx(32 + 32 * 33 / 4, rel=0.1)


def test_fd_infinity_refuses_what_no_line_goes_through():
    with pytest.raises(ValueError, match="200 samples: must be more than the smallest subset, 200"):
        fd_infinity(features(200, 3), features(50, 3), smallest=200)
    with pytest.raises(ValueError, match="points = 1: must satisfy points >= 2"):
        fd_infinity(features(200, 3), features(50, 3), points=1)


def naive_cmmd(a, b, biased):
    """As the authors' code has it, with the diagonal or without."""
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))

    def mean(x, y, without_diagonal=False):
        k = torch.exp(-torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * 10**2))
        return (k.sum() - k.trace()) / (k.numel() - len(k)) if without_diagonal else k.mean()

    return 1000 * (mean(a, a, not biased) + mean(b, b, not biased) - 2 * mean(a, b)).item()


@pytest.mark.parametrize("biased", [True, False])
def test_cmmd_against_its_definition(biased):
    a, b = features(23, 5, seed=1), features(31, 5, seed=2, shift=0.3)
    assert cmmd(a, b, biased=biased).item() == pytest.approx(naive_cmmd(a, b, biased), rel=1e-8)
    assert cmmd(a * 3, b / 7, biased=biased).item() == pytest.approx(naive_cmmd(a, b, biased), rel=1e-8)


def test_cmmd_of_a_set_with_itself_is_zero_and_of_one_distribution_its_bias():
    a, b = features(400, 32, seed=1), features(400, 32, seed=2)
    assert cmmd(a, a.flip(0)).item() == pytest.approx(0, abs=1e-10)
    # pairs of a vector with itself, where others are at |x - y|^2 = 2: 1000 (1 - e^-0.01) / N a set
    assert cmmd(a, b).item() - cmmd(a, b, biased=False).item() == pytest.approx(2 * 9.95 / 400, rel=0.05)


def test_order_changes_nothing():
    a, b = features(400, 16, seed=1), features(300, 16, seed=2, shift=0.2)
    generator = torch.Generator().manual_seed(0)
    shuffled = [x[torch.randperm(len(x), generator=generator)] for x in (a, b)]
    for distance in (frechet, mmd2, cmmd):
        assert distance(*shuffled).item() == pytest.approx(distance(a, b).item(), rel=1e-10)


def test_features_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"must be \(N, F\) with N >= 2"):
        frechet(features(1, 4), features(5, 4))
    with pytest.raises(ValueError, match="not finite"):
        frechet(features(5, 4) / 0, features(5, 4))
    for distance in (frechet, mmd2, cmmd):
        with pytest.raises(ValueError, match="same extractor"):
            distance(features(5, 4), features(5, 3))
