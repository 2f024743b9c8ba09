"""Precision, recall, density, coverage and nearest neighbours against their definitions and torch-fidelity."""

import pytest
import torch
from torch_fidelity.metric_prc import calculate_precision_recall_full

from unclip.evaluate.manifold import nearest, prdc


def features(n, f, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, f, generator=generator, dtype=torch.float64) + shift


def by_definition(real, fake, k):
    """Loops over points, one sentence a line."""

    def distance(p, q):
        return sum((i - j) ** 2 for i, j in zip(p, q, strict=True)) ** 0.5

    def radius(points, i):
        return sorted(distance(points[i], q) for j, q in enumerate(points) if j != i)[k - 1]

    real, fake = real.tolist(), fake.tolist()
    radius_r = [radius(real, i) for i in range(len(real))]
    radius_f = [radius(fake, i) for i in range(len(fake))]
    inside_r = [[distance(x, y) <= r for x, r in zip(real, radius_r, strict=True)] for y in fake]
    inside_f = [[distance(x, y) <= r for y, r in zip(fake, radius_f, strict=True)] for x in real]
    precision = sum(any(row) for row in inside_r) / len(fake)
    recall = sum(any(row) for row in inside_f) / len(real)
    density = sum(map(sum, inside_r)) / (k * len(fake))
    coverage = sum(any(column) for column in zip(*inside_r, strict=True)) / len(real)
    return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_all_four_against_their_definitions(k):
    real, fake = features(60, 4, seed=1), 0.7 * features(45, 4, seed=2, shift=0.5)
    assert tuple(prdc(real, fake, k)) == pytest.approx(by_definition(real, fake, k), abs=1e-12)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall_are_torch_fidelitys(k):
    real, fake = features(700, 16, seed=1), 0.8 * features(500, 16, seed=2, shift=0.2)
    precision, recall = calculate_precision_recall_full(fake, real, k)
    ours = prdc(real, fake, k)
    assert (ours.precision, ours.recall) == pytest.approx(
        (precision, recall), abs=1e-6
    )  # theirs: float32 means
    assert 0.1 < ours.recall < ours.precision <= 1


def test_sets_of_one_distribution():
    # coverage 1 - C(n-1 of 2n-1 ...) -> 1 - 2^-k for N = M (Naeem et al. 2020, sec. 3.3); density 1 on average
    values = [prdc(features(1000, 8, seed=2 * s), features(1000, 8, seed=2 * s + 1), 5) for s in range(4)]
    assert sum(v.coverage for v in values) / 4 == pytest.approx(1 - 2**-5, abs=0.01)
    assert sum(v.density for v in values) / 4 == pytest.approx(1, abs=0.03)


def test_a_copy_is_on_the_edge_of_every_ball_and_inside():
    # each real point's ball holds its k neighbours and itself: distances that are equal to the radius but for rounding
    x = features(400, 16) * 100 + 1e3
    assert tuple(prdc(x, x.flip(0), 5)) == pytest.approx((1, 1, 6 / 5, 1))


def test_lost_variety_is_seen_by_recall_and_coverage_lost_quality_by_precision_and_density():
    clusters = 6 * torch.eye(8, dtype=torch.float64)[:4]
    real = features(800, 8, seed=1) + clusters.repeat(200, 1)
    narrow = features(800, 8, seed=2) + clusters[:1]
    blurred = 1.8 * features(800, 8, seed=3) + clusters.repeat(200, 1)
    same = prdc(real, features(800, 8, seed=4) + clusters.repeat(200, 1))
    lost, noisy = prdc(real, narrow), prdc(real, blurred)
    assert lost.precision > 0.9 * same.precision
    assert max(lost.recall / same.recall, lost.coverage / same.coverage) < 0.5
    assert max(noisy.precision / same.precision, noisy.density / same.density) < 0.5
    assert noisy.recall > 0.9 * same.recall


def test_blocks_and_order_change_nothing(monkeypatch):
    real, fake = features(300, 6, seed=1), features(200, 6, seed=2, shift=0.3)
    whole, neighbours = prdc(real, fake), nearest(fake, real, 4)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(x), generator=generator) for x in (real, fake)]
    assert prdc(real[orders[0]], fake[orders[1]]) == whole
    monkeypatch.setattr("unclip.evaluate.manifold.ENTRIES", 250)  # 41 references, 6 queries a block
    assert prdc(real, fake) == whole
    for blocked, expected in zip(nearest(fake, real, 4), neighbours, strict=True):
        assert torch.equal(blocked, expected)


def test_nearest_neighbours_are_those_of_cdist():
    queries, references = features(50, 10, seed=1), features(400, 10, seed=2)
    expected = torch.cdist(queries, references).topk(7, largest=False)
    distances, indices = nearest(queries, references, 7)
    torch.testing.assert_close(distances, expected.values, rtol=1e-12, atol=0)
    assert torch.equal(indices, expected.indices)


def test_a_copied_image_is_found_at_distance_zero_exactly():
    # stored pixels as float32: |x|^2 + |y|^2 - 2 x y alone would put the copy some 1e-3 away
    generator = torch.Generator().manual_seed(0)
    training = torch.randint(0, 256, (500, 784), generator=generator).float()
    distances, indices = nearest(training[[7, 3]], training, 1)
    assert distances.tolist() == [[0], [0]]
    assert indices.tolist() == [[7], [3]]


def test_impossible_requests_are_refused():
    x = features(6, 3)
    with pytest.raises(ValueError, match="k = 6: must be less than the samples of either set, 6 and 8"):
        prdc(x, features(8, 3), 6)
    with pytest.raises(ValueError, match="k = 0: must satisfy k >= 1"):
        prdc(x, x, 0)
    with pytest.raises(ValueError, match="count = 7: must be at most the number of references, 6"):
        nearest(x, x, 7)
    with pytest.raises(ValueError, match="same extractor"):
        nearest(x, features(6, 4))
    with pytest.raises(ValueError, match="all finite"):
        prdc(x / 0, x, 2)
