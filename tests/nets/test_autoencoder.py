"""The autoencoder's grids, its Gaussian, its discriminator's patches, and the distance that a network sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from unclip.evaluate.extractors import FashionMnistClassifier
from unclip.evaluate.perceptual import ClassifierFeatures, Vgg16Features
from unclip.evaluate.pretrained import IMAGENET_MEAN, IMAGENET_STD, WeightsUnavailable
from unclip.nets.autoencoder import Autoencoder, Gaussian, LatentScale
from unclip.nets.discriminator import PatchDiscriminator, hinge


def autoencoder(factor: int = 4, unshuffle: int = 1, **shape) -> Autoencoder:
    torch.manual_seed(0)
    given = {"latent_channels": 3, "channels": 8, "blocks": 1, "groups": 4, **shape}
    return Autoencoder(16, 1, factor, unshuffle=unshuffle, **given).eval()


@pytest.mark.parametrize(("factor", "unshuffle"), [(2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 4)])
@torch.no_grad()
def test_a_latent_stands_for_factor_x_factor_pixels(factor: int, unshuffle: int) -> None:
    """Pictures shifted by the factor have latents shifted by one: on a wide black ground, without attention, whose
    norms see the same numbers. And there is one latent a square of pixels."""
    net = autoencoder(factor, unshuffle, attention=False)
    x = torch.full((1, 1, 16 * factor, 16 * factor), -1.0)
    x[..., 8 * factor : 9 * factor, 8 * factor : 9 * factor] = torch.randn(factor, factor)
    a, b = (net.encode(y).mean for y in (x, x.roll((factor, factor), (2, 3))))
    assert a.shape == (1, 3, 16, 16)
    torch.testing.assert_close(b[..., 6:12, 6:12], a[..., 5:11, 5:11], atol=1e-5, rtol=1e-4)
    assert net.decode(a).shape == x.shape
    assert net.latent_shape == (3, 16 // factor, 16 // factor)


@torch.no_grad()
def test_a_pictures_latents_are_its_own() -> None:
    net, x = autoencoder(), torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(net.encode(x).mean[1:2], net.encode(x[1:2]).mean)


def test_shapes_that_no_autoencoder_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unshuffle = 8: must divide the factor 4; possible: .1, 2, 4."):
        autoencoder(4, 8)
    with pytest.raises(ValueError, match="image size 20: must be a multiple of the factor 8"):
        Autoencoder(20, 1, 8)
    with pytest.raises(ValueError, match="groups = 3 does not divide the 8 channels"):
        autoencoder(groups=3)


def test_kl_is_that_of_torchs_distributions() -> None:
    found = Gaussian(torch.randn(5, 2, 3, 3), torch.randn(5, 2, 3, 3))
    theirs = kl_divergence(Normal(found.mean, (found.log_var / 2).exp()), Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(found.kl(), theirs)
    assert Gaussian(torch.zeros(1, 4), torch.zeros(1, 4)).kl() == 0


def test_samples_have_the_gaussians_moments() -> None:
    mean, log_var = torch.tensor([[-2.0, 3.0]]), torch.tensor([[0.0, -2.0]])
    drawn = Gaussian(mean.expand(100_000, 2), log_var.expand(100_000, 2)).sample(torch.randn(100_000, 2))
    torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.var(0), log_var[0].exp(), atol=0.02, rtol=0)


def test_the_scale_gives_unit_variance_and_is_undone() -> None:
    z, scale = 0.07 * torch.randn(500, 4, 3, 3) + 2, LatentScale()
    scale.set(float(z.std()))
    assert float(scale(z).std()) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(scale.inverse(scale(z)), z)
    with pytest.raises(ValueError, match="has learned nothing"):
        scale.set(0.0)


@pytest.mark.parametrize(("layers", "width"), [(0, 7), (1, 16), (2, 34), (3, 70)])
def test_a_verdict_is_on_a_patch(layers: int, width: int) -> None:
    """Without its norms, whose means are over the picture, a verdict depends on so many pixels and no others."""
    net = PatchDiscriminator(1, channels=8, layers=layers)
    for i, layer in enumerate(net.net):
        if isinstance(layer, nn.GroupNorm):
            net.net[i] = nn.Identity()
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    verdict = net(x)
    middle = verdict.shape[-1] // 2
    verdict[0, 0, middle, middle].backward()
    seen = x.grad[0, 0].abs().sum(0) > 0
    assert int(seen.sum()) == width


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_a_picture_without_a_patch_is_refused(layers: int) -> None:
    net, side = PatchDiscriminator(1, channels=8, layers=layers), 3 * 2**layers
    assert net(torch.zeros(1, 1, side, side)).numel() == 1
    with pytest.raises(
        ValueError, match=f"pictures of {side - 1}x{side} pixels: .* layers = {layers} needs {side}"
    ):
        net(torch.zeros(1, 1, side - 1, side))


def test_hinge_is_nothing_beyond_its_margins() -> None:
    assert hinge(torch.tensor([1.0, 4.0]), torch.tensor([-1.0, -7.0])) == 0
    assert hinge(torch.zeros(3), torch.zeros(3)) == 1
    assert hinge(torch.tensor([0.0]), torch.tensor([-2.0])) == 0.5


class TestPerceptual:
    def test_it_is_a_distance_with_gradients_to_pictures_alone(self) -> None:
        distance = ClassifierFeatures()
        x, y = torch.rand(3, 1, 32, 32) * 2 - 1, (torch.rand(3, 1, 32, 32) * 2 - 1).requires_grad_()
        assert distance(x, x).tolist() == [0, 0, 0]
        torch.testing.assert_close(distance(x, y), distance(y, x))
        before = distance(x, y)
        before.sum().backward()
        assert (distance(x, (y - 0.1 * y.grad).detach()) < before).all()
        assert all(p.grad is None for p in distance.net.parameters())

    def test_the_classifier_is_the_shipped_one(self) -> None:
        """Its deepest features, averaged, are what the extractor gives."""
        x, shipped = torch.rand(2, 1, 32, 32) * 2 - 1, FashionMnistClassifier().net.eval()
        deepest = ClassifierFeatures().layers(x)[-1]
        torch.testing.assert_close(shipped.norm(deepest).relu().mean((2, 3)), shipped.features(x))

    def test_missing_weights_are_one_clear_line(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsUnavailable, match=r"perceptual.weights = .*nowhere.pth.*or download"):
            Vgg16Features(str(tmp_path / "nowhere.pth"))
        (tmp_path / "other.pth").write_bytes(b"no weights")
        with pytest.raises(WeightsUnavailable, match=r"give the path of vgg16-397923af.pth"):
            Vgg16Features(str(tmp_path / "other.pth"))

    @pytest.mark.slow
    def test_vgg16_is_torchvisions(self, tmp_path: Path) -> None:
        from torchvision.models import vgg16

        torch.manual_seed(0)
        whole = vgg16().features.eval()
        torch.save({f"features.{k}": v for k, v in whole.state_dict().items()}, tmp_path / "vgg16.pth")
        x = torch.rand(1, 1, 32, 32) * 2 - 1
        ours = Vgg16Features(str(tmp_path / "vgg16.pth")).layers(x)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        h = ((x + 1) / 2).expand(-1, 3, -1, -1).sub(mean).div(std)
        pooled = [i for i, layer in enumerate(whole) if isinstance(layer, nn.MaxPool2d)]
        for features, i in zip(ours, pooled, strict=True):  # each before its pooling
            torch.testing.assert_close(whole[i](features), whole[: i + 1](h))
