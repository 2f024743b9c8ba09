"""Time and memory of the Frechet distance, ours and torchmetrics', on the same features in the same batches.

Run as `python -m unclip.bench.evaluation SIDE N FEATURES BATCH SEED FILE`: one side, measured, as JSON into FILE. What
makes the features is neither timed nor a network."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIDES = ("unclip", "torchmetrics")
DECAY = 0.75  # the i-th standard deviation is i^-0.75: a few directions hold most of the variance, as networks have it


def measured(side: str, n: int, features: int, batch: int, seed: int) -> dict[str, Any]:
    """Seconds and bytes of one side for two sets of n."""
    _warm_up(side, features, batch, seed)
    update, distance = _SIDES[side](features)
    streams = (_batches(n, features, batch, seed, which) for which in (0, 1))
    before, seconds = _peak(), 0.0
    for which, stream in enumerate(streams):
        for part in stream:
            start = time.perf_counter()
            update(part, which)
            seconds += time.perf_counter() - start
    start = time.perf_counter()
    value = distance()
    last = time.perf_counter() - start
    return {
        "value": value,
        "update_seconds": seconds,
        "distance_seconds": last,
        "seconds": seconds + last,
        "peak_bytes": _peak(),
        "own_bytes": _peak() - before,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }


def _warm_up(side: str, features: int, batch: int, seed: int) -> None:
    """Libraries loaded, threads started, and in memory what it takes to make a batch."""
    update, distance = _SIDES[side](16)
    for which in (0, 1):
        for part in _batches(64, 16, 32, seed, which):
            update(part, which)
    distance()
    next(_batches(batch, features, batch, seed, 0))


def _ours(features: int) -> tuple[Callable[[Tensor, int], Any], Callable[[], float]]:
    from unclip.evaluate.distances import StreamedMoments, frechet_distance

    streams = [StreamedMoments(), StreamedMoments()]

    def distance() -> float:
        return frechet_distance(*streams[0].moments, *streams[1].moments).item()

    return lambda part, which: streams[which].update(part), distance


def _torchmetrics(features: int) -> tuple[Callable[[Tensor, int], Any], Callable[[], float]]:
    from torchmetrics.image.fid import FrechetInceptionDistance

    extractor = nn.Identity()
    extractor.num_features = features  # type: ignore[assignment]
    metric = FrechetInceptionDistance(extractor)

    def distance() -> float:
        return float(metric.compute())

    return lambda part, which: metric.update(part, real=which == 0), distance


_SIDES = {"unclip": _ours, "torchmetrics": _torchmetrics}


def _batches(n: int, features: int, batch: int, seed: int, which: int) -> Iterator[Tensor]:
    """Set `which`, (batch, features) float32 at a time, not negative, as after a ReLU; the second is a little off."""
    mixing = torch.randn(features, features, generator=torch.Generator().manual_seed(seed)) / features**0.5
    mixing *= torch.arange(1, features + 1).unsqueeze(1) ** -DECAY * features**0.5
    generator = torch.Generator().manual_seed(seed + 1 + which)
    for start in range(0, n, batch):
        rows = min(batch, n - start)
        yield (torch.randn(rows, features, generator=generator) @ mixing + 0.05 * which).relu()


def _peak() -> int:
    """Bytes this process has had at most, its libraries included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    side, n, features, batch, seed, file = sys.argv[1:]
    result = measured(side, int(n), int(features), int(batch), int(seed))
    Path(file).write_text(json.dumps(result))
