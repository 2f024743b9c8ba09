"""What nets do on a CPU in words of their own is what PyTorch does: norms, dropout, attention, memory formats."""

import pytest
import torch
from torch import nn

from unclip.lit.optim import adamw
from unclip.nets import cpu
from unclip.nets.cpu import Dropout, GroupNorm, aligned, arranged, laid_out
from unclip.nets.layers import Attention
from unclip.nets.unet import UNet

SMALL = {"cond_width": 16, "channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "heads": 2}


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
def images(request):
    torch.manual_seed(0)
    return torch.randn(3, 8, 4, 6).contiguous(memory_format=request.param)


def randomised(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("modulated", [True, False])
def test_a_norm_and_its_gradients_are_those_of_the_formula(images, groups, modulated):
    norm = randomised(GroupNorm(groups, 8))
    scale, shift = torch.randn(2, 3, 8).unbind()
    given = [images, norm.weight, norm.bias, *([scale, shift] if modulated else [])]
    for x in given:
        x.requires_grad_()
    theirs = nn.functional.group_norm(images, groups, norm.weight, norm.bias)
    if modulated:
        theirs = theirs * (1 + scale[..., None, None]) + shift[..., None, None]
    ours = norm(images, scale, shift) if modulated else norm(images)
    torch.testing.assert_close(ours, theirs)
    dy = torch.randn(ours.shape)
    for mine, its in zip(
        torch.autograd.grad(ours, given, dy), torch.autograd.grad(theirs, given, dy), strict=True
    ):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)


def test_gradients_of_a_norm_keep_their_precision(monkeypatch):
    monkeypatch.setattr(cpu, "here", lambda x: True)  # float64 too
    norm = randomised(GroupNorm(2, 4)).double()
    x, scale, shift = torch.randn(2, 4, 3, 2), torch.randn(2, 4), torch.randn(2, 4)
    given = [v.double().requires_grad_() for v in (x, scale, shift)]
    assert torch.autograd.gradcheck(norm, given)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(p):
    torch.manual_seed(0)
    x = torch.ones(64, 16, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = Dropout(p)(x)
    dropped = (y == 0).double().mean().item()
    assert dropped == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)
    y.sum().backward()
    assert torch.equal(x.grad, y)  # the same mask backwards, and a one stays a one
    neighbours = (y[..., 1:] == 0) & (y[..., :-1] == 0)
    assert neighbours.double().mean().item() == pytest.approx(
        p * p, abs=0.01
    )  # draws of a number are independent


def test_dropout_follows_the_seed_and_is_off_in_eval_mode():
    def drawn(seed: int, n: int = 1001) -> torch.Tensor:
        torch.manual_seed(seed)
        return Dropout(0.3)(torch.ones(n))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    x = torch.randn(5)
    assert Dropout(0.3).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert (Dropout(0.99999999)(torch.ones(10**5)) == 0).sum() > 0  # finite, however high


def test_tokens_nobody_sees_change_nothing():
    torch.manual_seed(0)
    attention = Attention(16, 2, context_width=8)
    x, tokens = torch.randn(2, 64, 16), torch.randn(2, 11, 8)
    seen = torch.rand(2, 11) < 0.5
    for mask in (seen, None):
        more, which = aligned(tokens, mask)
        assert more.shape[1] == 16
        assert not which[:, 11:].any()
        torch.testing.assert_close(
            attention(x, context=more, context_mask=which), attention(x, context=tokens, context_mask=mask)
        )
    assert aligned(more, None) == (more, None)


def test_a_grid_is_laid_out_for_its_size_and_weights_for_their_device():
    fine, coarse = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8)
    assert arranged(fine).is_contiguous(memory_format=torch.channels_last)
    assert arranged(coarse, 16).is_contiguous(memory_format=torch.channels_last)
    assert arranged(arranged(coarse, 16)).is_contiguous()
    net = UNet(16, 1, **SMALL).to(memory_format=torch.channels_last)
    laid_out(net)
    assert all(p.is_contiguous() for p in net.parameters())


def test_a_net_trains_as_it_does_in_pytorchs_words(monkeypatch):
    def trained() -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = randomised(UNet(16, 1, dropout=0.0, **SMALL))
        optimizer, _ = adamw(net, 3, lr=1e-3)
        losses = []
        for _ in range(3):
            y = net(torch.randn(2, 1, 16, 16), torch.randn(2, 16), torch.randn(2, 3, 16))
            losses.append(y.square().mean())
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.stack(losses).detach()

    ours = trained()
    monkeypatch.setattr(cpu, "here", lambda x: False)
    monkeypatch.setattr(cpu, "FINE", 0)
    monkeypatch.setattr(cpu, "ALIGNED", 1)
    torch.testing.assert_close(ours, trained(), rtol=1e-4, atol=1e-6)
