"""The process of one training run: `python -m unclip.runs.job FOLDER`. Everything it needs is in FOLDER/config.yaml.

Hydra is out of it by then: under Hydra, Lightning's DDP would compose the command line again on every rank.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.cli import DONE, FAILED, INTERRUPTED, WRONG_REQUEST
from unclip.runs.process import ATTEMPT, WAIT, WAIT_SECONDS, stop_at_once_when_asked
from unclip.runs.store import DAMAGED, Busy, Run, now, provenance

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from unclip.lit.base import Stage


RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")  # by Lightning, torchrun or Slurm


def main(folder: str) -> int:
    """Train the run of this folder to its end, from its checkpoint if there is one."""
    os.environ.setdefault("WANDB_SILENT", "true")  # read when wandb is imported
    stop_at_once_when_asked()  # until the trainer takes over: there is nothing to save yet
    run = Run(Path(folder))
    ranks = (os.environ.get(name, "0") for name in RANKS)
    first = all(int(rank) == 0 for rank in ranks)  # other ranks leave lock and status alone
    if not first and run.state == "finished":
        return DONE  # the first finds so too, and calls nobody
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
                return _attempt(run, first)
        except Busy as busy:
            if not os.environ.get(WAIT):
                print(f"unclip train: {busy}", file=sys.stderr)
                return WRONG_REQUEST
        waited = True
        time.sleep(WAIT_SECONDS)


def _attempt(run: Run, first: bool) -> int:
    before, started = run.status.get("seconds", 0.0), time.monotonic()

    def seconds() -> float:
        return round(before + time.monotonic() - started, 1)

    if first:
        run.drop_unfinished()
        attempt = {"attempt": os.environ[ATTEMPT]} if ATTEMPT in os.environ else {}
        run.mark("running", started=now(), error=None, **attempt, **provenance())
    try:
        from unclip.callbacks.checkpoint import Stopped
        from unclip.data.places import DataUnavailable
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        why = "torch and torchvision are builds that do not match: install both from one place, as `make setup` does"
        return _failed(run, first, why)
    try:
        result = _train(run, first)
    except Stopped:
        if first:
            run.mark("interrupted", seconds=seconds())
            print(f"interrupted, saved; the same command goes on from here\nrun: {run.folder}", flush=True)
        return INTERRUPTED
    except DataUnavailable as error:
        return _failed(run, first, str(error))
    except Exception as error:
        if first:
            (run.folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return _failed(run, first, f"{_in_one_line(error)} (traceback in {run.folder / 'error.txt'})")
    if first:
        run.mark("finished", finished=now(), seconds=seconds(), **result)
        run.drop_checkpoints()
        print(f"run: {run.folder}", flush=True)
    return DONE


def _in_one_line(error: BaseException) -> str:
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__  # Hydra's wrapper says less than what it wraps
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[0] if isinstance(error, ValueError) else f"{type(error).__name__}: {lines[0]}"


def _failed(run: Run, first: bool, why: str) -> int:
    if first:
        run.mark("failed", error=why)
        print(f"unclip train: {why}\nrun: {run.folder}", file=sys.stderr)
    return FAILED


def _train(run: Run, first: bool) -> dict[str, Any]:
    import torch

    from unclip import build
    from unclip.lit.sharding import FullyShard
    from unclip.runs import export

    quieten()
    config = run.config
    source = build.data(config)
    module = build.stage(config, source)
    trainer = trainer_of(config, run, module, source)
    compiles = config["compile"]
    if compiles == "auto":  # a sharded net only where it is asked for: each block's gathering breaks the graph
        gathers = isinstance(trainer.strategy, FullyShard)
        compiles = trainer.strategy.root_device.type == "cuda" and not gathers
    if compiles:
        module.net.compile()
    resumes = _goes_on_from(run, first)
    if first:
        print(_summary(config, module, run, resumes), flush=True)
    torch.set_float32_matmul_precision("high")
    try:
        trainer.fit(module, datamodule=source, ckpt_path=resumes, weights_only=True)
        metrics = _metrics(trainer)
        trainer.validate(module, datamodule=source, verbose=False)
        metrics |= _metrics(trainer)
    finally:
        _finish_loggers(trainer)
    export.weights(trainer, module, config, run.weights)
    parameters = sum(p.numel() for p in module.net.parameters())
    where = trainer.strategy.root_device
    device = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    return {"step": trainer.global_step, "parameters": parameters, "device": device, "metrics": metrics}


def _goes_on_from(run: Run, first: bool) -> Path | None:
    """The last whole checkpoint; one that is not is named, and set aside."""
    from unclip.callbacks.checkpoint import damage

    for path in run.checkpoints:
        if (why := damage(path)) is None:
            return path
        if first:
            print(f"{path} is damaged: it {why}", file=sys.stderr)
            path.replace(run.folder / DAMAGED)
    return None


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
    loggers = [_logger(node, config, run) for node in (config.get("logger") or {}).values() if node]
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
        callbacks["progress"].heartbeat = lambda **fields: run.mark("running", **fields)
    if not loggers:
        callbacks = {k: c for k, c in callbacks.items() if not isinstance(c, LearningRateMonitor)}
    return build.make(
        settings,
        logger=loggers,
        callbacks=list(callbacks.values()),
        default_root_dir=str(run.folder),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar="progress" in callbacks,
        enable_checkpointing="checkpoint" in callbacks,
    )


def _logger(node: dict[str, Any], config: dict[str, Any], run: Run) -> Any:
    from unclip import build

    if node["_target_"].endswith("WandbLogger"):
        import wandb

        stage = config["stage"]["name"]
        group = config.get("sweep") or f"{config['experiment']}/{stage}"
        wandb.setup(wandb.Settings(mode="offline") if node.get("offline") else None)  # quiet from here on
        return build.make(
            node,
            save_dir=str(run.folder),
            id=run.signature,
            name=f"{stage}-{run.signature}",
            group=group,
            job_type=stage,
            config=config,
        )
    return build.make(node, save_dir=str(run.folder), name="", version="")


def _metrics(trainer: Trainer) -> dict[str, float]:
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}


def _finish_loggers(trainer: Trainer) -> None:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.finish()
    wandb.teardown()


def _summary(config: dict[str, Any], module: Stage, run: Run, resumes: Path | None) -> str:
    count = sum(p.numel() for p in module.net.parameters())
    before = " before the last" if resumes and resumes != run.checkpoint else ""
    how = f"going on from its checkpoint{before}" if resumes else "from the start"
    return f"{config['stage']['name']}: {count / 1e6:.2f}M parameters, {how}, in {run.folder}"


def quieten() -> None:
    """Lightning's own banners and advice that do not apply: one loader without workers is the design here."""
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
