"""A function as the ranks of one training: processes that find one another as torchrun's do and talk by gloo.

They are forked from a server that has imported what they need, so that four cost hardly more than one.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver, set_forkserver_preload
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What function(*arguments) returns on each of `count` ranks. It and what it takes are pickled."""
    set_forkserver_preload([function.__module__])
    forkserver.ensure_running()
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = count, port, folder, function, arguments
        multiprocessing.start_processes(_rank, settings, count, start_method="forkserver")
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(count)]


def _rank(rank: int, count: int, port: int, folder: str, function: Callable[..., Any], given: Any) -> None:
    local = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "GROUP_RANK": 0,
    }
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {name: str(value) for name, value in {**local, **where}.items()}
    torch.set_num_threads(1)
    torch.save(function(*given), Path(folder, str(rank)))
