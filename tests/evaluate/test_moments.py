"""Streamed means and covariances: those of numpy, whatever the batches, the order, and the distance from 0."""

import numpy as np
import pytest
import torch

from unclip.evaluate import moments as module
from unclip.evaluate.moments import StreamedMoments, moments


def features(n, f, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(f, f, generator=generator, dtype=torch.float64)
    return torch.randn(n, f, generator=generator, dtype=torch.float64) @ mixing


def streamed(x, *sizes):
    stream = StreamedMoments()
    for part in x.split(sizes[0] if len(sizes) == 1 else list(sizes)):
        stream.update(part)
    return stream.moments


def assert_same(a, b, rtol=1e-12):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=rtol * y.abs().max().item())


@pytest.mark.parametrize("f", [1, 7, 64, 200])  # 200: more than one block of columns
def test_they_are_numpys(f):
    x = features(3000, f) + 3
    mean, covariance = moments(x)
    assert mean.numpy() == pytest.approx(x.numpy().mean(0), rel=1e-12)
    expected = np.cov(x.numpy(), rowvar=False)
    assert covariance.numpy() == pytest.approx(np.atleast_2d(expected), rel=1e-11, abs=1e-12 * expected.max())
    assert torch.equal(covariance, covariance.T)


@pytest.mark.parametrize("sizes", [(1,), (7,), (1024,), (5000,), (1, 4000, 0, 999), (1023, 2, 3975)])
def test_batches_change_nothing(sizes):
    x = features(5000, 20) + 1
    assert_same(streamed(x, *sizes), moments(x))


def test_order_changes_nothing_even_when_it_is_the_worst():
    x = features(5000, 20) + 10
    by_value = x[x[:, 0].argsort()]
    assert_same(streamed(by_value, 100), moments(x))


def test_more_rows_after_a_look():
    x = features(500, 20)
    stream = StreamedMoments().update(x[:100])
    assert_same(stream.moments, moments(x[:100]))
    assert_same(stream.update(x[100:]).moments, moments(x))
    assert stream.count == 500


def test_a_mean_far_from_zero_does_not_drown_the_covariance():
    # sum of x x^T minus N m m^T would lose 2 x 6 of 16 digits, and get the sign of small variances wrong
    small = features(4000, 10) * 1e-2
    assert_same((moments(small + 1e4).covariance,), (moments(small).covariance,), rtol=1e-7)
    naive = ((small + 1e4).T @ (small + 1e4) - 4000 * torch.full((10, 10), 1e8)) / 3999
    assert (naive - moments(small).covariance).abs().max() > 1e-3 * moments(small).covariance.max()


def test_float32_features_are_summed_in_float64():
    x = features(5000, 20).float() + 100
    assert_same(streamed(x, 100), moments(x.double()), rtol=1e-11)


def test_its_state_does_not_grow():
    stream = StreamedMoments()
    for seed in range(8):
        stream.update(features(3000, 8, seed))
        held = sum(x.numel() for x in vars(stream).values() if isinstance(x, torch.Tensor))
        assert held == 8 + 8 + 64 + module.ROWS * 8


def test_what_is_no_feature_is_refused():
    with pytest.raises(ValueError, match="0 rows of features: must be at least 2"):
        StreamedMoments().moments  # noqa: B018
    with pytest.raises(ValueError, match="1 rows"):
        StreamedMoments().update(torch.zeros(1, 3)).moments  # noqa: B018
    with pytest.raises(ValueError, match="4 features after 3: all must come from one extractor"):
        StreamedMoments().update(torch.zeros(5, 3)).update(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"shape \(5,\): must be \(N, F\)"):
        StreamedMoments().update(torch.zeros(5))
    for bad in (torch.nan, torch.inf):
        x = torch.zeros(5000, 3)
        x[3000, 1] = bad
        with pytest.raises(ValueError, match="not finite"):
            streamed(x, 100)
