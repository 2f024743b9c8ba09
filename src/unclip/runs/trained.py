"""Finished runs as a model that samples: from a results folder, a decoder's run, or runs named one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from unclip import build
from unclip.config.problems import Problem, Problems
from unclip.data.latents import Latents
from unclip.data.module import ImageTextData
from unclip.diffusion import make_grid
from unclip.generate import UnCLIP
from unclip.lit.base import DiffusionStage
from unclip.lit.upsampler import UpsamplerModule
from unclip.nets.clip import CLIP
from unclip.runs.pretrained_clip import Reference
from unclip.runs.references import runs_of
from unclip.runs.store import Run
from unclip.runs.upstream import UPSAMPLERS


@dataclass(frozen=True)
class Copiers:
    """What makes copies of real images, as a part of a model or alone: upsamplers, of images of `shown` that are made
    small, and an autoencoder, of those of `data`."""

    upsamplers: Sequence[UpsamplerModule]
    latents: Latents | None
    data: ImageTextData
    shown: ImageTextData
    device: torch.device
    batch_size: int


@dataclass(frozen=True)
class Trained:
    """A model, the data it was trained on, and the runs it consists of.

    shown: the data at the size of the finished pictures, which is another than CLIP's and the decoder's in a cascade.
    """

    model: UnCLIP
    data: ImageTextData
    runs: dict[str, Run]
    shown: ImageTextData

    def prompts(self, count: int) -> tuple[str, ...]:
        """What to draw where nobody names it; for an unconditional decoder one empty caption."""
        return self.data.prompts(count) if self.model.clip else ("",)

    @property
    def copiers(self) -> Copiers:
        model = self.model
        latents, size = model.decoder.latents, model.batch_size
        return Copiers(model.upsamplers, latents, self.data, self.shown, model.device, size)


def load(request: dict[str, Any]) -> Trained:
    """The model that a request of `sample` or `evaluate` names, with its sampling settings, on its device."""
    runs = runs_of(request)
    source = build.data(runs["decoder"].config)
    device = _device(request["accelerator"])
    below = runs["decoder"].config
    if (given := Reference.of(request.get("clip"))) and given.is_file:
        below = {**below, "clip": given.read()}  # the same weights, lying elsewhere
    clip = build.upstream_clip(below, source).to(device) if below.get("clip") else None
    prior = build.trained_prior(runs["prior"], source, clip) if clip and "prior" in runs else None
    decoder = _stage(runs["decoder"], source, clip).to(device)
    upsamplers, shown = [], source
    for name in UPSAMPLERS:
        if name in runs:
            shown = build.data(runs[name].config)
            upsamplers.append(_stage(runs[name], shown).to(device))
    if (there := shown.image_channels) != (here := source.image_channels):
        why = f"enlarges pictures of {there} channels, and the decoder draws {here}"
        raise Problems([Problem("upsampler", None, why)])
    tokenizer = clip.tokenizer if clip else None
    model = UnCLIP(clip, prior, decoder, tokenizer, upsamplers, batch_size=request["batch_size"])
    return resampled(Trained(model, source, runs, shown), request)


def load_alone(run: Run, request: dict[str, Any]) -> Copiers:
    """A finished upsampler or autoencoder by itself."""
    source, device = build.data(run.config), _device(request["accelerator"])
    upsamplers, latents = [], None
    if run.config["stage"]["name"] == "upsampler":
        upsamplers = [_stage(run, source).to(device)]
    else:
        autoencoder: Any = build.trained_net(run, source).to(device)
        latents = Latents(autoencoder)
    return Copiers(upsamplers, latents, source, source, device, request["batch_size"])


def resampled(trained: Trained, request: dict[str, Any]) -> Trained:
    """The same nets with the sampling settings of another request. Raises Problems where the decoder's schedule has no
    such steps."""
    own = trained.model.decoder.sampler
    sampler = build.part(request["sampler"]) if request.get("sampler") else own
    if sampler.calibrates:
        why = "has a variance estimated from training embeddings, for priors alone; possible here: ddpm, ddpm_large"
        raise Problems([Problem("sampler", "ddpm_analytic", why)])
    given = request.get("guidance")
    if trained.model.decoder.latents is not None:  # x0_hat has the range of pixels in pixels alone
        sampler = replace(sampler, clip=None, thresholding=None)
    guidance = given if given is not None else own.guidance
    sampler = sampler.but(guidance=guidance, steps=request.get("steps"))
    try:
        make_grid(trained.model.decoder.schedule, sampler.steps, sampler.spacing)
    except ValueError as error:
        raise Problems([Problem("steps", sampler.steps, str(error))]) from None
    chosen: dict[str, Any] = {
        "rerank": request.get("rerank"),
        "prior_guidance": request.get("prior_guidance"),
    }
    return replace(trained, model=replace(trained.model, sampler=sampler, **chosen))


def _stage(run: Run, source: ImageTextData, clip: CLIP | None = None) -> Any:
    net = build.trained_net(run, source, clip)
    module = build.module(run.config, net, embeddings=None, latents=build.latents(run.config, source))
    assert isinstance(module, DiffusionStage)
    return module.eval()


def _device(accelerator: str) -> torch.device:
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise Problems([Problem("accelerator", "gpu", "this machine has no CUDA GPU; possible: auto, cpu")])
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
