"""The upsampler's network: convolutions alone, told a low-resolution picture and the strength of its corruption."""

from __future__ import annotations

import pytest
import torch

from unclip.nets.upsampler import UpsamplerNet


def net(**changes) -> UpsamplerNet:
    """With weights that say something: an untrained one answers zero."""
    torch.manual_seed(0)
    shape = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "cond_width": 16}
    made = UpsamplerNet(32, 1, **{**shape, **changes})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def cond(low: torch.Tensor, strength: float = 0.0) -> dict[str, torch.Tensor]:
    return {"low": low, "strength": torch.full((len(low),), strength)}


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (32, 32), (12, 40)])
@pytest.mark.parametrize("shape", [{}, {"unshuffle": 2}, {"resampling": "residual"}])
@torch.no_grad()
def test_it_draws_any_size_and_each_picture_by_itself(size, shape):
    made, x = net(**shape), torch.randn(2, 1, *size)
    t, low = torch.tensor([100.0, 900.0]), torch.randn(2, 1, *size)
    both = made(x, t, cond(low))
    assert both.shape == x.shape
    torch.testing.assert_close(both[1:], made(x[1:], t[1:], cond(low[1:])), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_moves_in_the_input_moves_in_the_output():
    """Far from the border, by multiples of what the U-Net reduces by: which attention to places would not give."""
    made, t = net(), torch.tensor([500.0])
    x, low = torch.zeros(1, 1, 96, 96), torch.zeros(1, 1, 96, 96)
    x[..., 40:48, 40:48], low[..., 40:48, 40:48] = torch.randn(2, 8, 8)
    moved = made(x.roll((4, -6), (2, 3)), t, cond(low.roll((4, -6), (2, 3))))
    still = made(x, t, cond(low)).roll((4, -6), (2, 3))
    inside = (..., slice(32, 64), slice(32, 64))
    torch.testing.assert_close(moved[inside], still[inside], rtol=1e-3, atol=1e-4)
    assert still[inside].std() > 1e-2


def test_everything_it_is_told_reaches_the_output_and_every_weight_a_gradient():
    made, x, t = net(), torch.randn(2, 1, 16, 16), torch.tensor([100.0, 900.0])
    low = torch.randn(2, 1, 16, 16)
    out = made(x, t, cond(low, 0.2))
    for other in (
        made(x, t, cond(low, 0.8)),
        made(x, t, cond(low.flip(0), 0.2)),
        made(x, t / 2, cond(low, 0.2)),
    ):
        assert (out - other).abs().max() > 1e-4
    out.square().mean().backward()
    assert [n for n, p in made.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def test_a_factor_that_does_not_divide_the_size_is_refused():
    with pytest.raises(
        ValueError, match="factor = 4: must be 2 or 4 and divide the size of the pictures, 30"
    ):
        UpsamplerNet(30, 1, factor=4)
