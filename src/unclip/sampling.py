"""How a trained denoiser is sampled: which sampler, on how many steps, with how much guidance. No formula
of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from unclip.diffusion.denoiser import Denoise, Denoiser
from unclip.diffusion.grid import Grid, make_grid
from unclip.diffusion.guidance import clipped, dynamic_thresholding, guided, within
from unclip.diffusion.learned_variance import LearnedVariance
from unclip.diffusion.sample import Callback, Noise
from unclip.diffusion.self_conditioning import self_conditioned
from unclip.diffusion.variance import Analytic
from unclip.nets.conditions import null


@dataclass(frozen=True)
class Sampler:
    """What conf/sampler/ targets.

    function: a sampler of unclip.diffusion.sample with its own options bound. guidance: s in u + s (c - u),
    1 is off. clip: x0_hat is clipped to [-clip, clip], after guidance; None for embeddings and for no
    clipping. guidance_interval: guidance is on where low < sigma / alpha <= high; None is everywhere.
    guidance_rescale: how far x0_hat gets back the spread it had before guidance. thresholding: the percentile
    of |x0_hat| that is brought within clip, instead of clipping; None is clipping.
    """

    function: Callable[..., Tensor]
    steps: Annotated[int, "steps >= 1"] = 50
    spacing: Literal["leading", "trailing", "linspace", "karras", "log_snr"] | Sequence[float] = "trailing"
    guidance: Annotated[float, "guidance >= 0"] = 1.0
    clip: Annotated[float | None, "clip > 0"] = None
    guidance_interval: Annotated[
        Sequence[float] | None,
        "len(guidance_interval) == 2 and 0 <= guidance_interval[0] < guidance_interval[1]",
    ] = None
    guidance_rescale: Annotated[float, "0 <= guidance_rescale <= 1"] = 0.0
    thresholding: Annotated[float | None, "0 < thresholding <= 1"] = None

    def __post_init__(self) -> None:
        if self.thresholding is not None and self.clip is None:
            raise ValueError(
                f"thresholding = {self.thresholding}: needs clip, the range of the data, and clip is None"
            )

    def __call__(
        self,
        denoiser: Denoiser,
        like: Tensor,
        cond: Mapping[str, Tensor],
        noise: Noise,
        callback: Callback | None = None,
        against: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Samples shaped like `like` (B, *S) under the condition; noise is drawn first for the start, then
        a step. against: the condition that guidance leads away from, a negative prompt's say; None: nothing."""
        grid = self.grid(denoiser)
        against = null(cond) if against is None else against
        with torch.no_grad():
            denoise, options = self.wrapped(denoiser, against)
            start = float(grid.sigma[0]) * noise(like)
            return self.function(denoise, start, grid, cond, noise=noise, callback=callback, **options)

    def grid(self, denoiser: Denoiser) -> Grid:
        """The levels that are walked."""
        return make_grid(denoiser.schedule, self.steps, self.spacing)

    def wrapped(self, denoiser: Denoiser, against: Mapping[str, Tensor]) -> tuple[Denoise, dict[str, Any]]:
        """The denoise function to sample with, guided away from the condition `against` and clipped, and the function's
        further arguments."""
        inner, options = self.asked(denoiser)
        if getattr(denoiser.net, "self_conditioning", False):
            inner = self_conditioned(inner)
        scale = within(self.guidance, *self.guidance_interval) if self.guidance_interval else self.guidance
        denoise = guided(inner, scale, against, schedule=denoiser.schedule, rescale=self.guidance_rescale)
        if self.clip is not None and self.thresholding is not None:
            denoise = dynamic_thresholding(denoise, self.thresholding, self.clip)
        elif self.clip is not None:
            denoise = clipped(denoise, self.clip)
        return denoise, options

    def asked(self, denoiser: Denoiser) -> tuple[Denoise, dict[str, Any]]:
        """The denoise function that is to be guided and clipped, and the sampling function's further arguments."""
        return denoiser, {}

    @property
    def calibrates(self) -> bool:
        """Whether it must see training data, once the net is trained, before it samples."""
        return False

    def calibrated(self, denoiser: Denoiser, x0: Tensor, cond: Mapping[str, Tensor], noise: Noise) -> Sampler:
        """The sampler that samples, after a look at training data x0 (N, *S) under their conditions."""
        return self

    @property
    def refinements(self) -> dict[str, Any]:
        """What else guidance and clipping are given, to be written beside the samples; empty by default."""
        names = ("guidance_interval", "guidance_rescale", "thresholding")
        defaults = {f.name: f.default for f in fields(self)}
        return {name: getattr(self, name) for name in names if getattr(self, name) != defaults[name]}

    def but(self, **changes: Any) -> Sampler:
        """The same sampler with some settings changed; None means unchanged."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})


@dataclass(frozen=True)
class LearnedVarianceSampler(Sampler):
    """For `ddpm`: its variance is what the network predicts in the same pass (Nichol & Dhariwal 2021)."""

    def asked(self, denoiser: Denoiser) -> tuple[Denoise, dict[str, Any]]:
        learned = LearnedVariance(denoiser)
        return learned, {"variance": learned.variance}


@dataclass(frozen=True)
class AnalyticSampler(Sampler):
    """For `ddpm`: the variance of the best Gaussian step, which follows from how far x0_hat is from training data at
    each level of the grid (Bao et al. 2022). It depends on net, steps and spacing, not on the seed of a sample."""

    @property
    def calibrates(self) -> bool:
        return True

    def calibrated(self, denoiser: Denoiser, x0: Tensor, cond: Mapping[str, Tensor], noise: Noise) -> Sampler:
        analytic = Analytic.estimate(denoiser, [(x0, cond)], self.grid(denoiser), noise)
        settings = {f.name: getattr(self, f.name) for f in fields(self)}
        return Sampler(**{**settings, "function": partial(self.function, variance=analytic)})

    def asked(self, denoiser: Denoiser) -> tuple[Denoise, dict[str, Any]]:
        raise ValueError(
            "the analytic variance is not estimated yet: `calibrated`, which loading a prior does"
        )
