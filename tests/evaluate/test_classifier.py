"""The classifier as a net and as a stage: it learns, repeats, and its weights are all it takes to have it
back."""

from functools import partial

import lightning
import pytest
import torch

from unclip.data.images import to_float
from unclip.data.synthetic import Synthetic
from unclip.lit.classifier import ClassifierModule
from unclip.lit.optim import adamw
from unclip.nets.classifier import Classifier


def trained(folder, steps, noise=0.1, seed=0):
    torch.manual_seed(0)
    optim = partial(adamw, lr=5e-3, weight_decay=0.05, warmup=0.1)
    module = ClassifierModule(Classifier(1, 4, (8, 16, 32)), optim, noise=noise, seed=seed)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", default_root_dir=folder, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, datamodule=Synthetic(512, image_size=16, batch_size=64, flip=0.5, crop_padding=1))
    return module, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_it_learns_the_shapes(tmp_path):
    module, metrics = trained(tmp_path, steps=64)
    test = Synthetic(512, image_size=16).split("test")
    with torch.no_grad():
        right = module.net.eval()(to_float(test.images)).argmax(1) == test.labels
    assert right.double().mean() > 0.9
    assert metrics["val/accuracy"] > 0.9
    assert metrics["val/loss"] < 0.4


def test_the_same_seed_gives_the_same_weights_and_noise_follows_the_seed(tmp_path):
    def weights(**arguments):
        return trained(tmp_path, steps=3, **arguments)[0].net.head.weight

    expected = weights()
    assert torch.equal(weights(), expected)
    assert not torch.equal(weights(seed=1), expected)
    assert not torch.equal(weights(noise=0.0), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_state_is_enough_to_have_the_network_back(dtype):
    net = Classifier(3, 5, (8, 16)).eval()
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in net.state_dict().items()}
    again = Classifier.from_state(state).eval()
    assert all(p.dtype == torch.float32 for p in again.parameters())
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0 if dtype == torch.float32 else 1e-2)


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match=r"widths = \[\]: must be the channels of one block or more"):
        Classifier(1, 4, ())
    with pytest.raises(ValueError, match="images of 8x7 pixels cannot be halved 3 times: fewer widths"):
        Classifier(1, 4, (8, 8, 8))(torch.zeros(1, 1, 8, 7))


def test_gradients_reach_every_parameter():
    net = Classifier(1, 4, (8, 16))
    net(torch.randn(4, 1, 16, 16)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
