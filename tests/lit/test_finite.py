"""A loss or gradients that are no numbers: the training stops where they are, or goes on without them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from tests.lit.conftest import prior_module, tiny_data
from unclip.callbacks.checkpoint import Checkpoint
from unclip.callbacks.ema import EMA
from unclip.diffusion.times import Importance
from unclip.lit.finite import IN_A_ROW, Finite, NonFinite

STEPS, BATCHES = 8, 2  # in an epoch


def trained(
    tiny: SimpleNamespace,
    bad: dict[int, float],
    finite: Finite,
    steps: int = STEPS,
    gradients_only: bool = False,
    callbacks: Any = (),
    **fit: Any,
) -> Any:
    """A prior whose loss at the steps of `bad` is multiplied by that."""
    module = prior_module(tiny.embeddings)
    module.finite = finite
    losses = module._losses

    def spoilt(*arguments: Any) -> Tensor:
        found = losses(*arguments)
        factor = bad.get(module.global_step)
        if factor is None or not module.training:
            return found
        if gradients_only:
            found.register_hook(lambda gradient: gradient * factor)
            return found
        return found * factor

    module._losses = spoilt
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", log_every_n_steps=5, callbacks=[*callbacks],
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks), **quiet
    )  # fmt: skip
    module.fitted = lambda: trainer.fit(module, tiny_data(batch_size=16), **fit)
    return module


def weights(module: Any) -> list[Tensor]:
    return [x.detach().clone() for x in module.net.parameters()]


@pytest.mark.parametrize(("factor", "said"), [(math.nan, "loss is nan"), (math.inf, "loss is inf")])
def test_it_stops_before_the_step_and_names_what_reproduces_it(tiny, factor: float, said: str) -> None:
    module = trained(tiny, {5: factor}, Finite())
    with pytest.raises(NonFinite, match=said) as error:
        module.fitted()
    assert "at step 6 (epoch 2, batch 1, both counted from 0, seed 0)" in str(error.value)
    assert "\n" not in str(error.value)
    undisturbed = trained(tiny, {}, Finite(), steps=5)
    undisturbed.fitted()
    # the rate of the schedule is constant: five steps of eight are those of five
    assert all(torch.equal(a, b) for a, b in zip(weights(module), weights(undisturbed), strict=True))


def test_the_named_step_comes_again_from_the_last_checkpoint(tiny, tmp_path: Path) -> None:
    saved, said = tmp_path / "checkpoint.ckpt", []
    for again in (False, True):
        resume = {"ckpt_path": saved, "weights_only": True} if again else {}
        module = trained(tiny, {5: math.nan}, Finite(), callbacks=[Checkpoint(2, str(saved))], **resume)
        with pytest.raises(NonFinite) as error:
            module.fitted()
        said.append(str(error.value))
        assert torch.load(saved, weights_only=True)["global_step"] == 4
    assert said[0] == said[1]


def test_infinite_gradients_of_a_finite_loss_are_noticed(tiny) -> None:
    module = trained(tiny, {5: math.inf}, Finite(), gradients_only=True)
    with pytest.raises(
        NonFinite, match=r"the loss is [0-9.]+, the norm of its gradients (inf|nan) at step 6"
    ):
        module.fitted()


def test_a_step_is_left_out_as_if_its_batch_had_not_been(tiny, capsys) -> None:
    before, after = [], []

    class Look(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            before.append(weights(module))

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            after.append(weights(module))

    module = trained(tiny, {3: math.nan, 5: math.inf}, Finite("skip"), callbacks=[Look(), EMA(0.9)])
    module.fitted()
    same = [all(map(torch.equal, a, b)) for a, b in zip(before, after, strict=True)]
    assert [step for step, unchanged in enumerate(same) if unchanged] == [3, 5]
    assert module.finite.skipped == 2
    assert all(x.isfinite().all() for x in weights(module))
    counts = {int(state["step"]) for state in module.optimizers().state.values()}
    assert counts == {STEPS - 2}, "nor do the moments know of it"
    assert "at step 4 (epoch 1, batch 1, both counted from 0, seed 0): left out" in capsys.readouterr().err


def test_what_was_left_out_stays_counted_after_an_interruption(tiny, tmp_path: Path) -> None:
    saved = tmp_path / "checkpoint.ckpt"
    undisturbed = trained(tiny, {3: math.nan}, Finite("skip"), callbacks=[Checkpoint(5, str(saved))])
    undisturbed.fitted()
    resumed = trained(tiny, {3: math.nan}, Finite("skip"), ckpt_path=saved, weights_only=True)
    resumed.fitted()
    assert resumed.finite.skipped == 1
    assert all(map(torch.equal, weights(resumed), weights(undisturbed)))


def test_where_nothing_is_trained_any_more_it_ends_all_the_same(tiny) -> None:
    module = trained(tiny, dict.fromkeys(range(500), math.nan), Finite("skip"), steps=500)
    with pytest.raises(NonFinite, match=f"and so for {IN_A_ROW} steps, all left out"):
        module.fitted()
    assert module.global_step == IN_A_ROW - 1


def test_a_late_verdict_names_the_right_step_and_saves_no_spoilt_weights(tiny, tmp_path: Path) -> None:
    """On a GPU: asked at the steps that are logged, 5, 10, ..., and before a checkpoint."""
    module = trained(tiny, {2: math.nan}, Finite(late=True))
    with pytest.raises(NonFinite, match=r"loss is nan.* at step 3 \(epoch 1, batch 0"):
        module.fitted()
    assert module.global_step == 4
    saved = tmp_path / "checkpoint.ckpt"
    module = trained(tiny, {2: math.nan}, Finite(late=True), callbacks=[Checkpoint(1, str(saved))])
    with pytest.raises(NonFinite, match="at step 3"):
        module.fitted()
    assert torch.load(saved, weights_only=True)["global_step"] == 2
    module = trained(tiny, {7: math.nan}, Finite(late=True))
    with pytest.raises(NonFinite, match="at step 8"):
        module.fitted()


def test_importance_learns_nothing_from_a_loss_that_is_no_number() -> None:
    times = Importance(history=2)
    times._reset(3)
    times.learn(torch.tensor([0, 1, 1, 2, 2, 0]), torch.tensor([1.0, 2.0, math.nan, 3.0, math.inf, 1.0]))
    assert times.counts.tolist() == [2, 1, 1]
    assert times.losses.isfinite().all()
