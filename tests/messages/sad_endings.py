"""Endings that are no request's fault, and what is said of them on stderr; `...` stands for what is long, FOLDER for
the folder. A table; test_messages.py brings them about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

from tests.report.left_by_runs import train_run

from unclip.runs import job, loggers, pipeline, process, search, sweep, train
from unclip.runs.store import Busy, Run


def _damaged_checkpoint(folder: Path) -> None:
    run = Run(train_run(folder / "run", state="interrupted"))
    run.checkpoint.write_bytes(b"no checkpoint")
    assert job._goes_on_from(run, first=True) is None


def _being_trained(folder: Path) -> None:
    run = Run(train_run(folder / "run", state="running", pid=7))
    with run.lock():
        assert train.start(run, {}, "unclip train") == 2


def _results(folder: Path, **status: Any) -> Any:
    attempts = iter([Busy("it is made"), None])

    @contextmanager
    def lock() -> Iterator[int]:
        if busy := next(attempts):
            raise busy
        yield 0

    marked = SimpleNamespace(
        folder=folder, status=status, state_unlocked="failed", mark=lambda *_, **__: None
    )
    return SimpleNamespace(results=SimpleNamespace(**vars(marked), lock=lock))


def _failed_meanwhile(folder: Path) -> None:
    with patch.dict("os.environ", {process.WAIT: "1"}), patch.object(process, "WAIT_SECONDS", 0.0):
        assert pipeline.start(_results(folder, error="no data"), []) == 1


def _made_by_another(folder: Path) -> None:
    assert pipeline.start(_results(folder, pid=7), []) == 2


def _whole_run_stopped(folder: Path) -> None:
    assert pipeline._stopped(130, _results(folder), ["experiment=demo"], None) == 130


def _whole_run_failed(folder: Path) -> None:
    assert (
        pipeline._stopped(1, _results(folder, state="failed", error="no data"), ["experiment=demo"], None)
        == 1
    )


def _trials(stopped: bool) -> Callable[[Path], None]:
    def call(_: Path) -> None:
        failed = SimpleNamespace(state="failed", number=0, label="lr=0.1", error="no data")
        asked: Any = SimpleNamespace(name="quick", command="unclip search quick")
        ledger = SimpleNamespace(trials=lambda: [] if stopped else [failed], counts=lambda: "1 failed")
        assert search._end(asked, ledger, stopped) == (130 if stopped else 1)

    return call


def _cells(_: Path) -> None:
    cell = SimpleNamespace(overrides=["stage=clip"], error="no data", state="failed")
    made: Any = SimpleNamespace(
        broken=None, listed=False, cells=[cell], known=[cell], metrics=[], name="s", verb="train"
    )
    made.record, made.stopped, made.again = None, False, "unclip train -m stage=clip retry=true"
    with patch.object(sweep, "summary", lambda *_: ""), patch.object(sweep, "counts", lambda _: "1 failed"):
        assert sweep.Sweep.end(made) == 1


def _no_server(folder: Path) -> None:
    import wandb

    class Online:
        @property
        def experiment(self) -> Any:
            raise wandb.errors.CommError("")

    node = {"_target_": "lightning.pytorch.loggers.WandbLogger"}
    config = {"stage": {"name": "clip"}, "experiment": "demo"}
    with (
        patch("unclip.build.make", lambda *_, **__: Online()),
        patch.multiple(wandb, setup=MagicMock(), teardown=MagicMock()),
    ):
        loggers.logger_of(node, config, Run(folder))


def _no_upload(_: Path) -> None:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    record = SimpleNamespace(
        settings=SimpleNamespace(sync_dir="wandb/run-1"), finish=MagicMock(side_effect=OSError("no route"))
    )
    logger = MagicMock(spec=WandbLogger, experiment=record)
    with patch.object(wandb, "teardown"):
        loggers.finish(SimpleNamespace(loggers=[logger], is_global_zero=True))  # type: ignore[arg-type]


def _alone(_: Path) -> None:
    from unclip.bench import exchange

    with patch.dict("os.environ", {"WORLD_SIZE": "1"}):
        assert exchange.main("64", "bench.json") == 2


SAID: dict[str, Callable[[Path], None]] = {
    "FOLDER/run/checkpoint.ckpt is damaged: it is not whole: ...": _damaged_checkpoint,
    "unclip train: FOLDER/run is being trained by process 7: wait for it, or stop it": _being_trained,
    "unclip run: this run failed: no data": _failed_meanwhile,
    "unclip run: FOLDER is being made by process 7: wait for it, or stop it": _made_by_another,
    "interrupted; to go on from here: unclip run experiment=demo": _whole_run_stopped,
    "unclip run: stopped by the failure above; when it is mended: unclip run experiment=demo": _whole_run_failed,
    "interrupted; to go on from here: unclip search quick": _trials(stopped=True),
    "unclip search: 1 trial failed:\n  [0] lr=0.1: no data\n"
    "to try failed trials again: unclip search quick retry=true": _trials(stopped=False),
    "unclip train: 1 of the sweep's runs failed:\nunclip train stage=clip\n  no data\n"
    "to try failed runs again: unclip train -m stage=clip retry=true": _cells,
    "one process exchanges nothing with others: torchrun --nproc-per-node=2 -m unclip.bench.exchange [MEGABYTES] "
    "[FILE]": _alone,
    "W&B: no reason given; recorded offline, for `wandb sync` of FOLDER/wandb/offline-run-*": _no_server,
    "W&B: no route; the rest by: wandb sync wandb/run-1": _no_upload,
}  # fmt: skip
