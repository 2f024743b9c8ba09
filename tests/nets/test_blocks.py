"""Blocks that are computed again in the backward pass: the same numbers in less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from unclip.config.compose import compose
from unclip.nets.autoencoder import Autoencoder
from unclip.nets.autoregressive import AutoregressivePrior
from unclip.nets.blocks import blocks, checkpoint_blocks
from unclip.nets.classifier import Classifier
from unclip.nets.clip import CLIP
from unclip.nets.decoder import DecoderNet
from unclip.nets.flowers import FlowersUNet
from unclip.nets.prior import PriorTransformer
from unclip.nets.upsampler import UpsamplerNet

KEEP = torch.tensor([True, False])
TEXT = {"tokens": torch.randn(2, 5, 8), "token_mask": torch.ones(2, 5, dtype=torch.bool)}
READ = {**TEXT, "text_embedding": torch.randn(2, 8), "keep_text": KEEP}
SHAPE: dict[str, Any] = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "dropout": 0.3, "cond_width": 16}
TRANSFORMER: dict[str, Any] = {"width": 16, "layers": 3, "heads": 2, "dropout": 0.3}
TIMES, IMAGES = torch.tensor([10.0, 900.0]), torch.randn(2, 1, 16, 16)

Case = tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]


def decoder() -> Case:
    told = {**TEXT, "keep_tokens": KEEP, "embedding": torch.randn(2, 8), "keep_embedding": KEEP}
    shape = {**SHAPE, "attention": (1,), "heads": 2, "caption_layers": 1}
    return lambda: DecoderNet(16, 1, 8, 8, **shape), lambda net: net(IMAGES, TIMES, told)


def adm() -> Case:
    told = {"embedding": torch.randn(2, 8), "keep_embedding": KEEP}
    shape = {**SHAPE, "attention": (1,), "head_channels": 8, "caption_layers": 0, "heads": 2}
    switches = {"resampling": "residual", "rescale": True, "modulation": "add"}
    return lambda: DecoderNet(16, 1, 8, 8, **shape, **switches), lambda net: net(IMAGES, TIMES, told)


def upsampler() -> Case:
    told = {"low": torch.randn(2, 1, 16, 16), "strength": torch.rand(2)}
    return lambda: UpsamplerNet(16, 1, **SHAPE), lambda net: net(IMAGES, TIMES, told)


def flowers() -> Case:
    return lambda: FlowersUNet(16, 1, widths=(8, 16, 24, 32)), lambda net: net(IMAGES, TIMES)


def prior() -> Case:
    z = torch.randn(2, 8)
    return lambda: PriorTransformer(8, 8, 5, **TRANSFORMER), lambda net: net(z, TIMES, READ)


def autoregressive() -> Case:
    told, tokens = {**READ, "level": torch.tensor([3, 4])}, torch.randint(0, 16, (2, 7))
    return lambda: AutoregressivePrior(8, 8, 5, buckets=16, **TRANSFORMER), lambda net: net(tokens, told)


def clip() -> Case:
    sizes = {"embedding_dim": 8, "width": 16, "image_layers": 2, "text_layers": 2, "heads": 2, "dropout": 0.3}
    ids = torch.randint(1, 32, (2, 6))

    def both(net: CLIP) -> Tensor:
        return net.encode_image(IMAGES) @ net.encode_text(ids).embedding.T

    return lambda: CLIP(16, 1, 32, 6, **sizes), both


def autoencoder() -> Case:
    eps = torch.randn(2, 4, 4, 4)
    sizes = {"factor": 4, "channels": 8, "blocks": 1, "groups": 4}
    return lambda: Autoencoder(16, 1, **sizes), lambda net: net.to_pixels(net(IMAGES, eps)[0])


CASES = [decoder, adm, upsampler, flowers, prior, autoregressive, clip, autoencoder]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_loss_and_gradients_are_bit_for_bit_those_of_a_net_that_keeps_everything(
    case: Callable[[], Case],
) -> None:
    """Dropout included: what is computed again draws what was drawn."""
    make, answer = case()

    def trained(prepare: Callable[[nn.Module], None]) -> tuple[dict[str, Tensor], int, Tensor]:
        torch.manual_seed(0)
        net = make()
        names = list(net.state_dict())
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.2)
        prepare(net)
        assert list(net.state_dict()) == names
        loss, memory = kept(net, lambda: answer(net).square().mean())
        loss.backward()
        grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        return {"loss": loss.detach(), **grads}, memory, torch.rand(1)

    plain, memory, after = trained(lambda net: None)
    again, less, same = trained(checkpoint_blocks)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert torch.equal(after, same), "what comes after draws what it would have drawn"
    assert less < 0.75 * memory


def test_the_flowers_unet_keeps_less_than_half() -> None:
    settings = compose("train", ["experiment=flowers/unet"]).config
    size, widths = settings["data"]["image_size"], settings["model"]["widths"]

    def memory(prepare: Callable[[nn.Module], None]) -> int:
        with torch.device("meta"):  # as many bytes, and no work
            net = FlowersUNet(size, 3, widths)
            prepare(net)
            return kept(net, lambda: net(torch.empty(2, 3, size, size), torch.empty(2)).mean())[1]

    assert memory(checkpoint_blocks) < 0.4 * memory(lambda net: None)


def test_what_a_batch_norm_has_seen_is_seen_once() -> None:
    """Blocks with one are left as they are: computed again, it would count its batch twice."""
    net = Classifier(1, 3, widths=(8, 16))
    before = [block.forward for block in blocks(net)]
    checkpoint_blocks(net)
    assert [block.forward for block in blocks(net)] == before


@pytest.mark.slow
def test_a_compiled_net_computes_its_blocks_again_too() -> None:
    make, answer = decoder()
    losses = []
    for prepare in (lambda net: None, checkpoint_blocks):
        torch.manual_seed(0)
        net = make().eval()
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.2)
        prepare(net)
        net.compile(backend="aot_eager", fullgraph=True)
        loss, memory = kept(net, lambda net=net: answer(net).square().mean())
        loss.backward()
        losses.append((loss.detach(), memory))
    (plain, memory), (again, less) = losses
    torch.testing.assert_close(again, plain)
    assert less < 0.75 * memory


def kept(net: nn.Module, compute: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """The result, and how many bytes it keeps for its backward pass beside the parameters."""
    own = {p.untyped_storage()._cdata for p in net.parameters()}
    storages: dict[int, Any] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        storages[storage._cdata] = storage
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        result = compute()
    return result, sum(s.nbytes() for address, s in storages.items() if address not in own)
