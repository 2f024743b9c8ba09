"""What stands in a training's way is said in one line, and the run is left so that it can go on: a full disk, other
data, numbers that are none, too little memory."""

from __future__ import annotations

import errno
import math
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from tests.lit.conftest import prior_module, tiny_clip, tiny_data, tiny_embeddings

from unclip.callbacks.checkpoint import Checkpoint, OneFile
from unclip.cli import DONE, FAILED
from unclip.data.synthetic import Synthetic
from unclip.lit.classifier import ClassifierModule
from unclip.nets.classifier import Classifier
from unclip.report import deliver
from unclip.runs import job, process, train
from unclip.runs.memory import out_of_memory, ran_out
from unclip.runs.store import Run
from unclip.runs.upstream import request, resolve

SMALL = ["stage=classifier", "data=synthetic", "data.size=64", "data.image_size=16", "data.batch_size=16"]
SMALL += ["model.widths=[8,16]", "logger=none", "trainer=cpu", "trainer.max_steps=12"]
SMALL += ["callbacks.checkpoint.every_n_steps=5", "callbacks.progress=null"]
Trains = Callable[..., tuple[int, Run]]


@pytest.fixture
def trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trains]:
    """`unclip train` in this very process: its exit status, and the run."""
    handlers = {number: signal.getsignal(number) for number in process.ASKED_BY}
    monkeypatch.chdir(tmp_path)
    statuses: list[int] = []
    monkeypatch.setattr(process, "become", lambda module, folder: statuses.append(job.main(folder)))

    def carried_out(*overrides: str) -> tuple[int, Run]:
        composed = request([*SMALL, *overrides])
        config, _ = resolve(composed)
        run = Run.of(config, composed.experiment)
        told = train.start(run, {**config, "experiment": "default"}, "unclip train ...")
        return statuses.pop() if statuses else told, run

    yield carried_out
    for number, handler in handlers.items():
        signal.signal(number, handler)


def last_line(capsys: pytest.CaptureFixture[str], run: Run) -> str:
    """What was said of a failure: one line, and where the run is."""
    said = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("unclip train", "run:"))
    ]
    assert said[-1] == f"run: {run.folder}"
    return said[-2]


def spoil(monkeypatch: pytest.MonkeyPatch, at: int, factor: float) -> None:
    step = ClassifierModule.training_step

    def spoilt(self: ClassifierModule, batch: Any, batch_idx: int) -> torch.Tensor:
        return step(self, batch, batch_idx) * (factor if self.global_step == at else 1.0)

    monkeypatch.setattr(ClassifierModule, "training_step", spoilt)


def test_a_loss_that_is_no_number_ends_the_run_or_is_left_out(trains: Trains, monkeypatch, capsys) -> None:
    spoil(monkeypatch, 7, math.nan)
    status, run = trains()
    assert (status, run.state) == (FAILED, "failed")
    said = last_line(capsys, run)
    assert said.startswith("unclip train: the loss is nan, the norm of its gradients nan at step 8 (epoch ")
    assert "on_nan=skip" in said
    assert run.status["error"] in said
    assert not (run.folder / "error.txt").exists(), "a traceback would say nothing more"
    status, same = trains("on_nan=skip", "retry=true")
    assert (status, same.folder, same.state) == (DONE, run.folder, "finished")
    assert "going on from its checkpoint" in capsys.readouterr().out
    assert same.status["skipped"] == 1


