"""Attention, masks and time features, against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unclip.nets.layers import Attention, Transformer, causal_mask, time_features

torch.manual_seed(0)


def softmax_attention(attention: Attention, x, context=None, seen=None):
    """Section 3.2 of Vaswani et al. 2017, head by head; `seen` (B,M+N) says which keys may be looked at."""
    width, heads = x.shape[-1], attention.heads
    q, k, v = (x @ w.T for w in attention.query_key_value.weight.chunk(3))
    if context is not None:
        context_k, context_v = (context @ w.T for w in attention.context_key_value.weight.chunk(2))
        k, v = torch.cat([context_k, k], 1), torch.cat([context_v, v], 1)
    outputs = []
    for part in torch.arange(width).chunk(heads):
        logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width / heads)
        if seen is not None:
            logits = logits.masked_fill(~seen[:, None], -torch.inf)
        outputs.append(logits.softmax(-1) @ v[..., part])
    return attention.out(torch.cat(outputs, -1))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_softmax_attention_over_context_and_itself(heads):
    attention = Attention(8, heads, context_width=6)
    x, context = torch.randn(2, 5, 8), torch.randn(2, 3, 6)
    context_mask = torch.tensor([[True, True, False], [True, False, False]])
    seen = torch.cat([context_mask, torch.ones(2, 5, dtype=torch.bool)], 1)
    torch.testing.assert_close(attention(x), softmax_attention(attention, x))
    torch.testing.assert_close(attention(x, context=context), softmax_attention(attention, x, context))
    torch.testing.assert_close(
        attention(x, context=context, context_mask=context_mask),
        softmax_attention(attention, x, context, seen),
    )


def test_masked_context_and_no_context_agree():
    attention, x = Attention(8, 2, context_width=6), torch.randn(2, 5, 8)
    nothing_seen = torch.zeros(2, 3, dtype=torch.bool)
    torch.testing.assert_close(
        attention(x, context=torch.randn(2, 3, 6), context_mask=nothing_seen), attention(x)
    )


def test_causal_mask_hides_what_comes_later():
    net, x = Transformer(8, layers=2, heads=2).eval(), torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, 4] = torch.randn(8)
    before, after = net(x, causal_mask(6)), net(changed, causal_mask(6))
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().amax(dim=(0, 2)).gt(1e-3).all()


def test_time_features_separate_neighbouring_steps():
    features = time_features(torch.arange(1000), 128)
    distances = torch.cdist(features, features) + 100 * torch.eye(1000)
    assert distances.min() > 0.3
    torch.testing.assert_close(features.pow(2).sum(1), torch.full((1000,), 64.0))  # cos^2 + sin^2 = 1


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"heads = 3 does not divide the width 8; possible: \[1, 2, 4, 8\]"):
        Attention(8, heads=3)


def test_attention_without_context_refuses_tokens():
    with pytest.raises(ValueError, match="without context_width"):
        Attention(8, 2)(torch.randn(1, 2, 8), context=torch.randn(1, 1, 8))


def test_residual_stream_does_not_grow_with_depth():
    """Output projections are scaled by 1/sqrt(layers), so a deep stack starts as near to its input as a
    shallow one."""

    def added(layers: int) -> float:
        net, x = Transformer(64, layers, heads=4), torch.randn(8, 10, 64)
        net.norm = nn.Identity()
        return (net(x) - x).std().item()

    assert 0.5 < added(12) / added(2) < 2
