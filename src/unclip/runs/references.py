"""Which runs a request of `sample` or `evaluate` names, and whether they fit together. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unclip.config.problems import Problem, Problems
from unclip.runs.store import Run
from unclip.runs.upstream import STAGES, only

NO_PRIOR = "none"  # prior=none: the decoder gets the text embedding


def runs_of(request: dict[str, Any]) -> dict[str, Run]:
    """The run of each stage that a request names; no CLIP where it was an untrained one, no prior for prior=none.

    Raises Problems where one is missing or they do not fit together.
    """
    outputs, reference = request["paths"]["outputs"], request.get("run")
    named = {s: request[s] for s in STAGES if request.get(s)}
    if reference:
        named = {**_recorded(reference, outputs), **named}
    if "decoder" not in named:
        raise Problems(
            [Problem("run", reference, "names no decoder; give a results folder, or decoder= and prior=")]
        )
    if "prior" not in named and (own := only(named["decoder"], outputs).config.get("prior")):
        named["prior"] = own  # whose samples it was trained on
    if "prior" not in named:
        why = "a decoder's run does not name its prior: give prior=<signature>, or the results folder of `unclip run`"
        raise Problems([Problem("prior", None, f"{why}, or prior={NO_PRIOR} to do without one")])
    if below := only(named["decoder"], outputs).config.get("autoencoder"):
        named["autoencoder"] = below  # no other decodes its latents
    without = named["prior"] == NO_PRIOR
    runs = {s: only(reference, outputs) for s, reference in named.items() if not (s == "prior" and without)}
    clip = runs["decoder"].config["clip"]
    if not without and (other := runs["prior"].config["clip"]) != clip:
        raise Problems(
            [Problem("prior", named["prior"], f"was trained on CLIP {other}, the decoder on CLIP {clip}")]
        )
    if clip == "random":
        return runs
    if "clip" in runs and (other := runs["clip"].signature) != clip:
        raise Problems(
            [
                Problem(
                    "clip", named["clip"], f"is CLIP {other}, prior and decoder were trained on CLIP {clip}"
                )
            ]
        )
    return {"clip": only(clip, outputs), **{stage: runs[stage] for stage in STAGES[1:] if stage in runs}}


def _recorded(reference: str, outputs: str) -> dict[str, str]:
    for name in ("pipeline.json", "request.json"):
        path = Path(reference) / name
        if path.is_file():
            return {s: r["folder"] for s, r in json.loads(path.read_text(encoding="utf-8"))["stages"].items()}
    run = only(reference, outputs)
    stage = run.config["stage"]["name"]
    if stage != "decoder":
        raise Problems(
            [Problem("run", reference, f"is a run of stage {stage}; sampling starts from a decoder")]
        )
    return {"decoder": str(run.folder)}
