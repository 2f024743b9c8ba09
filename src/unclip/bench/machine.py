"""The machine under a benchmark: its name, and how fast a large matrix product and a large copy run on it.
What is measured on it is measure.py's."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

SIDE = {"cuda": 8192, "cpu": 2048}  # of the square matrices that are multiplied
COPIED = {"cuda": 2**30, "cpu": 2**28}  # bytes, far beyond any cache
VERSIONS = ("torch", "lightning", "numpy")


def described(device: torch.device, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Device, threads, and versions of what computes; `packages` of which are named where they are installed. load: how
    many processes ran in the last minute; those of the benchmark are among them.
    """
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    memory = {"gpu_bytes": gpu.total_memory} if gpu else {}
    return {
        "device": gpu.name if gpu else device.type,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        **memory,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: found for name in (*VERSIONS, *packages) if (found := version(name))},
    }


def processor() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def wait(device: torch.device) -> None:
    """Until the device has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds of so many steps, the device waited for before and after."""
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return time.perf_counter() - start


class Peak:
    """A product of two large square matrices, and a copy of a large array, in one dtype on one device."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        n = SIDE[device.type]
        self.device, self.dtype = device, dtype
        self.a, self.b, self.product = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
        self.source = torch.zeros(COPIED[device.type], dtype=torch.uint8, device=device)
        self.target = self.source.clone()

    def flops(self, seconds: float = 0.3) -> float:
        """Floating-point operations a second of the product: 2 n^3 each."""
        return 2 * len(self.a) ** 3 / self._each(lambda: torch.mm(self.a, self.b, out=self.product), seconds)

    def bandwidth(self, seconds: float = 0.3) -> float:
        """Bytes a second of the copy, read and written."""
        return 2 * len(self.source) / self._each(lambda: self.target.copy_(self.source), seconds)

    def _each(self, step: Callable[[], object], seconds: float) -> float:
        once = timed(step, 1, self.device)
        steps = max(2, round(seconds / once))
        return timed(step, steps, self.device) / steps
