"""What extractors promise: the same features however images are batched, a fingerprint of all that decides
them, and a good judge."""

from importlib import resources
from pathlib import Path

import pytest
import torch

from unclip.data.fashion_mnist import FashionMNIST
from unclip.data.image_text import ImageText
from unclip.data.synthetic import Synthetic
from unclip.evaluate.extractors import FashionMnistClassifier, RandomNetwork, with_channels
from unclip.evaluate.shapes import ShapeClassifier


@pytest.fixture(scope="module")
def images():
    return Synthetic(64).split("train").images


@pytest.fixture(scope="module")
def real_test(fashion_mnist: FashionMNIST) -> ImageText:
    return fashion_mnist.split("test")


@pytest.mark.parametrize("make", [FashionMnistClassifier, RandomNetwork, ShapeClassifier])
def test_features_do_not_depend_on_batches_modes_or_autocast(make, images):
    extractor = make()
    expected = extractor.features(images)
    assert expected.dtype == torch.float64
    assert expected.shape == (64, extractor.num_features)
    assert expected.std(0).mean() > 1e-3  # images are told apart
    extractor.batch = 7
    extractor.net.train()
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor.features(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_random_network_is_its_seed():
    before = torch.random.get_rng_state()
    same, again, other = RandomNetwork(), RandomNetwork(), RandomNetwork(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same.fingerprint == again.fingerprint != other.fingerprint
    images = Synthetic(32).split("train").images
    assert torch.equal(same.features(images), again.features(images))
    assert not torch.equal(same.features(images), other.features(images))


@pytest.mark.parametrize("size", [16, 32])
def test_the_judge_of_shapes_is_right_on_shapes_that_it_has_not_drawn(size):
    before = torch.random.get_rng_state()
    judge, again = ShapeClassifier(), ShapeClassifier()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert judge.fingerprint == again.fingerprint
    shapes = Synthetic(512, image_size=size).split("test")
    assert (judge.logits(shapes.images).argmax(1) == shapes.labels).double().mean() > 0.9


def test_images_that_cannot_be_judged_are_refused(images):
    with pytest.raises(ValueError, match="must be uint8"):
        RandomNetwork().features(images.float())
    colour = images.expand(-1, 3, -1, -1)
    with pytest.raises(
        ValueError, match=r"images of 3 channels: the Fashion-MNIST classifier judges images of 1 channel$"
    ):
        FashionMnistClassifier().features(colour)
    with pytest.raises(
        ValueError, match=r"images of 3 channels: this random network judges images of 1 channel$"
    ):
        RandomNetwork().features(colour)
    with pytest.raises(
        ValueError, match=r"images of 2 channels: Inception judges images of 1 or 3 channels$"
    ):
        with_channels(colour[:, :2], 3, "Inception")
    with pytest.raises(
        ValueError, match=r"images of 1 channel: this random network judges images of 3 channels$"
    ):
        RandomNetwork(image_channels=3).features(images)


def test_features_that_are_not_finite_are_refused_and_counted(images):
    extractor = RandomNetwork()
    infinite = extractor.embed
    extractor.embed = lambda x: infinite(x).where(x.mean((1, 2, 3)).unsqueeze(1) != x[5].mean(), torch.nan)
    with pytest.raises(
        ValueError, match="RandomNetwork gives features that are not finite for 1 of 64 images, first"
    ):
        extractor.features(images)


def test_whatever_decides_the_features_is_in_the_fingerprint():
    class Newer(RandomNetwork):
        version = 2

    class Brighter(RandomNetwork):
        preprocessing = "to [0,1]"

    found = {make().fingerprint for make in (RandomNetwork, Newer, Brighter, FashionMnistClassifier)}
    changed = RandomNetwork()
    with torch.no_grad():
        changed.net[0].bias[0] += 1e-6
    assert len(found | {changed.fingerprint, RandomNetwork(seed=1).fingerprint}) == 6


def test_training_in_lower_precision_leaves_features_alone(images):
    extractor = RandomNetwork()
    expected = extractor.features(images)
    seen = []
    extractor.net.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(extractor.features(images), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}


def test_logits_are_the_linear_layer_on_the_features(images):
    judge = FashionMnistClassifier()
    expected = judge.features(images).float() @ judge.net.head.weight.T + judge.net.head.bias
    torch.testing.assert_close(judge.logits(images).float(), expected.detach(), rtol=1e-4, atol=1e-4)


def test_the_shipped_weights_are_small_and_say_what_made_them():
    path = Path(str(resources.files("unclip.evaluate") / "fashion_mnist_classifier.safetensors"))
    assert path.stat().st_size <= 2_000_000
    metadata = FashionMnistClassifier().metadata
    assert "unclip train stage=classifier" in metadata["recipe"]
    assert float(metadata["test_accuracy"]) >= 0.93


def test_the_classifier_names_real_test_images(real_test):
    judge = FashionMnistClassifier()
    found = judge.logits(real_test.images).argmax(1)
    accuracy = (found == real_test.labels).double().mean().item()
    assert accuracy == pytest.approx(float(judge.metadata["test_accuracy"]), abs=0.001)
    assert accuracy >= 0.92
    # the same images without their border are the same images
    assert torch.equal(
        judge.logits(real_test.images[:200, :, 2:30, 2:30]), judge.logits(real_test.images[:200])
    )


def test_the_classifier_forgives_what_generated_images_have_and_photographs_do_not(real_test):
    judge = FashionMnistClassifier()
    some = real_test.head(2000)
    noise = 8 * torch.randn(some.images.shape, generator=torch.Generator().manual_seed(0))
    noisy = (some.images + noise).round().clamp(0, 255).to(torch.uint8)
    shifted = some.images.roll((1, -1), (2, 3))
    for altered in (noisy, shifted, some.images.flip(3)):
        assert (judge.logits(altered).argmax(1) == some.labels).double().mean() >= 0.91
