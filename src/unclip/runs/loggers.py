"""The loggers of a training. Where W&B's server does not answer, its record stays on this machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from unclip.runs.store import Run

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

ANSWER_SECONDS = 30  # to begin with, where WANDB_INIT_TIMEOUT does not say otherwise
UPLOAD_SECONDS = 300  # at the end, for what is not uploaded yet; WANDB_FINISH_TIMEOUT
SILENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}  # read when wandb is imported


def logger_of(node: dict[str, Any], config: dict[str, Any], run: Run) -> Any:
    """The logger that a configuration describes, its files in the run's folder."""
    from unclip import build

    if not node["_target_"].endswith("WandbLogger"):
        return build.make(node, save_dir=str(run.folder), name="", version="")
    import wandb

    stage = config["stage"]["name"]
    known = {
        "save_dir": str(run.folder),
        "id": run.signature,
        "config": config,
    }
    names = {
        "name": f"{stage}-{run.signature}",
        "group": config.get("sweep") or f"{config['experiment']}/{stage}",
        "job_type": stage,
    }
    known |= {key: value for key, value in names.items() if key not in node}
    wandb.setup(wandb.Settings(mode="offline") if node.get("offline") else None)  # quiet from here on
    if node.get("offline"):
        return build.make(node, **known)
    online = build.make(node, settings=_bounded_settings(), **known)
    try:
        _ = online.experiment
    except wandb.errors.Error as error:
        why = (str(error).strip().splitlines() or ["no reason given"])[0]
        later = f"recorded offline, for `wandb sync` of {run.folder / 'wandb'}/offline-run-*"
        print(f"W&B: {why}; {later}", file=sys.stderr)
        wandb.teardown()
        return build.make({**node, "offline": True}, **known)
    return online


def _bounded_settings() -> Any:
    import wandb

    seconds: dict[str, Any] = {
        "init_timeout": float(os.environ.get("WANDB_INIT_TIMEOUT", ANSWER_SECONDS)),
        "finish_timeout": float(os.environ.get("WANDB_FINISH_TIMEOUT", UPLOAD_SECONDS)),
    }
    return wandb.Settings(**seconds, finish_timeout_raises=True)


def finish(trainer: Trainer) -> None:
    """Close W&B's record, also after an error; what could not be uploaded in time stays in the run's folder."""
    from lightning.pytorch.loggers import WandbLogger

    records = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not records:
        return
    import wandb

    for logger in records if trainer.is_global_zero else []:
        record = logger.experiment
        try:
            record.finish()
        except (wandb.errors.Error, TimeoutError, OSError) as error:
            print(f"W&B: {error}; the rest by: wandb sync {record.settings.sync_dir}", file=sys.stderr)
    wandb.teardown()
