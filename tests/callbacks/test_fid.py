"""Distances while training: those of averaged weights, at the chosen steps, the same on any number of processes, and
nothing of them in a checkpoint."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tests.lit.conftest import decoder_module, tiny_clip, tiny_embeddings
from torch import multiprocessing

from unclip.callbacks.checkpoint import Checkpoint
from unclip.callbacks.ema import EMA, averaged
from unclip.callbacks.fid import FID
from unclip.callbacks.samples import SampleGrid, decoded
from unclip.data.embeddings import Embeddings
from unclip.data.synthetic import Synthetic
from unclip.evaluate.distances import frechet, kid
from unclip.evaluate.extractors import RandomNetwork
from unclip.evaluate.pretrained import EvaluationClip
from unclip.lit.decoder import DecoderModule

SILENT: dict[str, Any] = {
    "accelerator": "cpu", "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "limit_val_batches": 0,
}  # fmt: skip


class Verdicts(RandomNetwork):
    """Four features are as good as four classes."""

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images)[:, :4]


@pytest.fixture(scope="module")
def data() -> Synthetic:
    return Synthetic(512, image_size=16, batch_size=32)  # 128 validation images


@pytest.fixture(scope="module")
def embeddings(data: Synthetic) -> Embeddings:
    return tiny_embeddings(data, tiny_clip().eval())


def livened(embeddings: Embeddings) -> DecoderModule:
    """A decoder that has something to say: an untrained one answers zero."""
    module = decoder_module(embeddings, steps=3)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


def callback(data: Synthetic, folder: Path, **options: Any) -> FID:
    return FID(
        **{
            "extractor": Verdicts(num_features=8),
            "source": data,
            "cache": str(folder),
            "budget": None,
            **options,
        }
    )


def test_values_are_those_of_averaged_weights_and_carry_their_n(data, embeddings, tmp_path) -> None:
    module, ema = livened(embeddings), EMA(0.9)
    fid = callback(data, tmp_path, kid=True)
    trainer = lightning.Trainer(callbacks=[ema, fid], logger=False, **SILENT)
    ema.on_fit_start(trainer, module)
    with torch.no_grad():
        next(module.net.parameters()).mul_(0)  # what is trained has moved on since
    found = fid.measure(trainer, module, 60)
    assert set(found) == {"val/fd_n60", "val/kid_n60", "val/consistency_n60"}
    with averaged(trainer, module):
        images = decoded(module, data, range(60))
    real, judge = data.split("validation"), Verdicts(num_features=8)
    features, real_features = judge.features(images), judge.features(real.images)
    assert found["val/fd_n60"] == pytest.approx(frechet(features, real_features).item(), rel=1e-5)
    expected = kid(features, real_features, subsets=20, subset_size=60).value
    assert found["val/kid_n60"] == pytest.approx(expected, rel=1e-4, abs=1e-7)
    right = (judge.logits(images).argmax(1) == real.labels[:60]).double().mean().item()
    assert found["val/consistency_n60"] == pytest.approx(right)
    unaveraged = lightning.Trainer(callbacks=[fid], logger=False, **SILENT)
    assert fid.measure(unaveraged, module, 60)["val/fd_n60"] != pytest.approx(found["val/fd_n60"], rel=1e-3)
    assert fid.measure(trainer, module, 60) == found  # the same noise every time


def test_no_more_samples_are_named_than_there_are(data, embeddings, tmp_path) -> None:
    fid = callback(data, tmp_path, consistency=False)
    trainer = lightning.Trainer(logger=False, **SILENT)
    assert set(fid.measure(trainer, livened(embeddings), 1000)) == {"val/fd_n128"}


def fit(data: Synthetic, module: DecoderModule, folder: Path, callbacks: list[Any]) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_steps=5,
        callbacks=callbacks,
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=100,
        **SILENT,
    )
    trainer.fit(module, data)
    return trainer


def test_it_measures_at_the_chosen_steps_and_at_the_end_and_logs(data, embeddings, tmp_path) -> None:
    fid = callback(data, tmp_path, every_n_steps=2, n=20, n_final=30)
    trainer = fit(data, livened(embeddings), tmp_path, [EMA(), fid])
    assert {"val/fd_n20", "val/fd_n30", "val/consistency_n30"} <= set(trainer.callback_metrics)
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [r["step"] for r in rows if r.get("val/fd_n20")] == ["2", "4"]
    assert [r["step"] for r in rows if r.get("val/fd_n30")] == ["5"]


def test_a_resumed_run_does_not_measure_and_draw_its_checkpoint_again(data, embeddings, tmp_path) -> None:
    """With gradients accumulated: its first piece ends at the step of the checkpoint."""
    saved, quiet = tmp_path / "checkpoint.ckpt", {**SILENT, "enable_checkpointing": True, "logger": False}
    measured: list[int] = []

    class Counted(FID):
        def measure(self, trainer: Any, *_: Any) -> dict[str, float]:
            measured.append(trainer.global_step)
            return {}

    for resumes in (None, saved):
        fid = Counted(2, n_final=0, extractor=Verdicts(num_features=8), source=data, budget=None)
        pictures = SampleGrid(2, 1, 1, str(tmp_path / f"resumed {resumes is not None}"), data)
        callbacks = [fid, pictures, Checkpoint(2, str(saved))]
        trainer = lightning.Trainer(max_steps=3, accumulate_grad_batches=2, callbacks=callbacks, **quiet)
        trainer.fit(decoder_module(embeddings, steps=2), data, ckpt_path=resumes, weights_only=True)
    assert measured == [2]
    assert [p.name for p in (tmp_path / "resumed True").iterdir()] == ["step-000003.png"]


def test_nothing_of_it_is_in_a_checkpoint(data, embeddings, tmp_path) -> None:
    kept = []
    for name, callbacks in (("with", [callback(data, tmp_path, every_n_steps=2, n=8)]), ("without", [])):
        trainer = fit(data, decoder_module(embeddings, steps=2), tmp_path / name, callbacks)
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        content = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        kept.append((set(content["state_dict"]), content["callbacks"], content.keys()))
    assert kept[0] == kept[1]
    sizes = [(tmp_path / f"{name}.ckpt").stat().st_size for name in ("with", "without")]
    assert abs(sizes[0] - sizes[1]) < 1000  # less than the extractor's smallest layer


def test_measuring_changes_nothing_that_is_trained(data, embeddings, tmp_path) -> None:
    weights = []
    for name, callbacks in (("with", [callback(data, tmp_path, every_n_steps=1, n=8)]), ("without", [])):
        module = decoder_module(embeddings, steps=2)
        fit(data, module, tmp_path / name, callbacks)
        weights.append(torch.cat([p.detach().flatten() for p in module.net.parameters()]))
    assert torch.equal(*weights)


def test_an_extractor_that_cannot_judge_is_said_before_training(data, embeddings, tmp_path) -> None:
    module = decoder_module(embeddings)
    wrong = {
        "images of 1 channel: this random network judges images of 3": RandomNetwork(image_channels=3),
        "extractor = clip: its weights are those of the CLIP that conditions": EvaluationClip(
            tiny_clip(), 16, 1
        ),
    }
    for words, extractor in wrong.items():
        with pytest.raises(ValueError, match=words):
            callback(data, tmp_path, extractor=extractor).on_fit_start(None, module)  # type: ignore[arg-type]
    torch.manual_seed(1)
    other = tiny_clip()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    callback(data, tmp_path, extractor=EvaluationClip(other, 16, 1)).on_fit_start(None, module)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        # the first costs 5 seconds; k of them may be there once k * 5 <= a tenth of the training seconds
        (0.1, [10, 100, 150, 200]),
        (None, list(range(10, 205, 10))),
    ],
)
def test_measurements_stay_within_the_budget(data, tmp_path, monkeypatch, budget, expected) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("unclip.callbacks.fid.monotonic", lambda: clock.now)
    fid = callback(data, tmp_path, every_n_steps=10, budget=budget)
    measured = []

    def five_seconds(*_: Any) -> tuple[torch.Tensor, None]:
        clock.now += 5
        measured.append(trainer.global_step)
        return fid.extractor.features(data.split("validation").images[:20]), None

    monkeypatch.setattr(fid, "_samples", five_seconds)
    strategy = SimpleNamespace(broadcast=lambda x: x, barrier=lambda: None)
    trainer: Any = SimpleNamespace(
        global_step=0, estimated_stepping_batches=1000, strategy=strategy, is_global_zero=True, callback_metrics={},
        loggers=[],
    )  # fmt: skip
    module = DecoderModule.__new__(DecoderModule)
    monkeypatch.setattr(DecoderModule, "device", torch.device("cpu"))
    fid.on_train_start(trainer, module)
    for step in range(1, 205):
        clock.now += 1
        trainer.global_step = step
        fid.on_train_batch_end(trainer, module)
    assert measured == expected
    assert fid.spent == 5 * len(expected)


# --- two processes ---------------------------------------------------------------------------------------------


class Recording(Verdicts):
    """Writes down how many images each process has looked at."""

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        with (self.folder / f"seen-by-{os.getpid()}").open("a") as file:  # type: ignore[attr-defined]
            file.write(f"{len(x)}\n")
        return super().embed(x)


def one_rank(rank: int, port: int, data: Synthetic, embeddings: Embeddings, folder: Path) -> None:
    """A process of a training of two, without the training: measures, and saves what it found."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
    }
    torch.set_num_threads(1)
    module = livened(embeddings)
    fid = callback(data, folder, extractor=Recording(num_features=8), kid=True)
    fid.extractor.folder = folder  # type: ignore[union-attr]
    trainer = lightning.Trainer(devices=2, strategy="ddp", callbacks=[fid], logger=False, **SILENT)
    trainer.strategy.setup_environment()
    assert trainer.world_size == 2
    found = [
        fid.measure(trainer, module, n) for n in (128, 75, 20)
    ]  # 20: one chunk, none for the second rank
    seen = [int(line) for line in (folder / f"seen-by-{os.getpid()}").read_text().split()]
    torch.save({"found": found, "seen": sum(seen)}, folder / f"rank-{rank}.pt")
    trainer.strategy.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_value_of_one(data, embeddings, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two = tmp_path / "two"
    two.mkdir()
    multiprocessing.start_processes(one_rank, (port, data, embeddings, two), 2, start_method="fork")
    ranks = [torch.load(two / f"rank-{rank}.pt") for rank in (0, 1)]
    fid = callback(data, tmp_path / "one", kid=True)
    trainer = lightning.Trainer(callbacks=[fid], logger=False, **SILENT)
    module = livened(embeddings)
    for i, n in enumerate((128, 75, 20)):
        expected = fid.measure(trainer, module, n)
        assert expected[f"val/fd_n{n}"] > 1e-4
        for rank in ranks:
            assert rank["found"][i] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # Of 50 samples a chunk (128: 50 + 50 + 28, 75: 50 + 25, 20), for features and for logits, the first rank has
    # 78 + 50 + 20, the second 50 + 25. The 128 real images were seen twice by the first, for moments and for KID's
    # features, and never by the second.
    assert [rank["seen"] for rank in ranks] == [2 * (78 + 50 + 20) + 2 * 128, 2 * (50 + 25)]
