"""The process of one training run: `python -m unclip.runs.job FOLDER`. Everything it needs is in FOLDER/config.yaml.

Hydra is out of it by then: under Hydra, Lightning's DDP would compose the command line again on every rank.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.cli import DONE, FAILED, WRONG_REQUEST
from unclip.runs import endings, loggers
from unclip.runs.process import ATTEMPT, WAIT_SECONDS, end_with_parent, refused, stop_at_once_when_asked
from unclip.runs.store import DAMAGED, Busy, Run, now, provenance

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from unclip.lit.base import Stage


RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")  # by Lightning, torchrun or Slurm


def main(folder: str) -> int:
    """Train the run of this folder to its end, from its checkpoint if there is one."""
    os.environ.update({**loggers.SILENT, **os.environ})
    stop_at_once_when_asked()  # until the trainer takes over: there is nothing to save yet
    run = Run(Path(folder))
    rank = max(int(os.environ.get(name, "0")) for name in RANKS)
    first = rank == 0  # it alone takes the lock and writes the status; the others write only what went wrong
    if not first:
        end_with_parent(signal.SIGKILL)  # without its parent it would wait for the first rank for ever
        if run.state == "finished":
            return DONE  # the first rank ends for the same reason, and waits for no other
    waited = False
    while True:
        try:
            with run.lock() if first else nullcontext():
                written = run.status.get("state") if first else None
                if written == "finished" and run.weights.is_file():
                    print(f"finished by another process meanwhile\nrun: {run.folder}", flush=True)
                    return DONE
                if written == "failed" and waited:
                    return FAILED
                return _attempt(run, rank)
        except Busy as busy:
            if refused(busy):
                return WRONG_REQUEST
        waited = True


def _attempt(run: Run, rank: int) -> int:
    before, started = run.status.get("seconds", 0.0), time.monotonic()

    def seconds() -> float:
        return round(before + time.monotonic() - started, 1)

    try:
        from unclip.callbacks.checkpoint import Stopped
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        why = "torch and torchvision are builds that do not match: install both from one place, as `make setup` does"
        return endings.failed(run, rank, why)
    try:
        if rank == 0:
            run.drop_unfinished()
            attempt = {"attempt": os.environ[ATTEMPT]} if ATTEMPT in os.environ else {}
            run.mark("running", started=now(), error=None, **attempt, **provenance())
        result = _train(run, rank == 0)
        stop_at_once_when_asked()  # the weights are there: a signal must not mark the run as interrupted
        if rank == 0:
            run.mark("finished", finished=now(), seconds=seconds(), **result)
    except Stopped:
        return endings.stopped(run, rank, seconds())
    except Exception as error:
        return endings.broken_off(run, rank, error, seconds())
    if rank == 0:
        with suppress(OSError):  # nor must a file that cannot be removed, or a closed standard output
            run.drop_checkpoints()
            print(f"run: {run.folder}", flush=True)
    return DONE


def _train(run: Run, first: bool) -> dict[str, Any]:
    import torch

    from unclip import build
    from unclip.lit import policy
    from unclip.lit.sharding import FullyShard
    from unclip.runs import export, memory

    quieten()
    config = run.config
    source = build.data(config)
    module = build.stage(config, source)
    module.finite.on_nan = config.get("on_nan", "stop")
    trainer = trainer_of(config, run, module, source)
    sharded = isinstance(trainer.strategy, FullyShard)
    policy.compile_parts(module, config["compile"], trainer.strategy.root_device, sharded)
    resumes = _goes_on_from(run, first)
    if first:
        _same_data(run, source, resumes)
        print(_summary(config, module, run, resumes), flush=True)
    policy.multiply(config.get("matmul", "high"))
    try:
        trainer.fit(module, datamodule=source, ckpt_path=resumes, weights_only=True)
        metrics = _metrics(trainer)
        trainer.validate(module, datamodule=source, verbose=False)
        metrics |= _metrics(trainer)
    except Exception as error:
        if memory.ran_out(error):
            raise memory.out_of_memory(error, trainer, module, source, config) from None
        if why := _lost_rank(trainer, error):
            raise endings.Interrupted(why) from error
        raise
    finally:
        loggers.finish(trainer)
    export.weights(trainer, module, config, run.weights)
    parameters = sum(p.numel() for p in module.net.parameters())
    where = trainer.strategy.root_device
    device = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    skipped = {"skipped": module.finite.skipped} if module.finite.skipped else {}
    return {
        "step": trainer.global_step,
        "parameters": parameters,
        "device": device,
        "metrics": metrics,
        **skipped,
    }


def _lost_rank(trainer: Trainer, error: Exception) -> str | None:
    """How another rank has ended, if the error is that the connection to it is lost; else None."""
    from torch.distributed import DistError

    if not isinstance(error, DistError) and not (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return None
    others = getattr(trainer.strategy.launcher, "procs", [])
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end and all(other.poll() is None for other in others):
        time.sleep(0.05)
    codes = [other.returncode or 0 for other in others]
    others.clear()  # Lightning watches them, and kills this process too, before it could say anything
    for rank, code in enumerate(codes, 1):
        if code < 0:
            return f"rank {rank} was killed by signal {-code}"
    if any(codes):
        return None  # it has said itself why it failed
    return "the connection to another rank is lost"


def _goes_on_from(run: Run, first: bool) -> Path | None:
    """The last whole checkpoint. The first rank reports damaged ones and sets them aside."""
    from unclip.callbacks.checkpoint import damage

    for path in run.checkpoints:
        if (why := damage(path)) is None:
            return path
        if first:
            print(f"{path} is damaged: it {why}", file=sys.stderr)
            path.replace(run.folder / DAMAGED)
    return None


def _same_data(run: Run, source: Any, resumes: Path | None) -> None:
    """Record the fingerprint of the data. Raises Failure if the run resumes on data other than it began with."""
    from unclip.config.problems import Failure
    from unclip.data.fingerprint import fingerprint

    found = fingerprint(*(source.split(name).fingerprint for name in ("train", "validation")))
    before = run.status.get("data", found)
    if resumes and before != found:
        why = "are not what they were when this run began: restore them, or begin again without"
        raise Failure(f"the data of {run.config['data']['_target_']} {why} {resumes.parent}")
    run.mark("running", data=found)


def trainer_of(config: dict[str, Any], run: Run, module: Stage, source: Any) -> Trainer:
    """Lightning's Trainer with the callbacks and loggers of the configuration."""
    from lightning.pytorch.callbacks import LearningRateMonitor

    from unclip import build
    from unclip.runs import torchrun

    settings = config["trainer"] | torchrun.layout()
    every = settings.pop("val_check_interval")
    if isinstance(every, int):
        every *= settings["accumulate_grad_batches"]  # Lightning counts pieces
    settings |= {"val_check_interval": every, "check_val_every_n_epoch": None} if every else {}
    if settings.get("benchmark") is None:
        settings["benchmark"] = not settings.get("deterministic")
    logging = [loggers.logger_of(node, config, run) for node in (config.get("logger") or {}).values() if node]
    supplied = {
        "checkpoint": {"path": str(run.checkpoint)},
        "samples": {"folder": str(run.folder / "samples"), "source": source},
        "fid": {
            "extractor": build.part(config["extractor"]) if config.get("extractor") else None,
            "source": source,
            "cache": str(build.cache(config)),
        },
    }
    callbacks = {
        name: build.make(node, **supplied.get(name, {}))
        for name, node in (config.get("callbacks") or {}).items()
        if node
    }
    if "progress" in callbacks:
        callbacks["progress"].heartbeat = partial(beat, run)
    if not logging:
        callbacks = {k: c for k, c in callbacks.items() if not isinstance(c, LearningRateMonitor)}
    return build.make(
        settings,
        logger=logging,
        callbacks=list(callbacks.values()),
        default_root_dir=str(run.folder),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar="progress" in callbacks,
        enable_checkpointing="checkpoint" in callbacks,
    )


def beat(run: Run, **fields: Any) -> None:
    """Say in status.json that it lives, unless another rank has said meanwhile why it failed."""
    if run.status.get("state") != "failed":
        run.mark("running", **fields)


def _metrics(trainer: Trainer) -> dict[str, float]:
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}


def _summary(config: dict[str, Any], module: Stage, run: Run, resumes: Path | None) -> str:
    count = sum(p.numel() for p in module.net.parameters())
    before = " before the last" if resumes and resumes != run.checkpoint else ""
    how = f"going on from its checkpoint{before}" if resumes else "from the start"
    return f"{config['stage']['name']}: {count / 1e6:.2f}M parameters, {how}, in {run.folder}"


def quieten() -> None:
    """Silence Lightning's banners, and advice that does not apply: one loader without workers is the design here."""
    import logging

    for name in (
        "lightning.pytorch",
        "lightning.fabric",
        "lightning",
        "lightning.pytorch.utilities.rank_zero",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*(does not have many workers|tensorboardX|srun).*")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
