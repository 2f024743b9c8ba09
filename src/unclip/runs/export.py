"""The final weights of a run: averaged, as safetensors, with the configuration that made them in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unclip.callbacks.ema import averaged
from unclip.data.cache import save_tensors
from unclip.lit.sharding import assembled

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from unclip.lit.base import Stage


def weights(trainer: Trainer, module: Stage, config: dict[str, Any], path: Path) -> None:
    """The first rank writes the net's averaged weights, atomically; the others help to gather them."""
    with averaged(trainer, module):
        state = assembled(module.net.state_dict())
    if not trainer.is_global_zero:
        return
    tensors = {name: t.detach().cpu().clone() for name, t in state.items()}
    metadata = {"format": "pt", "stage": config["stage"]["name"], "config": json.dumps(config)}
    if saved := getattr(getattr(module.net, "tokenizer", None), "saved", None):
        metadata["tokenizer"] = saved  # what was learned from captions: sampling needs no data for it
    save_tensors(path, tensors, metadata)
