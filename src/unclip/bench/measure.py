"""The measuring of all benchmarks: several ways of doing the same work, in turns, in one run on one machine.
What the ways are, the benchmarks say; how it is shown is tables.py's.

A round is so many steps of each way; rounds go through the ways forth and back in turns, so that a machine which gets
faster or slower favours none. FLOP are those of matrix products and convolutions, attention counted as the products
that it is (FlopCounterMode), without what its kernels compute again in the backward pass; what optimizers and norms
add is small and not counted.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from unclip.bench.machine import Peak, timed, wait
from unclip.bench.memory import Memory

Row = dict[str, Any]
Shape = Sequence[int]


@dataclass(frozen=True)
class Way:
    """One way of doing the work. run(n): n steps, and the seconds that they took; `settling` more steps come before
    them, untimed. items: done in a step. ready: called once when all has been counted, to compile, say.
    """

    name: str
    run: Callable[[int], float]
    items: int = 1
    settling: int = 0
    scale: float = 1.0  # of the work that a step stands for to what it does: 100 where it does a hundredth
    parameters: int | None = None
    note: str = ""
    ready: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Absent:
    """A way that cannot be measured here: why, or how to get it."""

    name: str
    why: str


def looped(name: str, step: Callable[[], object], device: torch.device, **facts: Any) -> Way:
    """A way whose step is a call."""
    return Way(name, lambda steps: timed(step, steps, device), **facts)


@dataclass
class Contest:
    """Ways of doing one thing, entered one by one and then measured in turns; the first is ours.

    counts: whether FLOP and memory are of interest; then a way is made, and does its first steps, under the counters.
    peaks: whether the machine's peak is.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    rounds: int = 5
    seconds: float = 1.0  # of a way's part of a round, at least
    counts: bool = True
    peaks: bool = True
    ways: list[Way] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    absent: list[Row] = field(default_factory=list)

    def enter(self, make: Callable[[], Way | Absent]) -> None:
        """Make a way and count what a step of it takes."""
        gc.collect()  # what others left is not to be freed, and so subtracted, in here
        with Memory(self.device) if self.counts else nullcontext() as memory:
            way = make()
            if isinstance(way, Absent):
                self.absent.append({"name": way.name, "absent": way.why})
                return
            if self.counts:
                if not way.settling:
                    way.run(1)  # optimizers have all that they hold from the second step on
                way.run(1)
        if self.counts:
            # apart from memory: what a backward pass computes again is kept while it counts
            with counter() as counted:
                way.run(1)
        row: Row = {"name": way.name, "items": way.items, "parameters": way.parameters, "note": way.note}
        if memory:
            row |= {"held_bytes": memory.held, "step_bytes": memory.peak - memory.held}
            row["flop"] = way.scale * counted.get_total_flops() / (1 + way.settling) / way.items
        self.ways.append(way)
        self.rows.append(row)
        way.ready()

    def measured(self) -> dict[str, Any]:
        """{"peak", "rows"}: the rows in the order of entering, with the seconds a step of each round."""
        peak = Peak(self.device, self.dtype) if self.peaks else None
        steps = [self._steps(way) for way in self.ways]
        took: list[list[float]] = [[] for _ in self.ways]
        flops, bandwidths = [], []
        for number in range(self.rounds):
            gc.collect()
            if peak:
                flops.append(peak.flops())
                bandwidths.append(peak.bandwidth())
            order = list(range(len(self.ways)))
            for i in order if number % 2 == 0 else reversed(order):
                took[i].append(self._round(i, steps[i]) / steps[i])
        ours = [s / self.ways[0].items for s in took[0]]
        for row, way, seconds in zip(self.rows, self.ways, took, strict=True):
            row |= compared([s * way.scale for s in seconds], way.items, ours)
            if "flop" in row:
                row["flops"] = row["flop"] * row["rate"]
                row["times_per_flop"] = row["times"] * self.rows[0]["flop"] / row["flop"]
                row |= {"share": row["flops"] / median(flops)} if peak else {}
        return {**(reached(peak, flops, bandwidths) if peak else {}), "rows": [*self.rows, *self.absent]}

    def _steps(self, way: Way) -> int:
        """Steps of a round; this is also the warm-up."""
        once = way.run(1)
        if once < self.seconds:
            once = way.run(1)
        return max(1, math.ceil(self.seconds / max(once, 1e-9)))

    def _round(self, i: int, steps: int) -> float:
        if self.device.type != "cuda" or not self.counts:
            return self.ways[i].run(steps)
        wait(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        seconds = self.ways[i].run(steps)
        self.rows[i]["step_bytes"] = torch.cuda.max_memory_allocated(self.device) - before
        return seconds


def reached(peak: Peak, flops: list[float], bandwidths: list[float]) -> dict[str, Any]:
    """{"peak"}: what the machine did in each round, and the medians."""
    product = {"dtype": str(peak.dtype).removeprefix("torch."), "rounds": flops, "flops": median(flops)}
    return {"peak": {"product": product, "copy": {"rounds": bandwidths, "bandwidth": median(bandwidths)}}}


def compared(seconds: Sequence[float], items: int, ours: Sequence[float]) -> Row:
    """What the rounds of a way say, seconds a step: items a second (median, least, most), and how many times as fast
    we are, whose rounds took `ours` seconds an item (the median of the rounds' ratios)."""
    rates = [items / s for s in seconds]
    times = [s / items / own for s, own in zip(seconds, ours, strict=True)]
    spread = {"rate": median(rates), "low": min(rates), "high": max(rates)}
    return {"seconds": list(seconds), **spread, "times": median(times)}


def counter() -> FlopCounterMode:
    """Counts floating-point operations of matrix products, convolutions and attention; forward and backward."""

    def forward(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
        return 2 * forward(query, key, value)

    ops = torch.ops.aten
    mapping: dict[Any, Any] = {ops._scaled_dot_product_flash_attention_for_cpu: forward}
    for kernel in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"):
        mapping[getattr(ops, f"_scaled_dot_product_{kernel}_backward")] = backward
    return FlopCounterMode(display=False, custom_mapping=mapping)
