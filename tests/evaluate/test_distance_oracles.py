"""The same features through torchmetrics and torch-fidelity, from images on, give the same numbers."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torchmetrics.image.fid import FrechetInceptionDistance

from unclip.evaluate.consistency import inception_style_score
from unclip.evaluate.distances import StreamedMoments, frechet, frechet_distance, mmd2, moments
from unclip.evaluate.extractors import RandomNetwork
from unclip.evaluate.manifold import prdc

EXTRACTOR = RandomNetwork(image_channels=3, num_features=48)


class Registered(FeatureExtractorBase):
    """The extractor as torch-fidelity has its own: uint8 images in, a tuple of features out."""

    def __init__(self, name, features_list, **settings):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list():
        return ("features",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "features"

    @staticmethod
    def can_be_compiled():
        return False

    @staticmethod
    def get_dummy_input_for_compile():
        return torch.zeros(1, 3, 16, 16, dtype=torch.uint8)

    def forward(self, input):
        return (EXTRACTOR.features(input),)


class Module(nn.Module):
    """The extractor as torchmetrics takes one."""

    num_features = 48

    def forward(self, images):
        return EXTRACTOR.features(images)


class Images(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


@pytest.fixture(scope="module")
def sets():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(700, 3, 4, 4, generator=generator)
    images = nn.functional.interpolate(smooth, 16, mode="bilinear") * 255
    fake = images[400:] * 0.8 + 40 * torch.rand(300, 3, 16, 16, generator=generator)
    return images[:400].to(torch.uint8), fake.to(torch.uint8)


@pytest.fixture(scope="module")
def theirs(sets):
    register_feature_extractor("this-projects", Registered)
    real, fake = (Images(x) for x in sets)
    return calculate_metrics(
        input1=fake, input2=real, feature_extractor="this-projects", batch_size=32, cuda=False, cache=False,
        save_cpu_ram=True, verbose=False, fid=True, isc=True, isc_splits=1, prc=True, prc_neighborhood=5,
        kid=True, kid_subsets=1, kid_subset_size=300,
    )  # fmt: skip


def test_frechet_distance_is_torch_fidelitys(sets, theirs):
    real, fake = (EXTRACTOR.features(x) for x in sets)
    expected = theirs["frechet_inception_distance"]
    assert expected > 0
    assert frechet(fake, real).item() == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(*moments(real), *moments(fake)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch", [1, 37, 400])
def test_frechet_distance_is_torchmetrics_whatever_the_batches(sets, batch):
    metric, streams = FrechetInceptionDistance(Module()), [StreamedMoments(), StreamedMoments()]
    for images, stream in zip(sets, streams, strict=True):
        for part in images.split(batch):
            metric.update(part, real=images is sets[0])
            stream.update(EXTRACTOR.features(part))
    ours = frechet_distance(*streams[0].moments, *streams[1].moments)
    assert ours.item() == pytest.approx(metric.compute().item(), rel=1e-6)


def test_the_other_numbers_are_torch_fidelitys(sets, theirs):
    real, fake = (EXTRACTOR.features(x) for x in sets)
    four = prdc(real, fake, 5)
    assert four.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert four.recall == pytest.approx(theirs["recall"], abs=1e-6)
    assert inception_style_score(fake) == pytest.approx(theirs["inception_score_mean"], rel=1e-9)


def test_kernel_distance_is_torch_fidelitys(sets):
    # equal sizes and one subset of everything: no draw to differ in
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = (EXTRACTOR.features(x)[:300] for x in sets)
    expected = kid_features_to_metric(fake, real, kid_subsets=1, kid_subset_size=300, verbose=False)
    value = mmd2(fake, real, normalise=False).item()
    assert value == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
