"""`unclip sample`: text to pictures with finished runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from unclip.cli import DONE
from unclip.config.compose import compose
from unclip.config.problems import Problem, Problems


def main(arguments: list[str]) -> int:
    """Check the request, sample, write pictures."""
    request = compose("sample", arguments).config
    check(request)
    out = folder_of(request, "samples")

    from unclip.report import samples
    from unclip.runs.process import stop_at_once_when_asked
    from unclip.runs.trained import load

    stop_at_once_when_asked("interrupted")
    trained = load(request)
    prompts = request["prompts"] or trained.prompts(samples.PROMPTS)
    drawn = samples.draw(trained, prompts, request["per_prompt"], request["seed"])
    samples.write(drawn, trained, request["seed"], out)
    if request["denoising"]:
        samples.write_denoising(
            trained, prompts[: request["denoising"]], request["seed"], out / "denoising.png"
        )
    of = f" of {len(prompts)} prompt{'s' if len(prompts) > 1 else ''}" if trained.model.clip else ""
    pictures = f"{len(drawn.images)} picture{'s' if len(drawn.images) > 1 else ''}"
    print(f"{pictures}{of}: {out / 'grid.png'}, {out / 'samples.jsonl'}")
    return DONE


def check(request: dict[str, Any]) -> None:
    """The request must name runs that exist and fit, and prompts that say something. Raises Problems."""
    from unclip.runs.references import runs_of

    prompts = request.get("prompts")
    if prompts is not None and (not prompts or not all(p.strip() for p in prompts)):
        raise Problems([Problem("prompts", prompts, "must be a list of captions, none of them empty")])
    decoder = runs_of(request)["decoder"]
    if prompts and not decoder.config.get("clip"):
        why = f"decoder {decoder.signature} is unconditional and reads none: per_prompt=N for N pictures"
        raise Problems([Problem("prompts", prompts, why)])


def folder_of(request: dict[str, Any], kind: str) -> Path:
    """Where results go: out, else beside the run under a name made of the whole request."""
    if request["out"]:
        return Path(request["out"])
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:10]
    beside = Path(request["run"]) if request.get("run") and Path(request["run"]).is_dir() else None
    return (beside or Path(request["paths"]["outputs"])) / f"{kind}-{digest}"
