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


def test_a_condition_that_is_added_is_normalised_with_the_rest():
    block = randomised(ResidualBlock(8, 8, 8, 4, dropout=0.0, modulation="add"))
    x, vector = torch.randn(2, 8, 4, 4), torch.randn(2, 8)
    h = block.conv_in(F.silu(block.norm_in(x))) + block.shift(vector).reshape(2, 8, 1, 1)
    torch.testing.assert_close(block(x, vector), x + block.conv_out(F.silu(block.norm_out(h))))
    assert (block(x, vector) - block(x, -vector)).abs().max() > 1e-3


def test_a_rescaled_sum_of_two_like_parts_is_as_large_as_one():
    plain, rescaled = (ResidualBlock(8, 16, 8, 4, dropout=0.0, rescale=r) for r in (False, True))
    rescaled.load_state_dict(randomised(plain).state_dict())
    x, vector = torch.randn(2, 8, 4, 4), torch.randn(2, 8)
    torch.testing.assert_close(rescaled(x, vector), plain(x, vector) / 2**0.5)


@pytest.mark.parametrize("c_out", [8, 16])
def test_a_block_that_resamples_does_so_in_both_branches(c_out):
    """A fresh one hands on the resampled input; one with something to add has it at the same resolution."""
    x, vector = torch.randn(2, 8, 4, 4), torch.randn(2, 8)
    expected = {"down": F.avg_pool2d(x, 2), "up": x.repeat_interleave(2, 2).repeat_interleave(2, 3)}
    for way, small_or_large in expected.items():
        block = ResidualBlock(8, c_out, 8, 4, dropout=0.0, resample=way)
        torch.testing.assert_close(block(x, vector), block.skip(small_or_large))
        added = randomised(block)(x, vector) - block.skip(small_or_large)
        assert (added - added.mean((2, 3), keepdim=True)).abs().max() > 1e-3
        assert (block(x, vector) - block(x, -vector)).abs().max() > 1e-3, "the condition steers it too"


def test_heads_by_their_width_are_heads_by_their_number():
    by_number, by_width = randomised(small(heads=4)), small(heads=2, head_channels=4)  # of 16 channels
    by_width.eval().load_state_dict(by_number.state_dict())
    inputs = torch.randn(2, 1, 8, 8), torch.randn(2, 8), torch.randn(2, 3, 8)
    torch.testing.assert_close(by_width(*inputs), by_number(*inputs))
    assert (randomised(small(heads=2))(*inputs) - by_number(*inputs)).abs().max() > 1e-4


def test_the_switches_at_their_defaults_leave_the_weights_as_they_were():
    names = small().state_dict().keys()
    assert {
        "down.0.resample.weight",
        "up.0.resample.conv.weight",
        "middle.0.blocks.0.scale_shift.bias",
    } <= names
    assert not any(name.endswith("shift.weight") and "scale_shift" not in name for name in names)
    switched = small(resampling="residual", modulation="add").state_dict().keys()
    assert {"down.0.resample.conv_in.weight", "up.0.resample.shift.weight"} <= switched


ADM = {"resampling": "residual", "rescale": True, "modulation": "add", "head_channels": 4}


WIDE = {"multipliers": (2, 1)}  # a first level that is wider than `channels`
CHANGES = {"plain": {}, "unshuffled": {"unshuffle": 2}, "switched": ADM, "wide at first": WIDE}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_every_input_reaches_every_pixel(changes):
    """Gradients of one corner pixel: from the opposite corner of x, from the vector, from each visible
    token."""
    net = randomised(small(attention=(0, 1), **changes))
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
        (
            {"head_channels": 3},
            r"head_channels = 3 does not divide the width 16; possible: \[1, 2, 4, 8, 16\]",
        ),
        ({"dropout": 1.5}, "dropout"),
        ({"multipliers": ()}, "0 multipliers"),
    ],
)
def test_impossible_shapes_say_what_is_possible(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)
