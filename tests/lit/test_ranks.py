"""One training on any number of processes, whole or sharded, in any number of pieces: the same losses and weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from tests.lit.conftest import (
    SIZE,
    clip_module,
    decoder_module,
    prior_module,
    tiny_clip,
    tiny_embeddings,
)
from tests.ranks import on_ranks
from unclip.callbacks.checkpoint import Checkpoint
from unclip.callbacks.ema import EMA
from unclip.data.synthetic import Synthetic
from unclip.diffusion import Discrete, cosine_betas
from unclip.diffusion.learned import Learned
from unclip.diffusion.times import Importance
from unclip.diffusion.weighting import vlb
from unclip.lit import base
from unclip.lit.optim import align
from unclip.lit.sharding import FullyShard, local, shard
from unclip.nets.blocks import blocks, checkpoint_blocks
from unclip.runs import export

STEPS = 4
CLIPPED = 0.05  # below the gradients' norm, so that clipping changes every step


class Case(NamedTuple):
    """A training: what, on how many ranks, by DDP or sharded, in how many pieces; after: goes on with that one's last
    checkpoint; again: blocks are computed again in the backward pass."""

    kind: str
    ranks: int = 1
    how: str = "ddp"
    pieces: int = 1
    after: Case | None = None
    precision: str = "32-true"
    again: bool = False
    averaged: bool = True

    @property
    def folder(self) -> str:
        own = [self.kind, *map(str, [*self[1:4], *self[5:]])]
        return "-".join([*own, *([self.after.folder] if self.after else [])])


class Told(NamedTuple):
    """Of every step the loss and the gradient's norm, as they are logged; at the end what validation logs."""

    losses: list[float]
    norms: list[float]
    validation: dict[str, float]


class Watch(lightning.Callback):
    def __init__(self) -> None:
        self.found: dict[int, tuple[float, float]] = {}

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        logged = trainer.callback_metrics
        if "train/loss" in logged:  # not before a batch's last piece
            values = float(logged["train/loss"]), float(logged["train/grad_norm"])
            self.found[trainer.global_step] = values


def stage(kind: str) -> tuple[Any, Any]:
    """A tiny stage and its data, the same wherever it is called."""
    data = Synthetic(
        size=100, image_size=SIZE, batch_size=16
    )  # 25 for validation, which ranks cannot share equally
    if kind == "clip":
        return clip_module(data), data
    embeddings = tiny_embeddings(data, tiny_clip().eval())
    if kind == "decoder":
        return decoder_module(embeddings, net={"caption_layers": 1}), data
    if kind == "prior":  # importance has the losses it waits for after a step or two
        return prior_module(embeddings, schedule=Discrete(cosine_betas(4)), times=Importance(history=2)), data
    net = prior_module(embeddings).net
    net.schedule = Learned(hidden=8)
    return prior_module(embeddings, net=net, schedule=net.schedule, weighting=vlb), data


def train(case: Case, root: str) -> Told:
    """As one of the case's ranks; its weights and the checkpoint before its last step are in its folder."""
    module, data = stage(case.kind)
    if case.again:
        checkpoint_blocks(module.net)
    folder, watch = Path(root, case.folder), Watch()
    before = Path(root, case.after.folder, "checkpoint.ckpt") if case.after else None
    folder.mkdir(exist_ok=True)
    strategy: Any = "auto" if case.ranks == 1 else {"sharded": FullyShard(), "ddp": "ddp"}[case.how]
    trainer = lightning.Trainer(
        accelerator="cpu", devices=case.ranks, strategy=strategy, max_steps=STEPS, gradient_clip_val=CLIPPED,
        callbacks=[
            *([EMA(0.9)] if case.averaged else []), watch, Checkpoint(STEPS - 1, str(folder / "checkpoint.ckpt"))
        ],
        accumulate_grad_batches=case.pieces, precision=case.precision, log_every_n_steps=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=before, weights_only=True)
    trainer.validate(module, datamodule=data, verbose=False)
    export.weights(trainer, module, {"stage": {"name": case.kind}}, folder / "weights.safetensors")
    losses, norms = zip(*watch.found.values(), strict=True)
    found = {name: float(x) for name, x in trainer.callback_metrics.items() if name.startswith("val/")}
    return Told(list(losses), list(norms), found)


Trained = Callable[[Case], Told]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def trained(root: Path) -> Trained:
    """What a case's first rank says; each is trained once, after the one that it goes on with."""
    told: dict[Case, Told] = {}

    def result(case: Case) -> Told:
        if case not in told:
            if case.after:
                result(case.after)
            ranks = on_ranks(case.ranks, train, case, str(root)) if case.ranks > 1 else None
            told[case] = ranks[0] if ranks else train(case, str(root))
        return told[case]

    return result


