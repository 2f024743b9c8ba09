"""Conditions of prior and decoder: what reaches the answer, and that what is dropped is really gone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unclip.nets.conditions import null
from unclip.nets.decoder import DecoderNet
from unclip.nets.prior import PriorTransformer
from unclip.nets.unet import ImageAttention, ResidualBlock

B, D, W, L = 4, 6, 10, 5
UNET = {
    "channels": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (1,),
    "heads": 2,
    "groups": 4,
    "cond_width": 8,
}


def randomised(net: nn.Module) -> nn.Module:
    """With every parameter away from its start, so that no branch is silent."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return net.eval()


def decoder(**changes) -> DecoderNet:
    return randomised(DecoderNet(8, 1, D, W, **{**UNET, "dropout": 0.0, "caption_layers": 1, **changes}))


def prior() -> PriorTransformer:
    return randomised(PriorTransformer(D, W, L, width=16, layers=2, heads=2, dropout=0.0))


def condition() -> dict[str, torch.Tensor]:
    """Of both nets: each reads its own keys."""
    g = torch.Generator().manual_seed(2)
    return {
        "embedding": torch.randn(B, D, generator=g),
        "text_embedding": torch.randn(B, D, generator=g),
        "tokens": torch.randn(B, L, W, generator=g),
        "token_mask": torch.arange(L) < torch.tensor([[5], [3], [1], [2]]),
        "keep_embedding": torch.ones(B, dtype=torch.bool),
        "keep_tokens": torch.ones(B, dtype=torch.bool),
        "keep_text": torch.ones(B, dtype=torch.bool),
    }


IMAGE = torch.randn(B, 1, 8, 8, generator=torch.Generator().manual_seed(3))
T = torch.tensor([1.0, 300, 600, 999])
VECTOR = torch.randn(B, D, generator=torch.Generator().manual_seed(4))


def moved(net, x, cond, changes) -> torch.Tensor:
    """How far each sample's answer moves when the condition is changed, (B,)."""
    return (net(x, T, {**cond, **changes}) - net(x, T, cond)).flatten(1).abs().amax(1)


@pytest.mark.parametrize("image_tokens", [1, 4])
@pytest.mark.parametrize("attention", [(), (0, 1)])
def test_a_dropped_embedding_is_gone_from_time_and_from_attention(image_tokens, attention):
    """Classifier-free guidance needs it: with the flag down no embedding changes the answer, by neither
    path."""
    net, cond = decoder(image_tokens=image_tokens, attention=attention), condition()
    other = {"embedding": torch.randn(B, D)}
    assert (moved(net, IMAGE, cond, other) > 1e-3).all()
    cond["keep_embedding"] = torch.tensor([True, False, True, False])
    assert ((moved(net, IMAGE, cond, other) > 0) == cond["keep_embedding"]).all()


def test_the_embedding_reaches_the_answer_by_time_and_by_attention():
    net, cond = decoder(caption_layers=0), condition()
    for path in (net.embedding.to_vector, net.embedding.to_tokens):
        weight = path.weight.detach().clone()
        with torch.no_grad():
            path.weight.zero_()
            assert (moved(net, IMAGE, cond, {"embedding": torch.randn(B, D)}) > 1e-4).all()
            path.weight.copy_(weight)


def test_a_dropped_caption_is_gone():
    net, cond = decoder(), condition()
    mask = torch.arange(L) < torch.tensor([[1], [5], [4], [5]])
    other = {"tokens": torch.randn(B, L, W), "token_mask": mask}
    assert (moved(net, IMAGE, cond, other) > 1e-4).all()
    cond["keep_tokens"] = torch.tensor([False, True, False, True])
    assert ((moved(net, IMAGE, cond, other) > 0) == cond["keep_tokens"]).all()


def test_text_that_the_prior_drops_is_gone_tokens_and_embedding():
    net, cond = prior(), condition()
    mask = torch.arange(L) < torch.tensor([[1], [5], [4], [5]])
    others = [{"text_embedding": torch.randn(B, D)}, {"tokens": torch.randn(B, L, W)}, {"token_mask": mask}]
    for other in others:
        cond["keep_text"] = torch.ones(B, dtype=torch.bool)
        assert (moved(net, VECTOR, cond, other) > 1e-5).all()
        cond["keep_text"] = torch.tensor([False, True, False, True])
        assert ((moved(net, VECTOR, cond, other) > 0) == cond["keep_text"]).all()


@pytest.mark.parametrize(("net", "x"), [(decoder(), IMAGE), (prior(), VECTOR)], ids=["decoder", "prior"])
def test_the_null_branch_drops_the_condition_only(net, x):
    """Nothing of the condition is left, x_t and t still count, and it is not the answer to a condition of
    zeros."""
    cond = condition()
    dropped = null(cond)
    assert not any(dropped[name].any() for name in dropped if name.startswith("keep_"))
    others = {name: value for name, value in condition().items() if value.dtype == torch.float32}
    shuffled = {name: value.roll(1, 0) for name, value in others.items()}
    assert (moved(net, x, dropped, shuffled) == 0).all()
    assert (net(x + 1, T, dropped) - net(x, T, dropped)).abs().max() > 1e-3
    assert (net(x, T.flip(0), dropped) - net(x, T, dropped)).abs().max() > 1e-3
    zeros = {name: torch.zeros_like(value) for name, value in others.items()}
    assert (net(x, T, dropped) - net(x, T, {**cond, **zeros})).abs().max() > 1e-3


