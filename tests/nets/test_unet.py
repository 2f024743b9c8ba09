"""The U-Net: its size, how it starts, how it is steered, and which shapes it refuses."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from unclip.nets.unet import ResidualBlock, UNet

SMALL = {
    "cond_width": 8,
    "channels": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (1,),
    "heads": 2,
    "groups": 4,
}


def small(**changes) -> UNet:
    return UNet(**{"image_size": 8, "image_channels": 1, "dropout": 0.0, **SMALL, **changes})


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """With every parameter away from its start, so that no branch is silent."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return net.eval()


def test_the_reference_unet_has_12_55_million_parameters():
    with torch.device("meta"):
        net = UNet(32, 1, 128, 32, (1, 2, 4, 8), 2, attention=(1, 2), heads=8, groups=8, dropout=0.1)
    assert sum(p.numel() for p in net.parameters()) == 12_553_217


def test_a_fresh_net_answers_zero_and_a_fresh_block_passes_its_input_on():
    x, vector = torch.randn(2, 8, 4, 4), torch.randn(2, 8)
    assert (small()(torch.randn(2, 1, 8, 8), vector, torch.randn(2, 3, 8)) == 0).all()
    torch.testing.assert_close(ResidualBlock(8, 8, 8, 4, dropout=0.0)(x, vector), x)
    changing = ResidualBlock(8, 16, 8, 4, dropout=0.0)
    torch.testing.assert_close(changing(x, vector), changing.skip(x))


def test_scale_and_shift_are_h_times_one_plus_scale_plus_shift():
    block, x, vector = (
        randomised(ResidualBlock(8, 8, 8, 4, dropout=0.0)),
        torch.randn(2, 8, 4, 4),
        torch.randn(2, 8),
    )
    scale, shift = block.scale_shift(vector).chunk(2, dim=1)
    h = block.norm_out(block.conv_in(F.silu(block.norm_in(x))))
    h = torch.einsum("bcyx,bc->bcyx", h, 1 + scale) + shift.reshape(2, 8, 1, 1)
    torch.testing.assert_close(block(x, vector), x + block.conv_out(F.silu(h)))


@pytest.mark.parametrize("unshuffle", [1, 2])
def test_every_input_reaches_every_pixel(unshuffle):
    """Gradients of one corner pixel: from the opposite corner of x, from the vector, from each visible
    token."""
    net = randomised(small(unshuffle=unshuffle, attention=(0, 1)))
    x, vector = torch.randn(2, 1, 8, 8, requires_grad=True), torch.randn(2, 8, requires_grad=True)
    tokens = torch.randn(2, 3, 8, requires_grad=True)
    seen = torch.tensor([[True, True, False], [True, True, True]])
    net(x, vector, tokens, seen)[:, 0, 0, 0].sum().backward()
    assert (x.grad[:, 0, -1, -1] != 0).all()
    assert (vector.grad != 0).any(dim=1).all()
    assert ((tokens.grad != 0).any(dim=2) == seen).all()


def test_samples_do_not_mix():
    net, x = randomised(small()), torch.randn(3, 1, 8, 8)
    vector, tokens = torch.randn(3, 8), torch.randn(3, 2, 8)
    alone = [net(x[i : i + 1], vector[i : i + 1], tokens[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(net(x, vector, tokens), torch.cat(alone))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 9}, "image size 9 .* halved 1 times .* multiple of 2, such as 8 or 10"),
        ({"image_size": 28, "multipliers": (1, 1, 1, 1)}, "multiple of 8, such as 24 or 32"),
        ({"image_size": 6, "unshuffle": 2}, "folded by unshuffle = 2 .* multiple of 4, such as 4 or 8"),
        ({"heads": 3}, r"heads = 3 does not divide the width 16; possible: \[1, 2, 4, 8, 16\]"),
        ({"groups": 3}, "groups = 3 does not divide the 8 channels"),
        ({"attention": (2,)}, r"attention names the levels \[2\]; possible: \[0, 1\]"),
        ({"dropout": 1.5}, "dropout"),
        ({"multipliers": ()}, "0 multipliers"),
    ],
)
def test_impossible_shapes_say_what_is_possible(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)
