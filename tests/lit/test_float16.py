"""Training in float16 (trainer.precision=16-mixed), whose gradients are scaled so that small ones do not vanish."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.amp import GradScaler

from tests.lit.conftest import fit, prior_module, tiny_data
from unclip.lit.finite import Finite, NonFinite

SCALE = 256.0  # of a loss near 1, so that no gradient is infinite by itself


class Watch(lightning.Callback):
    """Of every step the gradients' norm as it is logged, the scale and the weights after it."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.scales: list[float] = []
        self.weights: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.norms.append(float(trainer.callback_metrics["train/grad_norm"]))
        if scaler := getattr(trainer.precision_plugin, "scaler", None):
            self.scales.append(scaler.get_scale())
        self.weights.append([p.detach().clone() for p in module.parameters()])


def trained(
    tiny: Any,
    clip: float | None,
    half: bool = True,
    on_nan: Any = "stop",
    spoilt: Callable[[Tensor], Any] | None = None,
) -> Watch:
    """Four steps, the loss of the third one given to `spoilt`."""
    module, watch = prior_module(tiny.embeddings), Watch()
    module.finite = Finite(on_nan)
    losses = module._losses
    module._losses = lambda *given: (
        spoilt(losses(*given)) if spoilt and module.global_step == 2 else losses(*given)
    )
    precision = [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", SCALE))] if half else None
    data = tiny_data(batch_size=8)
    fit(module, data, 4, plugins=precision, gradient_clip_val=clip, log_every_n_steps=1, callbacks=[watch])
    return watch


def infinite_gradients(loss: Tensor) -> Tensor:
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradients_are_logged_and_clipped_as_they_are_without_the_scale(
    tiny: Any, clip: float | None
) -> None:
    half, full = trained(tiny, clip), trained(tiny, clip, half=False)
    assert half.norms == pytest.approx(full.norms, rel=1e-2)
    first, last, exact = (
        torch.cat([x.flatten() for x in weights])
        for weights in (full.weights[0], half.weights[-1], full.weights[-1])
    )
    assert (last - exact).norm() < 0.05 * (exact - first).norm()


def test_infinite_gradients_leave_a_step_out_and_halve_the_scale(tiny: Any) -> None:
    """They are what a scale that is too large makes of finite ones: no reason to stop."""
    watch = trained(tiny, 0.5, spoilt=infinite_gradients)
    assert watch.scales == [SCALE, SCALE, SCALE / 2, SCALE / 2]
    same = [all(map(torch.equal, a, b)) for a, b in zip(watch.weights, watch.weights[1:], strict=False)]
    assert same == [False, True, False]


def test_a_loss_that_is_no_number_stops_or_is_left_out_as_in_float32(tiny: Any) -> None:
    with pytest.raises(NonFinite, match="loss is nan"):
        trained(tiny, 0.5, spoilt=lambda loss: loss * math.nan)
    watch = trained(tiny, 0.5, on_nan="skip", spoilt=lambda loss: loss * math.nan)
    assert all(map(torch.equal, watch.weights[1], watch.weights[2]))
    assert not all(map(torch.equal, watch.weights[2], watch.weights[3]))
