"""Training a decoder: images a second of ours and of what a user would pick instead, on the same batches."""

from __future__ import annotations

from typing import Any

from unclip.bench.fit import Training
from unclip.bench.machine import described
from unclip.bench.measure import Contest
from unclip.bench.peers import PACKAGES, peers


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """A table of ours and the peers that are asked for."""
    ours = Training(request["training"])
    contest = Contest(ours.device, ours.dtype, request["rounds"], request["seconds"])
    contest.enter(ours.way)
    for name, make in peers(ours).items():
        if name in request["peers"]:
            contest.enter(make)
    net = ours.config["model"]["_target_"].rpartition(".")[2]
    size = f"{ours.source.image_channels}x{ours.source.image_size}x{ours.source.image_size}"
    title = f"Training {net} on {size} images, batches of {ours.batch}"
    table = {"title": title, "unit": "images/s", **contest.measured()}
    return {"machine": described(ours.device, PACKAGES), "tables": [table]}
