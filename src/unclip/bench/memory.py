"""Bytes that torch allocates for tensors while something runs: at most, and at the end. Not what libraries, code and
the interpreter take: those are the same for everybody who uses them."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when the profiler is first used; it would greet


class Memory:
    """A context: afterwards `peak` and `held`, bytes beyond what was allocated before it.

    On a CPU from the profiler's record of every allocation, which slows what runs inside.
    """

    peak = held = 0

    def __init__(self, device: torch.device):
        self.device = device
        self.profiler: Any = None

    def __enter__(self) -> Memory:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            self.profiler = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.profiler.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.profiler is None:
            torch.cuda.synchronize(self.device)
            self.peak = torch.cuda.max_memory_allocated(self.device) - self.before
            self.held = torch.cuda.memory_allocated(self.device) - self.before
            return
        self.profiler.__exit__(*error)
        changes = [e for e in self.profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        for change in sorted(changes, key=lambda e: e.start_ns()):
            self.held += change.nbytes()
            self.peak = max(self.peak, self.held)
        self.profiler = None
