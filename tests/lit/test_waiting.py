"""Training and sampling on a device: nothing waits for it, and nothing of a batch comes from the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils._python_dispatch import TorchDispatchMode

from tests.lit.conftest import clip_module, decoder_module, fit, prior_module, tiny_data
from unclip.callbacks.ema import EMA
from unclip.diffusion.sample import ddpm, dpmpp_2m
from unclip.lit import policy
from unclip.sampling import Sampler

WAITING = {"_local_scalar_dense", "nonzero"}  # what bool(), float(), item() and indexing by a mask come to
WARM = 3  # steps, after which tables are copied and moments are there


class Waits(TorchDispatchMode):
    """Refuses what would make the host wait for a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in WAITING, func
        return func(*args, **(kwargs or {}))


@contextmanager
def refused_by_cuda() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Watched(lightning.Callback):
    """Steps from the start of a batch to its end, once warm."""

    def __init__(self, guard: Any):
        self.guard, self.steps = guard, 0
        self.inside: AbstractContextManager[Any] | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        self.steps += 1
        if WARM < self.steps <= WARM + 3:
            self.inside = self.guard()
            self.inside.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.leave()

    def on_exception(self, *_: Any) -> None:
        self.leave()

    def leave(self) -> None:
        if self.inside is not None:
            self.inside.__exit__(None, None, None)
            self.inside = None


def module_of(stage: str, embeddings: Any) -> Any:
    if stage == "prior":
        return prior_module(embeddings)
    return decoder_module(embeddings, net={"caption_layers": 1, "dropout": 0.1})


def trained(stage: str, tiny: Any, guard: Any, **trainer: Any) -> Watched:
    """Three steps are watched: none of them is logged, and after the last one training asks how it went."""
    module, watched = module_of(stage, tiny.embeddings), Watched(guard)
    module.finite.late = True
    data = tiny_data(batch_size=4, flip=0.5, crop_padding=1)
    settings = {"callbacks": [EMA(0.9), watched], "log_every_n_steps": 50, "gradient_clip_val": 1.0}
    fit(module, data, WARM + 4, **{**settings, **trainer})
    assert watched.steps == WARM + 4
    return watched


@pytest.mark.parametrize("stage", ["prior", "decoder"])
def test_a_step_reads_no_value_back(tiny: Any, stage: str) -> None:
    trained(stage, tiny, Waits)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["prior", "decoder"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_on_a_gpu_a_step_waits_for_nothing(tiny: Any, stage: str, precision: str) -> None:
    trained(stage, tiny, refused_by_cuda, accelerator="gpu", devices=1, precision=precision)


@pytest.mark.gpu
@pytest.mark.parametrize("stage", ["prior", "decoder"])
@pytest.mark.parametrize("sampler", [Sampler(ddpm, 6, guidance=1.5), Sampler(dpmpp_2m, 6, guidance=1.5)])
def test_on_a_gpu_sampling_waits_for_nothing_and_draws_the_cpus_noise(
    tiny: Any, stage: str, sampler: Sampler
) -> None:
    module = module_of(stage, tiny.embeddings).eval()
    module.sampler = sampler
    indices = torch.arange(8)
    text = tiny.embeddings.captions(indices)

    def drawn(text: dict[str, Tensor]) -> Tensor:
        if stage == "prior":
            return module.sample(text, indices, seed=1)
        return module.sample(module.condition(text["text"], text), indices, seed=1)

    expected = drawn(text)
    module.cuda()
    on_gpu = {name: x.cuda() for name, x in text.items()}
    drawn(on_gpu)  # tables are copied once
    with refused_by_cuda():
        found = drawn(on_gpu)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("where", ["auto", "gpu"])
def test_on_a_gpu_batches_are_put_together_there_and_are_the_same(where: str) -> None:
    def batches(device: str) -> list[Any]:
        seen: list[Any] = []

        class Seen(lightning.Callback):
            def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, number: int) -> None:
                seen.append({name: x.cpu() for name, x in batch.items()})

        data = tiny_data(batch_size=8, flip=0.5, crop_padding=2, device=device)
        fit(clip_module(data), data, 6, accelerator="gpu", devices=1, callbacks=[Seen()])
        loader = data.train_dataloader()
        assert loader.data.images.device.type == ("cpu" if device == "cpu" else "cuda")
        return seen

    for ours, theirs in zip(batches(where), batches("cpu"), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_no_gradients_are_held_while_activations_are(tiny: Any) -> None:
    """Those of the last step are gone when the next one computes; those of a batch's pieces are kept together."""
    held: list[bool] = []

    class Held(lightning.Callback):
        def on_before_backward(self, trainer: Any, module: Any, loss: Tensor) -> None:
            held.append(any(p.grad is not None for p in module.parameters()))

    module = prior_module(tiny.embeddings)
    fit(module, tiny_data(batch_size=8), 3, callbacks=[Held()], accumulate_grad_batches=2)
    assert held == [False, True] * 3


def test_gradients_are_clipped_by_the_norm_that_is_logged_as_clip_grad_norm_does(tiny: Any) -> None:
    def weights(clips: Any) -> tuple[list[Tensor], float]:
        module, seen = prior_module(tiny.embeddings), []

        class Seen(lightning.Callback):
            def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                seen.append(float(trainer.callback_metrics["train/grad_norm"]))

        if clips:
            module.configure_gradient_clipping = clips  # type: ignore[method-assign]
        fit(
            module,
            tiny_data(batch_size=8),
            4,
            gradient_clip_val=0.01,
            log_every_n_steps=1,
            callbacks=[Seen()],
        )
        return [p.detach() for p in module.parameters()], min(seen)

    def torchs(optimizer: Any, gradient_clip_val: float, gradient_clip_algorithm: Any) -> None:
        clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], gradient_clip_val)

    (ours, norm), (theirs, _) = weights(None), weights(torchs)
    assert norm > 0.01, "or nothing was clipped"
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def test_the_precision_of_products_is_a_setting() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        policy.multiply("highest")
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
        policy.multiply("high")
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize(
    ("wanted", "device", "sharded", "mode", "varying"),
    [
        ("auto", "cpu", False, None, None),
        ("auto", "cuda", False, "default", "default"),
        ("auto", "cuda", True, None, None),
        (True, "cpu", True, "default", "default"),
        (False, "cuda", False, None, None),
        ("reduce-overhead", "cuda", False, "reduce-overhead", "default"),
        ("max-autotune", "cuda", False, "max-autotune", "max-autotune-no-cudagraphs"),
    ],
)
def test_what_a_step_calls_is_compiled_on_a_gpu_or_where_it_is_asked_for(
    tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
    wanted: Any,
    device: str,
    sharded: bool,
    mode: str | None,
    varying: str | None,
) -> None:
    """Not in CUDA graphs, one for each size of a batch, the tower that is given a batch's distinct captions."""
    found: dict[nn.Module, str] = {}
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: found.update({self: mode or "default"}))
    prior, clip = prior_module(tiny.embeddings), clip_module(tiny.data)
    for stage in (prior, clip):
        policy.compile_parts(stage, wanted, torch.device(device), sharded)
    modes = {prior.net: mode, clip.net.image: mode, clip.net.text: varying}
    assert found == (modes if mode else {})
