"""The Frechet distance of two sets of features, ours and torchmetrics', on the same features in the same batches. What
makes the features is neither timed nor a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unclip.bench.machine import described
from unclip.bench.measure import Contest, Way, looped

QUICK = {"n": 5_000, "features": 512}
FULL = {"n": 50_000, "features": 2048}  # what published distances are measured with
DECAY = 0.75  # the i-th standard deviation is i^-0.75: a few directions hold most of the variance, as networks have it
CPU = torch.device("cpu")

Side = tuple[
    Callable[[Tensor, int], Any], Callable[[], float]
]  # takes a batch of set 0 or 1; says the distance
Source = Callable[[int], Iterator[Tensor]]  # the batches of set 0 or 1


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Both sides, from features to distance, and the distance alone."""
    sizes = {key: request[key] or (FULL if request["full"] else QUICK)[key] for key in QUICK}
    n, features = sizes["n"], sizes["features"]
    source = partial(batches, **sizes, batch=request["batch"], seed=request["seed"])
    whole = Contest(CPU, torch.float64, request["rounds"], 0.0)
    last = Contest(CPU, torch.float64, request["rounds"], 0.0, counts=False, peaks=False)
    values: dict[str, float] = {}
    for name, side in SIDES.items():
        way = partial(streamed, name, partial(side, features), source, 2 * n, values)
        whole.enter(way)
        last.enter(partial(alone, name, side(features), partial(source, n=min(n, 2 * features))))
    ours, theirs = (values[name] for name in SIDES)
    what = f"of 2 x {n:,} features of {features:,}, {request['batch']} at a time, in float64"
    tables = [
        {"title": f"The Frechet distance {what}", "unit": "features/s", **whole.measured()},
        {
            "title": "Of that, the distance once mean and covariance are there",
            "unit": "distances/s",
            **last.measured(),
        },
    ]
    difference = abs(ours - theirs) / theirs
    remark = f"The values differ by {difference:.1e} of their size (torchmetrics rounds its own to float32)."
    tables[0]["remarks"] = [remark]
    found = {"values": values, "relative_difference": difference, **sizes}
    return {"machine": described(CPU, ["torchmetrics"]), **found, "tables": tables}


def streamed(
    name: str, make: Callable[[], Side], source: Source, items: int, values: dict[str, float]
) -> Way:
    """Both sets through a fresh side, then its distance; the making of the features is not timed."""

    def once() -> float:
        update, distance = make()
        took = 0.0
        for which in (0, 1):
            for part in source(which):
                start = time.perf_counter()
                update(part, which)
                took += time.perf_counter() - start
        start = time.perf_counter()
        values[name] = distance()
        return took + time.perf_counter() - start

    return Way(name, lambda steps: sum(once() for _ in range(steps)), items=items)


def alone(name: str, side: Side, source: Source) -> Way:
    """The distance of what has been taken in."""
    update, distance = side
    for which in (0, 1):
        for part in source(which):
            update(part, which)
    return looped(name, distance, CPU)


def ours(features: int) -> Side:
    """Moments that are added up as the batches come."""
    from unclip.evaluate.distances import StreamedMoments, frechet_distance

    streams = [StreamedMoments(), StreamedMoments()]

    def distance() -> float:
        return frechet_distance(*streams[0].moments, *streams[1].moments).item()

    return lambda part, which: streams[which].update(part), distance


def torchmetrics(features: int) -> Side:
    """Its FrechetInceptionDistance, given features for images."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    extractor = nn.Identity()
    extractor.num_features = features  # type: ignore[assignment]
    metric = FrechetInceptionDistance(extractor)

    def distance() -> float:
        metric._computed = None  # it would give what it remembers
        return float(metric.compute())

    return lambda part, which: metric.update(part, real=which == 0), distance


SIDES = {"unclip": ours, "torchmetrics": torchmetrics}


def batches(which: int, n: int, features: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Set `which`, (batch, features) float32 at a time, not negative, as after a ReLU; the second is a little off."""
    mixing = torch.randn(features, features, generator=torch.Generator().manual_seed(seed)) / features**0.5
    mixing *= torch.arange(1, features + 1).unsqueeze(1) ** -DECAY * features**0.5
    generator = torch.Generator().manual_seed(seed + 1 + which)
    for start in range(0, n, batch):
        rows = min(batch, n - start)
        yield (torch.randn(rows, features, generator=generator) @ mixing + 0.05 * which).relu()
