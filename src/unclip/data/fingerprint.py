"""Content hashes: what caches of embeddings and statistics are named after, so that nothing stale is ever
used. Hashes of configurations (the signatures of runs) are made elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def fingerprint(*parts: Any) -> str:
    """sha256 (hex) of strings, numbers, bools, None, tensors and sequences or mappings of these.

    Values of different type or shape never collide by concatenation: each is preceded by its kind and length.
    Mappings are hashed in the order of their keys. Raises TypeError for anything else.
    """
    digest = hashlib.sha256()
    _update(digest, parts)
    return digest.hexdigest()


def module_fingerprint(module: nn.Module) -> str:
    """sha256 of everything that decides what a module in eval mode computes: its class, its parameters and
    buffers, and the plain settings of its parts (a number of heads changes the function without changing any
    weight's shape)."""
    settings = {
        name: {
            "class": type(part).__qualname__,
            **{
                key: value
                for key, value in vars(part).items()
                if isinstance(value, bool | int | float | str)
                and not key.startswith("_")
                and key != "training"
            },
        }
        for name, part in module.named_modules()
    }
    return fingerprint(settings, dict(module.state_dict()))


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}:".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}:".encode())
        for key in sorted(value):
            _update(digest, key)
            _update(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"sequence {len(value)}:".encode())
        for item in value:
            _update(digest, item)
    elif value is None or isinstance(value, bool | int | float | str):
        text = repr(value).encode()
        digest.update(f"{type(value).__name__} {len(text)}:".encode() + text)
    else:
        raise TypeError(f"no fingerprint for a {type(value).__name__}")
