"""The training losses of a denoiser, one number a sample. They draw nothing: t and eps are arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32, over, precise
from unclip.diffusion.denoiser import Cond, Denoiser
from unclip.diffusion.learned_variance import log_excess, log_variance_into_data
from unclip.diffusion.likelihood import decoder_nll, step_kl
from unclip.diffusion.schedule import LOG_SNR_LIMIT, add_noise, log_snr
from unclip.diffusion.weighting import TrainingDensity, Weighting

Norm = Literal["l2", "l1", "huber"]
_NORMS: dict[str, Callable[..., Tensor]] = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


def diffusion_loss(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    cond: Cond = None,
    weight: Weighting | Tensor | None = None,
    norm: Norm = "l2",
    density: TrainingDensity = None,
) -> Tensor:
    """weight * mean over S of norm(net(c_in x_t, t, cond) - target), (B,), at x_t = alpha x_0 + sigma eps
    (Ho et al. 2020, eq. 14).

    The norm is of the network's own output, never of an x_0 error divided back, so nothing is undefined at
    sigma = 0 or alpha = 0. x0, eps: (B, *S), eps Gaussian; t: (B,).
    weight: a weighting, weights already computed (B,), or None for 1. huber has delta = 1.
    density: that of log_snr in training, for a weighting that asks (`times.Draw.density`).
    """
    x0, eps, x_t = _noised(denoiser, x0, t, eps)
    return _simple(denoiser, x0, t, eps, denoiser.raw(x_t, t, cond), weight, norm, density)


def variational_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, cond: Cond = None) -> Tensor:
    """L_vlb: T times the bound's term at t, (B,), bits per dimension, whose mean over uniform t is the bound
    on -log p(x_0) but for its constant (Nichol & Dhariwal 2021, eq. 4 to 7).

    t: (B,) entries of a table. x0: (B, *S), 8-bit data within -1 ... 1. The variance is the denoiser's where
    it has `learned_variance`, else "small".
    """
    x0, eps, x_t = _noised(denoiser, x0, t, eps)
    return _variational(denoiser, x0, t, x_t, *denoiser.outputs(x_t, t, cond))


@bounded
def hybrid_loss(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    cond: Cond = None,
    weight: Weighting | Tensor | None = None,
    norm: Norm = "l2",
    density: TrainingDensity = None,
    vlb_scale: Annotated[float, "vlb_scale > 0"] = 0.001,
) -> Tensor:
    """L_simple + vlb_scale L_vlb, (B,), by one pass of the network. L_vlb trains the variance alone: the mean
    in it is detached (Nichol & Dhariwal 2021, eq. 16)."""
    if not denoiser.learned_variance:
        raise ValueError("learned_variance = False: hybrid_loss trains a variance, and here is none to train")
    x0, eps, x_t = _noised(denoiser, x0, t, eps)
    out, v = denoiser.outputs(x_t, t, cond)
    simple = _simple(denoiser, x0, t, eps, out, weight, norm, density)
    return simple + vlb_scale * _variational(denoiser, x0, t, x_t, out.detach(), v)


def _noised(denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x0, eps and x_t."""
    x0, eps = at_least_float32(x0), at_least_float32(eps)
    return x0, eps, add_noise(x0, eps, *denoiser.schedule(t))


def _simple(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    out: Tensor,
    weight: Weighting | Tensor | None,
    norm: Norm,
    density: TrainingDensity,
) -> Tensor:
    if norm not in _NORMS:
        raise ValueError(f"norm = {norm!r}: the norms are {', '.join(_NORMS)}")
    alpha, sigma = denoiser.schedule(t)
    target = denoiser.objective.target(x0, eps, alpha, sigma)
    loss = _NORMS[norm](out, target, reduction="none").flatten(1).mean(1)
    if weight is None:
        return loss
    if not isinstance(weight, Tensor):
        # beyond the limit some weights are infinite, and one such draw would be the end of a training
        level = log_snr(denoiser.schedule, t).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        weight = weight(level, denoiser.objective, density, torch.hypot(alpha, sigma))
    return weight.to(loss) * loss


def _variational(
    denoiser: Denoiser, x0: Tensor, t: Tensor, x_t: Tensor, out: Tensor, v: Tensor | None
) -> Tensor:
    schedule = denoiser.schedule
    if schedule.T is None:
        raise ValueError(
            "schedule.T = None: L_vlb is a sum over the steps of a table; weighting vlb is its limit"
        )
    alpha, sigma = schedule(t)
    x0_hat = denoiser.objective.to_x0(x_t, out, alpha, sigma)
    v = torch.zeros_like(x0) if v is None else v

    def level(t: Tensor) -> tuple[Tensor, Tensor]:
        return log_snr(schedule, t), schedule(t)[1]

    t = precise(t)
    first = t == 0
    (log_snr_t, sigma_t), (log_snr_s, sigma_s) = level(t.clamp(min=1)), level((t - 1).clamp(min=0))
    steps = step_kl(x0 - x0_hat, log_snr_t, log_snr_s, log_excess(v, sigma_t, sigma_s))
    (log_snr_0, sigma_0), (log_snr_1, _) = level(torch.zeros_like(t)), level(torch.ones_like(t))
    mean = torch.where(over(first, x0) > 0, x0_hat, x0)  # elsewhere x0_hat may be anything
    into_data = decoder_nll(x0, mean, log_variance_into_data(v, sigma_0, log_snr_0, log_snr_1))
    nats = torch.where(first, into_data.flatten(1).mean(1), steps.flatten(1).mean(1))
    return schedule.T * nats / math.log(2)