@pytest.mark.parametrize(("net", "x"), [(decoder(), IMAGE), (prior(), VECTOR)], ids=["decoder", "prior"])
def test_padding_does_not_matter(net, x):
    """What stands behind a caption's end, in whatever order, changes nothing; what stands before it does."""
    cond = condition()
    padding = ~cond["token_mask"].unsqueeze(-1)
    noise = torch.randn(B, L, W)
    torch.testing.assert_close(
        net(x, T, {**cond, "tokens": torch.where(padding, noise, cond["tokens"])}), net(x, T, cond)
    )
    assert (moved(net, x, cond, {"tokens": torch.where(padding, cond["tokens"], noise)}) > 1e-5).all()


@pytest.mark.parametrize(("net", "x"), [(decoder(), IMAGE), (prior(), VECTOR)], ids=["decoder", "prior"])
def test_trailing_padding_may_be_left_out(net, x):
    cond = condition()
    cond["token_mask"] = cond["token_mask"] & (torch.arange(L) < 3)
    short = {name: v[:, :3] if name.startswith("token") else v for name, v in cond.items()}
    torch.testing.assert_close(net(x, T, short), net(x, T, cond))


@pytest.mark.parametrize("place", range(L + 4))
def test_the_priors_query_sees_every_token(place):
    """[caption, text embedding, time, noised image embedding, query]: each place has a say in the answer."""
    net = prior()
    cond = {**condition(), "token_mask": torch.ones(B, L, dtype=torch.bool)}
    before = net(VECTOR, T, cond)
    with torch.no_grad():
        positions = torch.cat([net.token_positions, net.extra_positions])
        positions[place] += torch.randn(positions.shape[1])
        net.token_positions.copy_(positions[:L])
        net.extra_positions.copy_(positions[L:])
    assert ((net(VECTOR, T, cond) - before).abs().amax(1) > 1e-4).all()


def test_no_token_of_the_prior_looks_ahead():
    """Token i's features do not change with what stands at j > i: seen at the transformer's output."""
    net, cond, outputs = prior(), condition(), []
    hook = net.transformer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    net(VECTOR, T, cond)
    net(VECTOR + 1, T, cond)  # the noised embedding is the last but one
    net(VECTOR, T + 1, cond)  # time comes before it
    hook.remove()
    image, time = [(outputs[i] - outputs[0]).abs().amax(dim=(0, 2)) > 1e-6 for i in (1, 2)]
    assert image.tolist() == [False] * (L + 2) + [True, True]
    assert time.tolist() == [False] * (L + 1) + [True, True, True]


@pytest.mark.parametrize("self_conditioning", [False, True])
def test_a_prior_that_has_read_its_condition_answers_the_same(self_conditioning):
    """With it and without; kept, dropped, and one dropped one for all."""
    net = randomised(
        PriorTransformer(
            D, W, L, width=16, layers=2, heads=2, dropout=0.0, self_conditioning=self_conditioning
        )
    )
    for cond in (condition(), null(condition())):
        for t in (T, T / 2):
            estimate = {"x0_hat": VECTOR / 3} if self_conditioning else {}
            again = net(VECTOR, t, {**net.prepared(cond), **estimate})
            torch.testing.assert_close(again, net(VECTOR, t, {**cond, **estimate}))
    one = net.prepared({name: x[:1] for name, x in null(condition()).items()})
    for_all = {name: x.expand(B, *x.shape[1:]) for name, x in one.items()}
    torch.testing.assert_close(net(VECTOR, T, for_all), net(VECTOR, T, null(condition())))


def test_what_a_decoder_is_built_with_says_what_it_reads():
    assert not decoder(conditioning="caption_only").uses_embedding
    assert not decoder(caption_layers=0).uses_caption
    keys = {"tokens", "token_mask", "keep_tokens"}
    decoder(conditioning="caption_only")(IMAGE, T, {k: v for k, v in condition().items() if k in keys})
    keys = {"embedding", "keep_embedding"}
    decoder(caption_layers=0)(IMAGE, T, {k: v for k, v in condition().items() if k in keys})
    with pytest.raises(ValueError, match="caption_layers = 0 leaves it out"):
        decoder(conditioning="caption_only", caption_layers=0)


def test_a_decoder_hands_its_switches_to_its_unet():
    switched = decoder(resampling="residual", rescale=True, modulation="add", head_channels=4)
    blocks = [m for m in switched.unet.modules() if isinstance(m, ResidualBlock)]
    assert all(block.adds and block.rescale for block in blocks)
    assert {block.resample for block in blocks} == {None, "down", "up"}
    assert {m.attention.heads for m in switched.unet.modules() if isinstance(m, ImageAttention)} == {4}
    assert (moved(switched, IMAGE, condition(), {"embedding": torch.randn(B, D)}) > 1e-3).all()
