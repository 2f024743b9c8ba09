"""Training and sampling on a GPU in lower precisions, in CUDA graphs, sharded, and twice: the same as plainly.
What is quick on the CPU runs there too, in the same words, though not compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import lightning
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.amp import GradScaler

from tests.lit.conftest import (
    clip_module,
    decoder_module,
    fit,
    prior_module,
    tiny_clip,
    tiny_data,
    tiny_embeddings,
)
from tests.ranks import on_ranks
from unclip.callbacks.checkpoint import Checkpoint
from unclip.callbacks.ema import EMA
from unclip.lit import policy
from unclip.lit.sharding import FullyShard

STEPS, DECAY = 6, 0.3  # a decay that its ramp passes after three steps
SCALE = 256.0  # of a loss in float16, so that no gradient is infinite
ACCELERATOR = {"cpu": "cpu", "cuda": "gpu"}


def on_gpu(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.gpu)


def named(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def module_of(kind: str, data: Any) -> Any:
    """Made and initialised the same at every call."""
    if kind == "clip":
        return clip_module(data)
    embeddings = tiny_embeddings(data, tiny_clip().eval())
    return (
        prior_module(embeddings) if kind == "prior" else decoder_module(embeddings, net={"caption_layers": 1})
    )


class Way(NamedTuple):
    """How a net is computed."""

    device: str
    precision: str = "32-true"
    compile: Any = False


class Watch(lightning.Callback):
    """The loss of each step and the weights after it, and what validation says of the average."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.validation: list[float] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))
        self.weights.append({name: p.detach().double().cpu() for name, p in module.net.named_parameters()})

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.validation.append(float(trainer.callback_metrics["val/loss"]))


def trained(
    kind: str, way: Way, strategy: Any = "auto", leaves: Path | None = None, after: Path | None = None
) -> tuple[Watch, EMA]:
    """STEPS of them, after every second of which what is averaged is validated in the weights' place.

    leaves: a checkpoint, of before the last step; after: one that it goes on from.
    """
    data = tiny_data(batch_size=16)
    module, watch, average = module_of(kind, data), Watch(), EMA(DECAY)
    torch.compiler.reset()
    policy.compile_parts(module, way.compile, torch.device(way.device))
    settings: dict[str, Any] = {
        "accelerator": ACCELERATOR[way.device], "devices": 1, "strategy": strategy, "precision": way.precision,
        "max_steps": STEPS, "log_every_n_steps": 1, "logger": False,
        "gradient_clip_val": 1.0, "val_check_interval": 2, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0,
        "enable_progress_bar": False, "enable_model_summary": False,
        "callbacks": [average, watch, *([Checkpoint(STEPS - 1, str(leaves))] if leaves else [])],
        "enable_checkpointing": bool(leaves),
    }  # fmt: skip
    if way.precision == "16-mixed":
        del settings["precision"]
        settings["plugins"] = [MixedPrecision("16-mixed", way.device, GradScaler(way.device, SCALE))]
    lightning.Trainer(**settings).fit(module, data, ckpt_path=after, weights_only=True)
    return watch, average


def averaged_by_hand(kind: str, weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    average = {name: p.detach().double() for name, p in module_of(kind, tiny_data()).net.named_parameters()}
    for n, now in enumerate(weights, 1):
        decay = min(DECAY, (1 + n) / (10 + n))
        average = {name: decay * x + (1 - decay) * now[name] for name, x in average.items()}
    return average


@pytest.mark.parametrize("kind", ["clip", "prior", "decoder"])
@pytest.mark.parametrize(
    "way",
    [
        Way("cpu", "bf16-mixed"),
        Way("cpu", "16-mixed"),
        on_gpu(Way("cuda", "bf16-mixed")),
        on_gpu(Way("cuda", "16-mixed")),
        on_gpu(Way("cuda", "32-true", "auto")),
        on_gpu(Way("cuda", "bf16-mixed", "reduce-overhead")),
    ],
    ids=named,
)
def test_faster_ways_train_as_eager_float32_does(kind: str, way: Way) -> None:
    """To the rounding of the lower precision; and the average is that of the weights as they were, though it has taken
    their place, which graphs know by its address, for validation."""
    (found, average), (expected, _) = trained(kind, way), trained(kind, Way(way.device))
    assert found.losses == pytest.approx(expected.losses, rel=0.03)
    assert found.validation == pytest.approx(expected.validation, rel=0.03)
    assert len(found.validation) == STEPS // 2
    by_hand = averaged_by_hand(kind, found.weights)
    for name, x in average.average.items():
        torch.testing.assert_close(x.double().cpu(), by_hand[name], rtol=1e-4, atol=1e-6)
    last = found.weights[-1]
    assert any(not torch.equal(x, last[name]) for name, x in by_hand.items()), "or nothing was averaged"


def sharded(device: str, path: Path) -> list[float]:
    """The losses of a sharded training, on one rank, that leaves its checkpoint before the last step."""
    return trained("prior", Way(device), FullyShard(), leaves=path)[0].losses


@pytest.mark.parametrize("device", ["cpu", on_gpu("cuda")])
def test_a_sharded_run_trains_as_any_other_which_goes_on_from_its_checkpoint(
    device: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.ckpt"
    (losses,) = on_ranks(1, sharded, device, path)
    plain, expected = trained("prior", Way(device))
    rest, average = trained("prior", Way(device), after=path)
    assert losses == pytest.approx(plain.losses, rel=1e-3)
    assert rest.losses == pytest.approx(plain.losses[-1:], rel=1e-3)
    for name, x in expected.average.items():
        torch.testing.assert_close(average.average[name], x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["prior", "decoder"])
@pytest.mark.parametrize(
    "way", [Way("cpu"), on_gpu(Way("cuda")), on_gpu(Way("cuda", compile="reduce-overhead"))], ids=named
)
def test_samples_of_a_seed_are_the_same_twice(kind: str, way: Way) -> None:
    data = tiny_data()
    module = fit(module_of(kind, data), data, 2).eval().to(way.device)
    torch.compiler.reset()
    policy.compile_parts(module, way.compile, torch.device(way.device))
    indices = torch.arange(8)
    text = {name: x.to(way.device) for name, x in module.embeddings.captions(indices).items()}

    def drawn(seed: int) -> Tensor:
        given = text if kind == "prior" else module.condition(text["text"], text)
        return module.sample(given, indices, seed=seed).clone()

    first, other, again = drawn(1), drawn(2), drawn(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
