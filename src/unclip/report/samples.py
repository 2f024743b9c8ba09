"""Sampling as files: one PNG each, samples.jsonl, the labelled grid and the reverse process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.data.images import to_uint8
from unclip.files import write_text
from unclip.lit.upsampler import UpsamplerModule
from unclip.progress import Bar
from unclip.report.pictures import grid, picture, save
from unclip.runs.trained import Trained

GRID_COLUMNS = 10
POINTS = 10  # of the reverse process
PROMPTS = 20  # where none are named and captions are many


@dataclass(frozen=True)
class Samples:
    """Pictures, uint8 (n,C,H,W), prompt by prompt."""

    images: Tensor
    prompts: tuple[str, ...]
    per_prompt: int

    @property
    def prompt_ids(self) -> Tensor:
        return torch.arange(len(self.prompts)).repeat_interleave(self.per_prompt)


def draw(
    trained: Trained, prompts: Sequence[str], per_prompt: int, seed: int, embeddings: Tensor | None = None
) -> Samples:
    """Sample with a progress bar. embeddings: the prior's samples, where they are there already."""
    with Bar("sampling", len(prompts) * per_prompt) as bar:
        images = trained.model.sample(prompts, per_prompt, seed, bar.update, embeddings=embeddings)
    return Samples(images, tuple(prompts), per_prompt)


def write(samples: Samples, trained: Trained, seed: int, folder: Path) -> None:
    """Write samples/*.png, grid.png and samples.jsonl: file, prompt, index, seed, sampler, steps, guidance, weights.
    Samples of an earlier request in the same folder do not stay."""
    sampler = trained.model.sampler or trained.model.decoder.sampler
    common = {
        "seed": seed,
        "sampler": getattr(sampler.function, "func", sampler.function).__name__,
        "steps": sampler.steps,
        "guidance": sampler.guidance,
        **sampler.refinements,
        **cascade(trained.model.upsamplers),
        "weights": {stage: _sha256(run.weights) for stage, run in trained.runs.items()},
    }
    lines = []
    for i, (image, prompt) in enumerate(zip(samples.images, samples.prompt_ids.tolist(), strict=True)):
        name = f"samples/{i:05d}.png"
        save(picture(image), folder / name)
        lines.append(json.dumps({"file": name, "prompt": samples.prompts[prompt], "index": i, **common}))
    for path in (folder / "samples").glob("[0-9]" * 5 + ".png"):
        if int(path.stem) >= len(lines):
            path.unlink()  # of an earlier request for more: whoever evaluates the folder would mix them in
    write_text(folder / "samples.jsonl", "\n".join(lines) + "\n")
    columns = min(samples.per_prompt, GRID_COLUMNS)
    shown = samples.images.unflatten(0, (len(samples.prompts), samples.per_prompt))[:, :columns].flatten(0, 1)
    save(grid(shown, columns, rows=samples.prompts), folder / "grid.png")


def write_denoising(trained: Trained, prompts: Sequence[str], seed: int, path: Path) -> None:
    """One row per prompt: x_t of its first sample at ten points of the reverse process, the result last."""
    states: list[tuple[float, Tensor]] = []

    def remember(step: int, t: float, x: Tensor, x0: Tensor) -> None:
        states.append((float(t), to_uint8(trained.model.decoder.pixels(x)).cpu()))

    final = trained.model.sample(prompts, 1, seed, callback=remember)
    chosen = torch.linspace(0, len(states) - 1, min(POINTS - 1, len(states))).round().int().tolist()
    columns = [(t, larger(x, final.shape[-1])) for t, x in (states[i] for i in chosen)]
    headings = [*(f"t = {t:.3g}" for t, _ in columns), "result"]
    rows = torch.stack([*(x for _, x in columns), final], dim=1)  # (prompts, points, C,H,W)
    save(grid(rows.flatten(0, 1), len(headings), rows=prompts, headings=headings), path)


def larger(images: Tensor, size: int) -> Tensor:
    """uint8 (n,C,Y,X) -> (n,C,size,size) by repeating pixels: a decoder's pictures beside those of its cascade."""
    times = size // images.shape[-1]
    return images.repeat_interleave(times, -1).repeat_interleave(times, -2)


def cascade(upsamplers: Sequence[UpsamplerModule]) -> dict[str, Any]:
    """What the upsamplers are and how they are sampled; empty where there are none."""
    found = [
        {
            "size": upsampler.net.image_size,
            "factor": upsampler.net.factor,
            "sampler": getattr(upsampler.sampler.function, "func", upsampler.sampler.function).__name__,
            "steps": upsampler.sampler.steps,
            "corruption": type(upsampler.corruption).__name__,
            "strength": upsampler.strength,
        }
        for upsampler in upsamplers
    ]
    return {"upsamplers": found} if found else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def settings(trained: Trained) -> dict[str, Any]:
    """What defines the samples, for metrics.json."""
    sampler = trained.model.sampler or trained.model.decoder.sampler
    return {
        "sampler": getattr(sampler.function, "func", sampler.function).__name__,
        "steps": sampler.steps,
        "spacing": sampler.spacing,
        "guidance": sampler.guidance,
        "clip": sampler.clip,
        **sampler.refinements,
        **_prior(trained),
        **cascade(trained.model.upsamplers),
        "runs": {stage: run.signature for stage, run in trained.runs.items()},
    }


def _prior(trained: Trained) -> dict[str, Any]:
    model = trained.model
    if model.clip is None:
        return {"prior": "none: unconditional"}
    if model.prior is None:
        return {"prior": "none: text embeddings"}
    guidance = model.prior.guidance if model.prior_guidance is None else model.prior_guidance
    off = {} if guidance == 1 else {"prior_guidance": guidance}
    return {"rerank": model.rerank or model.prior.rerank, **model.prior.settings, **off}
