"""What training on many GPUs and pairs would take: a model of compute, exchange, memory and storage, on paper.
Counts of the nets are counts.py's; every other number is a key of conf/bench_plan.yaml or a constant here.

n GPUs, P parameters, B samples a step, b of them on a GPU at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Counts = dict[str, Any]

STATE = 4 + 4 + 8 + 4  # bytes a parameter: weight, gradient, moments, average, all in float32
CAST = 2  # of the bfloat16 copy that autocast keeps until the backward pass
GATHERED = (
    2 + 2 + 4
)  # of a gathered block: weights and gradients in bfloat16, gradients on their way in float32
AHEAD = 2  # blocks that are gathered at once, the next one while this one computes
CHECKPOINT = 4 + 8 + 4  # weight, moments, average; two of them are kept
AGAIN = 4 / 3  # compute, where blocks are computed again in the backward pass
CONTRAST = 4  # matrices (B,B) of float32 that the contrastive loss holds on each GPU
ORDER = 8 + 1 + 16  # bytes a pair that a process draws for an epoch: permutation, flips, shifts
HELD = 8 + 8 + 50  # bytes a pair beside its caption: numbers of caption and class, the string's own


@dataclass(frozen=True)
class Memory:
    """How a stage fits a GPU: bytes, and what had to be done for it. sharded: by FSDP. pieces: in which a GPU's part of
    a batch is computed. None fits where pieces is None."""

    sharded: bool
    recomputed: bool
    pieces: int | None
    state: float
    fixed: float
    activations: float

    @property
    def total(self) -> float:
        return self.state + self.fixed + self.activations


def measure(request: Request) -> Request:
    """The plan with all that it is made of: what is assumed, after calibration, and where that is from; counts."""
    from unclip.bench import counts

    assumed, sources = calibrated(request)
    counted = counts.measure(assumed)
    return {"assumed": assumed, "sources": sources, "counts": counted, **planned(assumed, counted)}


def planned(request: Request, counts: dict[str, Counts]) -> Request:
    """{"stages": rows, "pairs": what a process holds because of the data}. Raises ValueError naming the stage whose
    batch the GPUs do not divide."""
    stages = {n: of_stage(n, s, counts[n], request) for n, s in request["stages"].items()}
    return {"stages": stages, "pairs": of_pairs(request, counts)}


def of_stage(name: str, stage: Request, counts: Counts, request: Request) -> Request:
    """The row of one stage, times in seconds."""
    gpus, batch = request["gpus"], stage["batch"]
    if batch % gpus:
        raise ValueError(f"stages.{name}.batch = {batch}: must be divisible by gpus = {gpus}")
    memory = fitted(stage, counts, request)
    steps = stage["steps"] if request["epochs"] is None else request["epochs"] * request["pairs"] / batch
    compute, travel, exposed = of_time(stage, counts, memory, request)
    moved = exchanged(counts["parameters"], gpus, memory.sharded, memory.pieces or 1)
    stored = bytes_of_pair(counts, request)
    loading = max(
        batch / gpus * decoded_pixels(counts) / (request["decode"] * request["loaders"]),
        batch * stored / request["storage"],
    )
    step = max(compute + exposed, loading)
    return {
        "parameters": counts["parameters"],
        "flop": counts["flop"],
        "gpus": gpus,
        "batch": batch,
        "steps": steps,
        "sharded": memory.sharded,
        "recomputed": memory.recomputed,
        "pieces": memory.pieces,
        "compute": compute,
        "travel": travel,
        "exposed": exposed,
        "loading": loading,
        "step": step,
        "seconds": steps * step,
        "rate": batch / step,
        "state_bytes": memory.state,
        "fixed_bytes": memory.fixed,
        "activation_bytes": memory.activations,
        "memory": memory.total,
        "moved_bytes": moved,
        "read_bytes": stored * batch / step,
        "stored_bytes": stored * request["pairs"],
        "checkpoint_bytes": CHECKPOINT * counts["parameters"],
        "checkpoint_seconds": CHECKPOINT * counts["parameters"] / request["writer"],
    }


def exchanged(parameters: int, gpus: int, sharded: bool, pieces: int = 1) -> float:
    """Bytes that each GPU sends in a step, and receives. DDP: gradients in float32 around a ring, once there and once
    back. FSDP: weights in bfloat16 for each pass forward and backward, gradients in float32 for each pass backward."""
    around = (gpus - 1) / gpus * parameters
    return around * ((2 + 2 + 4) * pieces if sharded else 2 * 4)


def fitted(stage: Request, counts: Counts, request: Request) -> Memory:
    """Of DDP and FSDP, each with and without computing blocks again, in the fewest pieces that fit, the fastest. A
    contrastive batch has no pieces."""
    local, parts = stage["batch"] // request["gpus"], {"ddp": [False], "fsdp": [True]}
    room = request["filled"] * request["memory"]
    ways = [
        of_memory(counts, stage["batch"], local, request["gpus"], sharded, recomputed, room)
        for sharded in parts.get(request["strategy"], [False, True])
        for recomputed in (False, True)
    ]

    def cost(way: Memory) -> tuple[float, int]:
        compute, _, exposed = of_time(stage, counts, way, request)
        return compute + exposed, way.pieces or 0

    possible = [way for way in ways if way.pieces and (way.pieces == 1 or counts["stage"] != "clip")]
    if possible:
        return min(possible, key=cost)
    return replace(min(ways, key=lambda way: way.total), pieces=None)


def of_time(stage: Request, counts: Counts, memory: Memory, request: Request) -> tuple[float, float, float]:
    """Seconds of a step: of computing, of exchanging, and what of that is waited for."""
    gpus = request["gpus"]
    compute = counts["flop"] * stage["batch"] / gpus / (request["peak"] * request["mfu"])
    compute *= AGAIN if memory.recomputed else 1
    moved = exchanged(counts["parameters"], gpus, memory.sharded, memory.pieces or 1)
    travel = moved / (request["link"] if gpus <= request["gpus_per_node"] else request["network"])
    return compute, travel, max(0.0, travel - request["overlap"] * compute)


def of_memory(
    counts: Counts, batch: int, local: int, gpus: int, sharded: bool, recomputed: bool, room: float
) -> Memory:
    """In the fewest pieces that fit into `room` bytes, else in as many as there are samples, with pieces None."""
    parameters = counts["parameters"]
    state = (STATE + CAST) * parameters
    if sharded:
        gathered = counts["rest"] + AHEAD * counts["largest"]
        state = STATE * parameters / gpus + GATHERED * min(gathered, parameters)
    fixed = 4.0 * batch * counts["values"]  # noise is drawn for the whole batch, and cut
    if counts["stage"] == "clip":
        fixed = CONTRAST * 4.0 * batch**2
    each = counts["recomputed" if recomputed else "activations"]
    for pieces in (p for p in range(1, local + 1) if local % p == 0):
        if state + fixed + each * local / pieces <= room:
            return Memory(sharded, recomputed, pieces, state, fixed, each * local / pieces)
    return Memory(sharded, recomputed, None, state, fixed, each)


def bytes_of_pair(counts: Counts, request: Request) -> float:
    """Of a stored picture at the stage's size and its caption; the prior reads embeddings instead."""
    if counts["stage"] == "prior":
        return float(4 * counts["values"] + request["caption"])
    return request["jpeg"] / 8 * counts["image_size"] ** 2 + request["caption"]