def same_as_alone(case: Case, trained: Trained, root: Path) -> None:
    """To rounding those of an undisturbed process: losses and norms of all its steps, or of the last; what validation
    says of averaged weights; and the file of them, name by name."""
    alone = Case(case.kind, averaged=case.averaged)
    found, expected = trained(case), trained(alone)
    steps = slice(-1 if case.after else 0, None)
    assert found.losses == pytest.approx(expected.losses[steps], rel=1e-4)
    assert found.norms == pytest.approx(expected.norms[steps], rel=1e-3)
    assert min(found.norms) > CLIPPED, "or nothing was clipped"
    assert found.validation == pytest.approx(expected.validation, rel=1e-4)
    weights, others = (load_file(root / c.folder / "weights.safetensors") for c in (case, alone))
    assert list(weights) == list(others)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-3, atol=1e-4)


def slow(*cases: Any) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


def named(case: Case) -> str:
    return case.folder


KINDS = ("clip", "prior", "decoder", "learned")
ONE_PRIOR, SHARDED_PRIOR = Case("prior"), Case("prior", 2, "sharded")


@pytest.mark.parametrize(
    "case",
    [
        Case("prior", 2),
        SHARDED_PRIOR,
        *slow(*(Case(kind, 2, how) for kind in KINDS for how in ("ddp", "sharded") if kind != "prior")),
        *slow(*(Case(kind, 4, how) for kind in ("clip", "prior") for how in ("ddp", "sharded"))),
        *slow(Case("clip", 2, "sharded", averaged=False)),
    ],
    ids=named,
)
def test_processes_train_as_one(case: Case, trained: Trained, root: Path) -> None:
    same_as_alone(case, trained, root)


@pytest.mark.parametrize(
    "case",
    [
        *(Case(kind, pieces=pieces) for kind, pieces in (("prior", 2), ("decoder", 4), ("learned", 2))),
        *slow(Case("prior", 2, "sharded", 2), Case("decoder", 2, "ddp", 4), Case("prior", 4, "ddp", 2)),
    ],
    ids=named,
)
def test_a_batch_in_pieces_is_the_same_batch(case: Case, trained: Trained, root: Path) -> None:
    same_as_alone(case, trained, root)


@pytest.mark.parametrize(
    "case",
    [
        Case("decoder", pieces=2, again=True),
        *slow(Case("decoder", 2, "sharded", again=True), Case("decoder", 2, "ddp", 2, again=True)),
    ],
    ids=named,
)
def test_blocks_that_are_computed_again_train_the_same(case: Case, trained: Trained, root: Path) -> None:
    same_as_alone(case, trained, root)


@pytest.mark.parametrize(
    "case",
    [
        Case("prior", 1, "ddp", 2, SHARDED_PRIOR),
        Case("prior", 2, "sharded", 2, ONE_PRIOR),
        *slow(*(Case(kind, after=Case(kind, 2, "sharded")) for kind in KINDS if kind != "prior")),
        *slow(*(Case(kind, 2, "sharded", after=Case(kind)) for kind in KINDS if kind != "prior")),
    ],
    ids=named,
)
def test_a_run_goes_on_with_other_processes_and_in_other_pieces(
    case: Case, trained: Trained, root: Path
) -> None:
    """Checkpoints of sharded nets are those of one process, weights, moments, averages and all."""
    same_as_alone(case, trained, root)
    assert len(trained(case).losses) == 1, "only the last step is left"


@pytest.mark.parametrize("kind", slow("prior", "decoder"))
def test_sharded_processes_gather_in_the_lower_of_mixed_precisions(kind: str, trained: Trained) -> None:
    """To its rounding what one process does under autocast; what is averaged and saved stays in float32."""
    found, expected = (trained(Case(kind, ranks, "sharded", precision="bf16-mixed")) for ranks in (2, 1))
    assert found.losses == pytest.approx(expected.losses, rel=2e-2)
    assert found.norms == pytest.approx(expected.norms, rel=0.1)
    assert found.validation == pytest.approx(expected.validation, rel=2e-2)


def moved_as_to_a_gpu() -> bool:
    """Whether a sharded U-Net's parts are still rows after a move to a device with another layout of convolutions."""
    base.laid_out = lambda net: net.to(memory_format=torch.channels_last)
    module, _ = stage("decoder")
    shard(module, init_device_mesh("cpu", (1,)))
    return all(local(p).is_contiguous() for p in module.to("cpu").parameters())


def test_a_sharded_net_can_be_moved_to_a_gpu() -> None:
    assert on_ranks(1, moved_as_to_a_gpu) == [True]


def test_a_block_is_what_a_net_has_in_lists() -> None:
    """All of a U-Net's levels and of a transformer's blocks, and none twice."""
    module, _ = stage("decoder")
    inside = [p for block in blocks(module.net) for p in block.parameters()]
    assert len(inside) == len(set(inside))
    lists = [part for part in module.net.modules() if isinstance(part, nn.ModuleList)]
    assert {p for part in lists for p in part.parameters()} == set(inside)
    assert sum(p.numel() for p in inside) > 0.75 * sum(p.numel() for p in module.net.parameters())


def test_moments_are_laid_out_as_their_parameters_are() -> None:
    """Those of a checkpoint are in its writer's memory format, and a fused step goes by memory."""
    weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    moments = optimizer.state[weight]
    kept = moments["exp_avg"].clone()
    moments["exp_avg"] = kept.contiguous()
    align(optimizer)
    assert moments["exp_avg"].stride() == weight.stride()
    assert torch.equal(moments["exp_avg"], kept)
