"""What the samplers are made of: the loop, the one update every step amounts to, and distances between
levels. Samplers themselves are in sample.py and multistep.py; nothing here draws noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.grid import Level

Noise = Callable[[Tensor], Tensor]
Callback = Callable[[int, float, Tensor, Tensor], object]
Update = Callable[[Tensor, Tensor, Level, Level], Tensor]  # x_t, x0_hat, t, s -> x_s
Churn = Callable[[Tensor, Level], tuple[Tensor, Level]]  # x_t, t -> the same at a noisier level


@torch.no_grad()
def walk(
    denoise: Denoise,
    x: Tensor,
    steps: Iterable[tuple[Level, Level]],
    cond: Cond,
    callback: Callback | None,
    update: Update,
    churn: Churn | None = None,
) -> Tensor:
    """At every step (level now, level next): x0_hat, the callback, and then the sampler's update. Levels are
    Python floats, so nothing here waits for the device, but for one look where alpha = 0."""
    x = at_least_float32(x)
    for step, (t, s) in enumerate(steps):
        if churn is not None:
            x, t = churn(x, t)
        x0 = denoise_at(denoise, cond, x, t)
        if t.alpha == 0:
            _refuse_undefined(x0, t)
        if callback is not None:
            callback(step, t.t, x, x0)
        x = update(x, x0, t, s)
    return x


def denoise_at(denoise: Denoise, cond: Cond, x: Tensor, level: Level) -> Tensor:
    """x0_hat (B, *S) in x's dtype. t in float64 where the device has it: float32 loses 1 - t near t = 1."""
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    t = torch.full((len(x),), level.t, dtype=dtype, device=x.device)
    return denoise(x, t, cond).to(x.dtype)


def _refuse_undefined(x0: Tensor, level: Level) -> None:
    # not while compiling, where no graph can end in an error
    if not torch.compiler.is_compiling() and bool(x0.isnan().any()):
        raise ValueError(
            f"x0_hat is NaN at t = {level.t:g}, where alpha = 0: a network of eps says nothing of x_0 there. "
            f"Start at a level with signal (spacing log_snr or karras), or train x0, v, flow or edm"
        )


# ---- one step from t to s ------------------------------------------------------------------------------


def move(x: Tensor, x0: Tensor, t: Level, s: Level, variance: float = 0.0) -> Tensor:
    """alpha_s x0_hat + sqrt(sigma_s^2 - variance) eps_hat: what every sampler's step amounts to, but for
    fresh noise of that variance, which the sampler adds.

    eps_hat = (x_t - alpha_t x0_hat) / sigma_t makes it linear in x_t and x0_hat, and defined at alpha_t = 0.
    """
    keep = math.sqrt(s.sigma**2 - variance) / t.sigma
    return keep * x + (s.alpha - keep * t.alpha) * x0


def move_eps(x: Tensor, eps: Tensor, t: Level, s: Level) -> Tensor:
    """The same step, without fresh noise, from an estimate of eps; needs alpha_t > 0."""
    return move(x, (x - t.sigma * eps) / t.alpha, t, s)


def eps_hat(x: Tensor, x0: Tensor, t: Level) -> Tensor:
    """The noise (B, *S) that makes x of an estimate of x_0; needs sigma_t > 0."""
    return (x - t.alpha * x0) / t.sigma


def heun_slope(denoise: Denoise, cond: Cond, x: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
    """The mean of eps_hat at t and at where a DDIM step arrives; one evaluation, at s."""
    x_s = move(x, x0, t, s)
    return (eps_hat(x, x0, t) + eps_hat(x_s, denoise_at(denoise, cond, x_s, s), s)) / 2


def rise(t: Level, s: Level) -> float:
    """h = log(alpha_s/sigma_s) - log(alpha_t/sigma_t), sigma_s > 0; infinite from alpha_t = 0."""
    return math.log(s.alpha * t.sigma / (s.sigma * t.alpha)) if t.alpha > 0 else math.inf


def is_noise(level: Level) -> bool:
    """Where alpha is too small to step in x/alpha: the discrete cosine ends at alpha = 4.9e-5 sigma."""
    return level.alpha < 1e-3 * level.sigma
