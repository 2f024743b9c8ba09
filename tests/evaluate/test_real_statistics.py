"""Statistics of real images: computed once, never mistaken for those of something else."""

import pytest
import torch

from unclip.data.synthetic import Synthetic
from unclip.evaluate.distances import moments
from unclip.evaluate.extractors import RandomNetwork
from unclip.evaluate.statistics import (
    RealImages,
    StatisticsMismatch,
    features_of,
    moments_of,
    real_features,
)


class Counting(RandomNetwork):
    seen = 0

    def embed(self, x):
        Counting.seen += len(x)
        return super().embed(x)


class Newer(Counting):
    version = 2


class Brighter(Counting):
    preprocessing = "to [0,1]"


@pytest.fixture
def data():
    Counting.seen = 0
    return Synthetic(64)


def test_they_are_computed_once_and_are_those_of_the_first_images(data, tmp_path):
    extractor = Counting()
    first = real_features(extractor, data, "train", tmp_path, 40)
    assert Counting.seen == 40
    again = real_features(Counting(), data, "train", tmp_path, 40)
    assert Counting.seen == 40
    assert torch.equal(first, again)
    expected = moments(extractor.features(data.split("train").images[:40]))
    torch.testing.assert_close(moments(again).mean, expected.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(moments(again).covariance, expected.covariance, rtol=0, atol=1e-12)


def test_whatever_they_depend_on_gives_others(data, tmp_path):
    cases = [
        (Counting(), data, "train", 40),
        (Counting(), data, "train", 41),
        (Counting(), data, "validation", 16),
        (Counting(), data, "test", 16),
        (Counting(seed=1), data, "train", 40),
        (Counting(), Synthetic(128), "train", 40),
        (Newer(), data, "train", 40),
        (Brighter(), data, "train", 40),
    ]
    for case in cases:
        real_features(*case[:3], tmp_path, case[3])
    assert len(list(tmp_path.glob("statistics-*"))) == len(cases)


def test_a_file_of_something_else_is_refused_with_what_differs(data, tmp_path):
    (tmp_path / "x").mkdir()
    real_features(Counting(), data, "train", tmp_path / "x", 40)
    real_features(Counting(), data, "train", tmp_path, 50)
    (wrong,) = (tmp_path / "x").glob("statistics-*")
    (right,) = tmp_path.glob("statistics-*")
    wrong.replace(right)
    with pytest.raises(StatisticsMismatch, match=r"holds statistics of something else: count is 40, not 50$"):
        real_features(Counting(), data, "train", tmp_path, 50)
    real_features(Counting(), data, "test", tmp_path, 16)
    (other,) = set(tmp_path.glob("statistics-*")) - {right}
    right.replace(other)
    with pytest.raises(StatisticsMismatch, match="split is 'train', not 'test'"):
        real_features(Counting(), data, "test", tmp_path, 16)


def test_a_damaged_file_is_named_and_computed_again(data, tmp_path, capsys):
    good = real_features(Counting(), data, "train", tmp_path)
    (path,) = tmp_path.glob("statistics-*")
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    again = real_features(Counting(), data, "train", tmp_path)
    assert f"computing again, {path} is not a whole" in capsys.readouterr().err
    assert torch.equal(good, again)
    assert Counting.seen == 128


@pytest.mark.parametrize("count", [1, 65])
def test_impossible_counts_are_refused(data, tmp_path, count):
    with pytest.raises(
        ValueError, match=f"count = {count}: must be from 2 to the 64 images of the train split"
    ):
        real_features(Counting(), data, "train", tmp_path, count)


def test_one_image_is_too_few_whatever_is_asked_for(data, tmp_path):
    image = data.split("test").images[:1]
    for real, said in (
        (RealImages(image, "Own", "", "test"), "the test split holds 1 image: statistics need at least 2"),
        (RealImages.of_images(image), "the reference is 1 image: statistics need at least 2"),
    ):
        for count in (None, 2):
            with pytest.raises(ValueError, match=said):
                features_of(Counting(), real, tmp_path, count)


def test_images_of_a_path_are_known_by_their_content(data, tmp_path):
    images = data.split("train").images
    first = features_of(Counting(), RealImages.of_images(images), tmp_path, 40)
    assert Counting.seen == 40
    again = features_of(Counting(), RealImages.of_images(images.clone()), tmp_path, 40)
    assert Counting.seen == 40
    assert torch.equal(first, again)
    other = images.clone()
    other[0, 0, 0, 0] += 1
    changed = features_of(Counting(), RealImages.of_images(other), tmp_path, 40)
    assert Counting.seen == 80
    assert not torch.equal(first[0], changed[0])
    assert torch.equal(first[1:], changed[1:])
    with pytest.raises(ValueError, match="count = 65: must be from 2 to the 64 images there are"):
        features_of(Counting(), RealImages.of_images(images), tmp_path, 65)


def test_moments_alone_are_those_of_the_features_and_are_kept(data, tmp_path, monkeypatch):
    real = RealImages.of_split(data, "train")
    monkeypatch.setattr("unclip.evaluate.statistics.PART", 7)  # parts that do not divide the images
    streamed = moments_of(Counting(), real, tmp_path, 40)
    assert Counting.seen == 40
    (path,) = tmp_path.glob("statistics-*")
    width = Counting().num_features
    assert path.stat().st_size < 8 * width * (width + 1) + 4096  # not the features
    whole = moments(features_of(Counting(), real, tmp_path / "features", 40))
    for of_file in (
        moments_of(Counting(), real, tmp_path / "features", 40),
        moments_of(Counting(), real, tmp_path, 40),
    ):
        torch.testing.assert_close(of_file.mean, whole.mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(of_file.covariance, whole.covariance, rtol=0, atol=1e-12)
        assert torch.equal(of_file.covariance, streamed.covariance)
    assert Counting.seen == 80


def test_nothing_is_left_where_the_features_cannot_be_used(data, tmp_path):
    class Broken(Counting):
        def embed(self, x):
            return super().embed(x) / 0

    for compute in (features_of, moments_of):
        with pytest.raises(ValueError, match="Broken gives features that are not finite for 40 of 40 images"):
            compute(Broken(), RealImages.of_split(data, "train"), tmp_path, 40)
    assert not list(tmp_path.iterdir())
