"""The training loss of a denoiser, one number a sample. Draws nothing: t and eps are arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.denoiser import Cond, Denoiser
from unclip.diffusion.schedule import add_noise, log_snr
from unclip.diffusion.weighting import Weighting

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
) -> Tensor:
    """weight * mean over S of norm(net(c_in x_t, t, cond) - target), (B,), at x_t = alpha x_0 + sigma eps
    (Ho et al. 2020, eq. 14).

    The norm is of the network's own output, never of an x_0 error divided back, so nothing is undefined at
    sigma = 0 or alpha = 0. x0, eps: (B, *S), eps Gaussian; t: (B,).
    weight: a weighting, weights already computed (B,), or None for 1. huber has delta = 1.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm = {norm!r}: the norms are {', '.join(_NORMS)}")
    x0, eps = at_least_float32(x0), at_least_float32(eps)
    alpha, sigma = denoiser.schedule(t)
    out = denoiser.raw(add_noise(x0, eps, alpha, sigma), t, cond)
    target = denoiser.objective.target(x0, eps, alpha, sigma)
    loss = _NORMS[norm](out, target, reduction="none").flatten(1).mean(1)
    if weight is None:
        return loss
    if not isinstance(weight, Tensor):
        weight = weight(log_snr(denoiser.schedule, t), denoiser.objective)
    return weight.to(loss) * loss