def test_a_full_disk_interrupts_and_the_same_command_goes_on(trains: Trains, monkeypatch, capsys) -> None:
    save = OneFile.save_checkpoint

    def full(self: OneFile, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        if checkpoint["global_step"] > 5:
            raise OSError(28, "No space left on device")
        save(self, checkpoint, path)

    with monkeypatch.context() as patched:
        patched.setattr(OneFile, "save_checkpoint", full)
        status, run = trains()
    assert (status, run.state) == (FAILED, "interrupted")
    what = f"{run.checkpoint}: No space left on device"
    assert last_line(capsys, run) == (
        f"unclip train: {what}: make room; the same command goes on from the last checkpoint"
    )
    assert trains()[0] == DONE
    assert "going on from its checkpoint," in capsys.readouterr().out


@pytest.mark.parametrize("room", [4096, 200_000, 400_000, 800_000])
def test_wherever_in_a_checkpoint_the_disk_is_full_it_is_said_to_be(tmp_path: Path, room: int) -> None:
    """torch complains of the unfinished file instead, where the disk is full in the midst of a tensor."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            OneFile().save_checkpoint({"weights": torch.zeros(200_000)}, tmp_path / "checkpoint.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_output_that_nobody_reads_any_more_interrupts(trains: Trains, monkeypatch, capsys) -> None:
    """`unclip train ... | head`."""

    def left(*_: Any) -> str:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patched:
        patched.setattr(job, "_summary", left)
        status, run = trains()
    assert (status, run.state) == (FAILED, "interrupted")
    assert "what it prints must be read to the end, or go to a file; the same command" in last_line(
        capsys, run
    )


def test_what_comes_after_the_end_does_not_undo_it(trains: Trains, monkeypatch, capsys) -> None:
    mark, handlers = Run.mark, []

    def last(self: Run, state: str, **fields: Any) -> None:
        if state == "finished":
            handlers.append(signal.getsignal(signal.SIGTERM))
        mark(self, state, **fields)

    def refused(self: Run) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Run, "mark", last)
    monkeypatch.setattr(Run, "drop_checkpoints", refused)
    status, run = trains()
    assert (status, run.state) == (DONE, "finished")
    assert not isinstance(getattr(handlers[0], "__self__", None), Checkpoint), "a signal asks to stop no more"


def test_where_nothing_can_be_written_that_is_all_that_is_said(trains: Trains, monkeypatch, capsys) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "outputs/x/status.json")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "mark", full)
        patched.setattr(Run, "prepare", lambda self, config, command: prepare(self, config, command))
        prepare = _only_config
        status, run = trains()
    assert status == FAILED
    assert "outputs/x/status.json: No space left on device: make room" in last_line(capsys, run)


def _only_config(run: Run, config: dict[str, Any], command: str) -> None:
    import yaml

    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_other_data_than_before_are_noticed_where_a_run_goes_on(trains: Trains, monkeypatch, capsys) -> None:
    spoil(monkeypatch, 7, math.nan)
    trains()
    load = Synthetic.load

    def changed(self: Synthetic, split: str) -> Any:
        found = load(self, split)
        if split == "train":
            found.images[3, 0, 2, 1] += 1
        return found

    monkeypatch.setattr(Synthetic, "load", changed)
    capsys.readouterr()
    status, run = trains("on_nan=skip", "retry=true")
    assert (status, run.state) == (FAILED, "failed")
    said = last_line(capsys, run)
    assert "are not what they were when this run began: restore them, or begin again without" in said
    for path in run.checkpoints:
        path.unlink()
    assert trains("on_nan=skip", "retry=true")[0] == DONE, "from the start, on what is there now"


def test_what_nobody_foresaw_has_its_traceback_in_a_file(trains: Trains, monkeypatch, capsys) -> None:
    def broken(self: Any, x: Any) -> Any:
        raise RuntimeError("a bug\nof two lines")

    monkeypatch.setattr(Classifier, "forward", broken)
    status, run = trains()
    assert (status, run.state) == (FAILED, "failed")
    assert last_line(capsys, run) == (
        f"unclip train: RuntimeError: a bug (traceback in {run.folder / 'error.txt'})"
    )
    assert "in broken" in (run.folder / "error.txt").read_text()


# ---- memory -----------------------------------------------------------------------------------------------------


def holding(limit: int, forward: Any) -> Any:
    """A net for whose activations of more than `limit` images there is no memory."""

    def limited(self: Any, x: torch.Tensor) -> torch.Tensor:
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd more lines.")
        return forward(self, x)

    return limited


def test_too_large_a_batch_is_named_with_what_would_fit(trains: Trains, monkeypatch, capsys) -> None:
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", holding(6, forward))
    status, run = trains()
    assert (status, run.state) == (FAILED, "failed")
    assert last_line(capsys, run) == (
        "unclip train: this machine's memory and its limits do not hold a step of 16 images, but one of 6: "
        "data.batch_size=6, another run"
    )
    capsys.readouterr()
    monkeypatch.setattr(Classifier, "forward", forward)
    assert trains("retry=true") == (DONE, run), "the batch norms of trying are not the run's"


AUTOENCODER = {"stage": {"name": "autoencoder"}, "trainer": {}}


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (0, "nor of 1: a smaller model"),
        (
            1,
            "the same run with retry=true; or checkpointing=true, which keeps less and is the same run; or data.",
        ),
        (1, "but one of 1: trainer.accumulate_grad_batches=32 "),
        (11, "but one of 8: trainer.accumulate_grad_batches=4 "),
        (31, "but one of 28: trainer.accumulate_grad_batches=2 "),
        (32, "though a step of 32 images fits by itself"),
    ],
)
def test_what_fits_is_found_by_trying(limit: int, said: str) -> None:
    data = tiny_data(batch_size=32)
    module = prior_module(tiny_embeddings(data, tiny_clip().eval()))
    net = type(module.net)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", enable_checkpointing=False, limit_val_batches=0, **quiet
    )
    trainer.fit(module, data)

    class Limited(net):  # type: ignore[misc, valid-type]
        def forward(self, x: Any, *more: Any) -> Any:
            if len(x) > limit:
                raise torch.OutOfMemoryError("no")
            return super().forward(x, *more)

    module.net.__class__ = Limited
    told = str(out_of_memory(torch.OutOfMemoryError("no"), trainer, module, data, AUTOENCODER))
    assert said in told
    assert "\n" not in told
    module.net.__class__ = net
    assert "log" not in vars(module), "it logs again"
    assert all(p.grad is None for p in module.parameters())


def test_a_cpu_says_so_in_words_of_its_own() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert ran_out(error.value)
    assert ran_out(MemoryError())
    assert not ran_out(RuntimeError("shapes do not match"))


# ---- real disks -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(unclip, small_disk: Path) -> None:
    """A CLIP whose checkpoint is larger than the disk."""
    small = [*SMALL, "stage=clip", "model.width=64", "paths.outputs=disk"]
    small = [o for o in small if o not in ("stage=classifier", "model.widths=[8,16]")]
    done = unclip("train", *small)
    assert done.returncode == FAILED
    assert "Traceback" not in done.stderr
    assert (
        "No space left on device: make room; the same command goes on from the last checkpoint" in done.stderr
    )
    (run,) = (Run(p.parent) for p in small_disk.glob("default/*/config.yaml"))
    assert run.state == "interrupted"
    assert not list(run.folder.glob(".*.new"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    done = unclip("train", *small)
    assert done.returncode == DONE, done.stderr


@pytest.mark.slow
def test_a_folder_that_may_not_be_written_into(unclip, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = unclip("train", *SMALL, "paths.outputs=disk")
    assert done.returncode == FAILED
    assert "Traceback" not in done.stderr
    assert "Read-only file system" in done.stderr
    assert "disk/default" in done.stderr


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "grid.png"), "interrupted"),
        (KeyError("x"), "failed"),
    ],
)
def test_a_full_disk_interrupts_the_results_of_a_whole_run_too(
    error: Exception,
    state: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def raises(_: Path) -> None:
        raise error

    monkeypatch.setattr(deliver, "_deliver", raises)
    monkeypatch.setattr(deliver, "stop_at_once_when_asked", lambda: None)
    Run(tmp_path).mark("running")
    assert deliver.main(str(tmp_path)) == FAILED
    assert Run(tmp_path).state == state
    said = capsys.readouterr().err
    if state == "interrupted":
        assert said == "unclip run: grid.png: No space left on device: make room\n"
    assert (tmp_path / "error.txt").exists() == (state == "failed")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(deliver, "write_text", full)
    monkeypatch.setattr(Run, "mark", full)
    assert deliver.main(str(tmp_path)) == FAILED, "nothing can be written, and that is no other failure"
