"""Wrappers around a denoise function: each takes one and gives one, so they nest. No sampler.
Pixels want `clipped(guided(denoise, scale, null), 1)`, in that order: it is guidance that overshoots.

All act on x0_hat. What is affine in it at a given x_t (`guided`, `autoguided`, `classifier_guided`) is the
same guidance in eps or v. Clipping, thresholding and rescaling are not affine: they are about the picture
that x0_hat is, and in eps or v would be something else.

A scale is a number, or a function of log_snr (B,) -> (B,) such as `ramp` and `within` give: then the wrapper
needs the schedule of t. Where such a function says "off" for a whole batch, the second pass is saved if t is
on the CPU. On an accelerator it runs and counts for nothing: reading t there would stop the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32, over
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.schedule import Schedule, log_snr

Scale = float | Callable[[Tensor], Tensor]
LogProb = Callable[[Tensor, Tensor, Cond], Tensor]  # x_t (B, *S), t (B,), cond -> log p(y | x_t) (B,)

# ---- two estimates -------------------------------------------------------------------------------------


@bounded
def guided(
    denoise: Denoise,
    scale: Scale,
    null_cond: Cond,
    *,
    schedule: Schedule | None = None,
    rescale: Annotated[float, "0 <= rescale <= 1"] = 0.0,
) -> Denoise:
    """Classifier-free guidance u + scale (c - u) on x0_hat (Ho & Salimans 2022, eq. 6, whose w is scale - 1).

    scale: 1 means off: `denoise` itself, no second pass. Otherwise one forward pass on the batch twice, once
        with `cond` and once with `null_cond`: x_t and t are the same. The two are joined once for all calls in
        a row with the same `cond`, whose tensors must not change, unless gradients are recorded.
    null_cond: cond's keys and shapes, with only the condition dropped; or the condition of a negative prompt,
        which the samples then keep away from.
    rescale: phi of Lin et al. 2024, eq. 15 and 16: how far the standard deviation of each guided x0_hat, over
        all its elements, is brought back to that of c. Theirs is of v, which at alpha = 0, where guidance
        overexposes most, is -x0_hat: the same there. Elsewhere, rescaling v or eps would scale the noise in
        x_t with it, which guidance did not add.
    """
    _check(scale, schedule)
    if scale == 1:
        return denoise

    last: tuple[Cond, dict[str, Tensor]] | None = None  # a condition, and it joined with null_cond

    def denoise_guided(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        nonlocal last
        if cond is None or null_cond is None or cond.keys() != null_cond.keys():
            given, null = (sorted(c) if c is not None else None for c in (cond, null_cond))
            raise ValueError(f"guidance needs cond and null_cond of the same keys: {given} and {null}")
        s = _at(scale, schedule, t)
        if _known_to_be(1, s):
            return denoise(x_t, t, cond)
        if last is None or last[0] is not cond or torch.is_grad_enabled():  # a sampler's steps share it
            last = cond, {key: torch.cat([cond[key], null_cond[key]]) for key in cond}
        c, u = at_least_float32(denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), last[1])).chunk(2)
        x0 = _away(u, c, s)
        return _rescaled(x0, c, rescale) if rescale > 0 else x0

    return denoise_guided


def autoguided(
    denoise: Denoise, weaker: Denoise, scale: Scale, *, schedule: Schedule | None = None
) -> Denoise:
    """weak + scale (strong - weak), weak of a smaller or less trained model of the same data, degraded as the
    strong one is (Karras et al. 2024, eq. 3, whose w is scale). 1 means off. Both get the same x_t, t and
    cond, unconditional ones too; two forward passes."""
    _check(scale, schedule)
    if scale == 1:
        return denoise

    def denoise_autoguided(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        s = _at(scale, schedule, t)
        strong = at_least_float32(denoise(x_t, t, cond))
        return strong if _known_to_be(1, s) else _away(weaker(x_t, t, cond).to(strong), strong, s)

    return denoise_autoguided


def _away(weak: Tensor, strong: Tensor, s: float | Tensor) -> Tensor:
    return torch.lerp(weak, strong, over(s, strong).to(strong) if isinstance(s, Tensor) else s)


def _rescaled(x0: Tensor, c: Tensor, phi: float) -> Tensor:
    """phi of the way to the spread of c; what has no spread stays."""
    spread = x0.flatten(1).std(1, correction=0)
    factor = torch.where(spread > 0, c.flatten(1).std(1, correction=0) / spread, 1)
    return over(1 + phi * (factor - 1), x0) * x0


# ---- a gradient ----------------------------------------------------------------------------------------


def classifier_guided(denoise: Denoise, schedule: Schedule, log_prob: LogProb, scale: Scale) -> Denoise:
    """eps_hat - scale sigma grad_x_t log p(y | x_t) (Dhariwal & Nichol 2021, algorithm 2), on x0_hat:

        x0_hat + scale sigma^2 / alpha grad_x_t log p(y | x_t)

    log_prob: of the y that is wanted, from x_t as noisy as it is at t; differentiable. 0 means off; 1 on the
    exact denoiser of all data gives that of the data with that y. None where alpha = 0: x_t says nothing of
    y there. It goes around `guided`, not inside, whose batch is twice as long.
    """
    _check(scale, schedule)
    if scale == 0:
        return denoise

    def denoise_guided(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        s = _at(scale, schedule, t)
        x0 = denoise(x_t, t, cond)
        if _known_to_be(0, s):
            return x0
        alpha, sigma = schedule(t)
        gain = torch.where(alpha > 0, sigma**2 / alpha, 0)
        return x0 + over(s * gain, x_t) * _gradient(log_prob, x_t, t, cond)

    return denoise_guided


def clip_guided(
    denoise: Denoise,
    schedule: Schedule,
    encode_image: Callable[[Tensor, Tensor], Tensor],
    text_embedding: Tensor,
    scale: Scale,
) -> Denoise:
    """Classifier guidance by the dot product of two embeddings (Nichol et al. 2022, section 2.4): of x_t, by
    a CLIP whose image tower was trained on noised images, and of the text.

    encode_image: x_t (B, *S), t (B,) -> (B, D), differentiable. text_embedding: (B, D), or (D,) for one text.
    """

    def similarity(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return (encode_image(x_t, t) * text_embedding).sum(-1)

    return classifier_guided(denoise, schedule, similarity, scale)


def _gradient(log_prob: LogProb, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Of log_prob by x_t, (B, *S), recorded nowhere else; also where a sampler or the caller records none."""
    with torch.inference_mode(False), torch.enable_grad():
        # clones: tensors made under inference_mode cannot enter a graph
        x = at_least_float32(x_t).detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(log_prob(x, t.clone(), cond).sum(), x)
    return gradient


