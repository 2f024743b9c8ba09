"""The flowers U-Net: its published size, and that it reads what it should."""

from __future__ import annotations

import pytest
import torch

from unclip.config.compose import compose
from unclip.nets.flowers import FlowersUNet


def tiny() -> FlowersUNet:
    torch.manual_seed(0)
    return FlowersUNet(16, 3, widths=(8, 16, 24, 32))


def test_it_has_133_42_million_parameters():
    settings = compose("train", ["experiment=flowers/unet"]).config["model"]
    with torch.device("meta"):
        net = FlowersUNet(64, 3, settings["widths"])
    assert sum(p.numel() for p in net.parameters()) == 133_417_219


def test_every_parameter_learns():
    net = tiny()
    net(torch.randn(2, 3, 16, 16), torch.tensor([10.0, 900.0])).square().mean().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_a_sample_s_output_depends_on_its_own_input_and_time_alone():
    net, x = tiny().eval(), torch.randn(2, 3, 16, 16)
    y = net(x, torch.tensor([10.0, 900.0]))
    assert torch.allclose(net(x[:1], torch.tensor([10.0])), y[:1], atol=1e-5)
    assert not torch.allclose(net(x[:1], torch.tensor([500.0])), y[:1], atol=1e-3)


def test_attention_sees_all_pixels():
    net, x = tiny().eval(), torch.randn(1, 3, 16, 16)
    other = x.clone()
    other[..., -1, -1] += 1
    t = torch.tensor([10.0])
    assert (net(x, t) - net(other, t))[..., 0, 0].abs().max() > 0


@pytest.mark.parametrize(
    ("size", "widths"), [(18, (8, 16, 24, 32)), (16, (8, 16, 24)), (16, (8, 16, 24, 30))]
)
def test_a_shape_that_cannot_be_is_refused(size: int, widths: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"image_size % 4 == 0|must be four multiples of 8"):
        FlowersUNet(size, 3, widths)


def test_the_published_recipe():
    config = compose("train", ["experiment=flowers/unet"]).config
    optim, sampler = config["optim"], config["sampler"]
    assert (optim["lr"], optim["betas"], optim["weight_decay"]) == (1e-4, [0.95, 0.999], 1e-5)
    assert (optim["decay"], optim["warmup_steps"]) == ("cosine", 300)
    assert (config["data"]["batch_size"], config["trainer"]["max_epochs"]) == (4, 100)
    function = sampler["function"]
    assert (function["_target_"].rpartition(".")[2], function["eta"], sampler["steps"]) == ("ddim", 1.0, 50)
    assert (config["stage"]["loss_norm"], config["objective"]["_target_"].rpartition(".")[2]) == ("l1", "Eps")
    assert config["clip"] is None