def decoded_pixels(counts: Counts) -> int:
    """Of a stored picture; the prior reads none."""
    return 0 if counts["stage"] == "prior" else counts["image_size"] ** 2


def of_pairs(request: Request, counts: dict[str, Counts]) -> Request:
    """Bytes in a process, which keeps captions, order and embeddings of all pairs in memory, and the time in which all
    GPUs make the embeddings."""
    pairs, clip = request["pairs"], counts.get("clip")
    found: Request = {
        "order": ORDER * pairs,
        "captions": (HELD + request["caption"]) * pairs,
    }
    if clip:
        width = clip["embedding"]
        found["image embeddings"] = 4 * width * pairs
        found["text features"] = (4 * width + (4 * clip["token_width"] + 1) * request["context"]) * pairs
        speed = request["gpus"] * request["peak"] * request["mfu"]
        found["embedding_seconds"] = pairs * clip["forward_flop"] / speed
    return found


def calibrated(request: Request) -> tuple[Request, dict[str, str]]:
    """The request with what was measured in the places of what it assumes, and by key where that comes from.

    Of `unclip bench training`: peak and mfu, of its first row. Of `unclip.bench.exchange`: link or network. Raises
    ValueError for a file that is neither.
    """
    found, sources = dict(request), {}
    for name in request["calibrate"]:
        for key, value in _measured(Path(name)):
            found[key], sources[key] = value, name
    return found, sources


def _measured(path: Path) -> Iterator[tuple[str, float]]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["bench"] == "exchange":
            key = "network" if result["nodes"] > 1 else "link"
            yield key, float(result["bandwidth"])
        else:
            table = result["tables"][0]
            share, peak = table["rows"][0]["share"], table["peak"]["product"]["flops"]
            yield "mfu", float(share)
            yield "peak", float(peak)
    except OSError as error:
        raise ValueError(f"calibrate = {path}: {error.strerror}") from None
    except (KeyError, IndexError, TypeError, ValueError):
        why = "is no bench.json of `unclip bench training`, nor of `unclip.bench.exchange`"
        raise ValueError(f"calibrate = {path}: {why}") from None