# ---- the range of the data -----------------------------------------------------------------------------


@bounded
def clipped(denoise: Denoise, limit: Annotated[float, "limit > 0"]) -> Denoise:
    """x0_hat within [-limit, limit], the range of the data (Ho et al. 2020's code; "static thresholding")."""

    def denoise_clipped(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return denoise(x_t, t, cond).clamp(-limit, limit)

    return denoise_clipped


@bounded
def dynamic_thresholding(
    denoise: Denoise,
    percentile: Annotated[float, "0 < percentile <= 1"] = 0.995,
    limit: Annotated[float, "limit > 0"] = 1.0,
) -> Denoise:
    """Clip each sample at s, that percentile of its own |x0_hat|, and divide by s / limit; where s is below
    limit, which is the range of the data, `clipped` (Saharia et al. 2022, section 2.3). For pixels at large
    guidance scales, instead of `clipped`: what overshoots pulls the rest inwards rather than saturate."""

    def denoise_thresholded(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        x0 = denoise(x_t, t, cond)
        size = x0.flatten(1).abs().sort(dim=1).values  # torch.quantile refuses more than 2^24 elements
        place = percentile * (size.shape[1] - 1)
        below, above = size[:, math.floor(place)], size[:, math.ceil(place)]
        s = over(torch.lerp(below, above, place % 1).clamp(min=limit), x0)
        return x0.clamp(-s, s) * (limit / s)

    return denoise_thresholded


# ---- another schedule ----------------------------------------------------------------------------------


def retimed(denoise: Denoise, trained: Schedule, sampling: Schedule) -> Denoise:
    """A denoiser of one schedule walked along another: at t' of equal log-SNR, x times alpha' / alpha.

    That is written as the ratio of sqrt(alpha^2 + sigma^2), its equal at equal log-SNR, which is defined at
    alpha = 0 too and is 1 between variance-preserving schedules.
    """

    def denoise_retimed(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        t_trained = trained.t_at(log_snr(sampling, t))
        ratio = torch.hypot(*trained(t_trained)) / torch.hypot(*sampling(t))
        return denoise(over(ratio, x_t) * x_t, t_trained, cond)

    return denoise_retimed


# ---- scales --------------------------------------------------------------------------------------------


@bounded
def ramp(
    start: Annotated[float, "start >= 0"],
    end: Annotated[float, "end >= 0"],
    shape: Literal["linear", "cosine"] = "linear",
    noise: float = -10.0,
    data: float = 10.0,
) -> Scale:
    """A scale that goes from `start` where log_snr <= noise to `end` where log_snr >= data, along a line or
    half a cosine. Increasing ones do best (Wang et al. 2024, section 4), which run from 0 to twice the
    constant scale they replace."""
    if shape not in ("linear", "cosine"):
        raise ValueError(f"shape = {shape!r}: a ramp is linear or cosine")
    if not noise < data:
        raise ValueError(f"noise = {noise}, data = {data}: log_snr must satisfy noise < data")

    def scale(log_snr: Tensor) -> Tensor:
        way = ((log_snr - noise) / (data - noise)).clamp(0, 1)
        return start + (end - start) * (way if shape == "linear" else (1 - torch.cos(math.pi * way)) / 2)

    return scale


def within(scale: Scale, low: float, high: float, outside: float = 1.0) -> Scale:
    """A scale in the interval low < sigma / alpha <= high alone (Kynkäänniemi et al. 2024, section 3), and
    `outside` it: 1, the "off" of classifier-free guidance and autoguidance; 0 for classifier guidance. high
    may be inf. Where the two are one number, that number."""
    if not 0 <= low < high:
        raise ValueError(f"interval = ({low}, {high}): sigma / alpha must satisfy 0 <= low < high")
    if not callable(scale):
        _check_number(scale)
    if scale == outside:
        return scale

    def scale_within(log_snr: Tensor) -> Tensor:
        ratio = torch.exp(-log_snr / 2)
        inside = scale(log_snr) if callable(scale) else torch.full_like(log_snr, scale)
        return torch.where((low < ratio) & (ratio <= high), inside, outside)

    return scale_within


def _check(scale: Scale, schedule: Schedule | None) -> None:
    if not callable(scale):
        _check_number(scale)
    elif schedule is None:
        raise ValueError("schedule = None: scale is a function of log_snr and needs the schedule of t")


def _check_number(scale: float) -> None:
    if not scale >= 0:
        raise ValueError(f"scale = {scale}: must satisfy scale >= 0")


def _at(scale: Scale, schedule: Schedule | None, t: Tensor) -> float | Tensor:
    """The scale at t, (B,) where it is a function."""
    if callable(scale):
        assert schedule is not None  # checked when the wrapper was made
        return scale(log_snr(schedule, t))
    return scale


def _known_to_be(off: float, s: float | Tensor) -> bool:
    """Whether all of s is off, as far as can be told without waiting for a device or breaking a graph."""
    if not isinstance(s, Tensor) or s.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool((s == off).all())
