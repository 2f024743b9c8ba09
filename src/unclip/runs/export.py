"""The final weights of a run: averaged, as safetensors, with the configuration that made them in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from unclip.callbacks.ema import averaged
from unclip.files import write_atomic

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from unclip.lit.base import Stage


def weights(trainer: Trainer, module: Stage, config: dict[str, Any], path: Path) -> None:
    """Write the net's averaged weights, atomically."""
    with averaged(trainer, module):
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in module.net.state_dict().items()}
    metadata = {"format": "pt", "stage": config["stage"]["name"], "config": json.dumps(config)}
    if saved := getattr(getattr(module.net, "tokenizer", None), "saved", None):
        metadata["tokenizer"] = saved  # what was learned from captions: sampling needs no data for it
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
