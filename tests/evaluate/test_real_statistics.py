"""Statistics of real images: computed once, never mistaken for those of something else."""

import pytest
import torch

from unclip.data.synthetic import Synthetic
from unclip.evaluate.distances import moments
from unclip.evaluate.extractors import RandomNetwork
from unclip.evaluate.statistics import RealStatistics, StatisticsMismatch, identity, real_statistics


class Counting(RandomNetwork):
    seen = 0

    def embed(self, x):
        Counting.seen += len(x)
        return super().embed(x)


@pytest.fixture
def data():
    Counting.seen = 0
    return Synthetic(64)


def test_they_are_computed_once_and_are_those_of_the_first_images(data, tmp_path):
    extractor = Counting()
    first = real_statistics(extractor, data, "train", tmp_path, 40)
    assert Counting.seen == 40
    again = real_statistics(Counting(), data, "train", tmp_path, 40)
    assert Counting.seen == 40
    assert torch.equal(first.features, again.features)
    expected = moments(extractor.features(data.split("train").images[:40]))
    torch.testing.assert_close(again.moments.mean, expected.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(again.moments.covariance, expected.covariance, rtol=0, atol=1e-12)


def test_whatever_they_depend_on_gives_others(data, tmp_path):
    cases = [
        (Counting(), data, "train", 40),
        (Counting(), data, "train", 41),
        (Counting(), data, "validation", 16),
        (Counting(), data, "test", 16),
        (Counting(seed=1), data, "train", 40),
        (Counting(), Synthetic(128), "train", 40),
    ]
    for case in cases:
        real_statistics(*case[:3], tmp_path, case[3])
    assert len(list(tmp_path.glob("statistics-*"))) == len(cases)


def test_a_file_of_something_else_is_refused_with_what_differs(data, tmp_path):
    (tmp_path / "x").mkdir()
    real_statistics(Counting(), data, "train", tmp_path / "x", 40)
    real_statistics(Counting(), data, "train", tmp_path, 50)
    (wrong,) = (tmp_path / "x").glob("statistics-*")
    (right,) = tmp_path.glob("statistics-*")
    wrong.replace(right)
    with pytest.raises(StatisticsMismatch, match=r"holds statistics of something else: count is 40, not 50$"):
        real_statistics(Counting(), data, "train", tmp_path, 50)
    with pytest.raises(StatisticsMismatch, match="split is 'train', not 'test'"):
        RealStatistics.load(right, identity(Counting(), data, "test", 16))


def test_a_damaged_file_is_named_and_computed_again(data, tmp_path, capsys):
    good = real_statistics(Counting(), data, "train", tmp_path)
    (path,) = tmp_path.glob("statistics-*")
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    again = real_statistics(Counting(), data, "train", tmp_path)
    assert f"computing again, {path} is not a whole" in capsys.readouterr().err
    assert torch.equal(good.features, again.features)
    assert Counting.seen == 128


@pytest.mark.parametrize("count", [1, 65])
def test_impossible_counts_are_refused(data, tmp_path, count):
    with pytest.raises(
        ValueError, match=f"count = {count}: must be from 2 to the 64 images of the train split"
    ):
        real_statistics(Counting(), data, "train", tmp_path, count)
