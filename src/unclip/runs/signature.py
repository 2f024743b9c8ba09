"""A run's signature: the hash of everything in its configuration that can change its result. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from unclip.config import schema, targets
from unclip.runs.pretrained_clip import identity

LENGTH = 10
NOT_THE_RESULT = {
    "": (
        "paths",
        "logger",
        "retry",
        "dry_run",
        "sweep",
        "experiment",
        "extractor",
        "on_nan",
        "checkpointing",
    ),
    # on_nan: where it would change the result, a run that stops has none
    "trainer": (
        "accelerator",
        "devices",
        "num_nodes",
        "strategy",  # noise and epochs are keyed by sample, not by rank
        "accumulate_grad_batches",  # pieces of the same batch
        "val_check_interval",
        "limit_val_batches",
        "log_every_n_steps",
        "benchmark",  # rounding, as by any other device
    ),
    "data": ("folder", "device"),
}
AS_BEFORE = {
    "times": {"_target_": "unclip.diffusion.times.Uniform"},
    "tokenizer": {"_target_": "unclip.data.tokenizer.ByteTokenizer"},
}  # groups that came later, at their default
TRAINING_CALLBACKS = ("ema",)  # the others watch


def signature(config: dict[str, Any]) -> str:
    """Ten hexadecimal digits of a resolved training configuration whose upstream references are signatures already.

    Keys that equal their default in the target's signature, or in config/schema.py, are left out: an option that is
    added later, with a default that means "as before", does not move any run.
    """
    text = json.dumps(canonical(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def canonical(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what cannot change the result and without defaults."""
    kept = {k: v for k, v in config.items() if k not in NOT_THE_RESULT[""]}
    if kept.get("clip"):
        kept["clip"] = identity(kept["clip"])
    for group in ("trainer", "data"):
        kept[group] = {k: v for k, v in config[group].items() if k not in NOT_THE_RESULT[group]}
    kept["callbacks"] = {k: v for k, v in (config.get("callbacks") or {}).items() if k in TRAINING_CALLBACKS}
    shortened = without_defaults(kept, targets.parameters(f"{schema.__name__}.Train") or {})
    return {k: v for k, v in shortened.items() if k not in AS_BEFORE or v != AS_BEFORE[k]}


def without_defaults(node: dict[str, Any], accepted: dict[str, targets.Parameter]) -> dict[str, Any]:
    """A node without the keys that equal their default, in these parameters or in those of a `_target_` in it."""
    kept = {}
    for key, value in node.items():
        if key in accepted and _same(value, accepted[key].default):
            continue
        if isinstance(value, dict):
            target = value.get("_target_")
            value = without_defaults(value, targets.parameters(target) or {} if target else {})
        kept[key] = value
    return kept


def _same(value: Any, default: Any) -> bool:
    return (type(value) is type(default) and value == default) or (
        value == default and isinstance(value, int | float)
    )
