"""How fast the processes of a training exchange tensors: `torchrun ... -m unclip.bench.exchange [MEGABYTES] [FILE]`.

What `unclip bench plan calibrate=[FILE]` reads: bytes/s that each process sends and receives at once. Not a benchmark
of ours beside others': it is the machine's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed

from unclip.bench.machine import described, timed
from unclip.bench.tables import on
from unclip.cli import WRONG_REQUEST
from unclip.files import write_json

ROUNDS = 7
DEFAULT = ("64", "outputs/bench/exchange/bench.json")


def main(megabytes: str, file: str) -> int:
    """On every process; the first one prints and writes."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        how = "torchrun --nproc-per-node=2 -m unclip.bench.exchange [MEGABYTES] [FILE]"
        print(f"one process exchanges nothing with others: {how}", file=sys.stderr)
        return WRONG_REQUEST
    local, gpu = int(os.environ["LOCAL_RANK"]), torch.cuda.is_available()
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if gpu else "gloo")
    ranks = distributed.get_world_size()
    found = measured(int(float(megabytes) * 1e6), device)
    result: dict[str, Any] = {
        "bench": "exchange",
        "machine": described(device),
        "backend": distributed.get_backend(),
        "ranks": ranks,
        "nodes": ranks // int(os.environ["LOCAL_WORLD_SIZE"]),
        "megabytes": float(megabytes),
        "rounds": found,
        "bandwidth": min(median(rates) for rates in found.values()),
    }
    distributed.destroy_process_group()
    if os.environ["RANK"] == "0":
        write_json(Path(file), result)
        print(shown(result), f"\n{file}", sep="\n")
    return 0


def measured(size: int, device: torch.device) -> dict[str, list[float]]:
    """Bytes/s that each process sends, by operation and round; each moves `size` bytes of float32 in all."""
    ranks = distributed.get_world_size()
    part = torch.zeros(size // 4 // ranks, device=device)
    whole = torch.zeros(len(part) * ranks, device=device)
    sent = 4 * len(part) * (ranks - 1)
    operations: dict[str, tuple[int, Callable[[], object]]] = {
        "all-reduce": (2 * sent, lambda: distributed.all_reduce(whole)),
        "all-gather": (sent, lambda: distributed.all_gather_into_tensor(whole, part)),
        "reduce-scatter": (sent, lambda: distributed.reduce_scatter_tensor(part, whole)),
    }
    found = {}
    for name, (count, operation) in operations.items():
        timed(operation, 2, device)
        found[name] = [count / timed(operation, 1, device) for _ in range(ROUNDS)]
    return found


def shown(result: dict[str, Any]) -> str:
    """A line an operation."""
    head = f"{result['ranks']} processes on {result['nodes']} nodes, {result['backend']}, {result['megabytes']:g} MB"
    lines = [f"{head}; {on(result['machine'])}", ""]
    for name, rates in result["rounds"].items():
        low, middle, high = (f(rates) / 1e9 for f in (min, median, max))
        lines.append(f"{name:<15} {middle:.3g} GB/s ({low:.3g} - {high:.3g})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(*[*sys.argv[1:], *DEFAULT[len(sys.argv) - 1 :]]))
