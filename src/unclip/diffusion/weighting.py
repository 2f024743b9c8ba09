"""Loss weights as functions of (log_snr, objective, training density). Not the loss, not the choice of t.

A weighting is a weight w(lambda) on the squared error of x_0; on that of the network's output it is
w c_out^2. Each is written twice, as w and as w / SNR, the weight on the squared error of eps: where alpha or
sigma is 0 and w c_out^2 would be 0 * inf, the equal (w / SNR) c_eps^2 has the limit (c_eps: see
objective.py). That conversion is `on_output`, here alone.

Called with parameters alone a weighting gives itself with those: `min_snr(gamma=1.0)` is a weighting too.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.objective import Objective
from unclip.diffusion.schedule import variance_preserving

TrainingDensity = Tensor | Callable[[], Tensor] | None  # of log_snr, (B,), or what gives it when asked


class Weighting(Protocol):
    """How much a noise level counts in the loss."""

    def __call__(
        self,
        log_snr: Tensor,
        objective: Objective,
        density: TrainingDensity = None,
        scale: Tensor | None = None,
        /,
    ) -> Tensor:
        """The weight on the network's output, (B,) like log_snr.

        density: that of log_snr in training, (B,), or what gives it when asked; `vlb` divides by it.
        scale: sqrt(alpha^2 + sigma^2), (B,), of a schedule that is not variance preserving; None for 1. Of
        the objectives only v depends on it.
        """


def parametric(weighting: Callable[..., Tensor]) -> Callable[..., Any]:
    """`f(log_snr, objective, ..., *, parameters)`, which without log_snr is `f` with those parameters."""
    names = [p.name for p in inspect.signature(weighting).parameters.values() if p.kind is p.KEYWORD_ONLY]

    @functools.wraps(weighting)
    def call(*args: Any, **parameters: Any) -> Any:
        if "log_snr" in parameters or (args and isinstance(args[0], Tensor)):
            return weighting(*args, **parameters)
        return functools.partial(weighting, **dict(zip(names, args, strict=False)), **parameters)

    return call


def on_output(weights: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    """A weighting of `f(log_snr, density, *, parameters) -> (w, w / SNR)`."""

    @functools.wraps(weights)
    def weighting(
        log_snr: Tensor,
        objective: Objective,
        density: TrainingDensity = None,
        scale: Tensor | None = None,
        **parameters: Any,
    ) -> Tensor:
        on_x0, on_eps = weights(log_snr, density, **parameters)
        alpha, sigma = (c if scale is None else scale * c for c in variance_preserving(log_snr))
        from_x0 = on_x0 * objective.c_out(alpha, sigma) ** 2
        from_eps = on_eps * objective.c_eps(alpha, sigma) ** 2
        return torch.where(from_x0.isnan(), from_eps, from_x0)

    return parametric(weighting)


@parametric
def uniform(
    log_snr: Tensor, objective: Objective, density: TrainingDensity = None, scale: Tensor | None = None
) -> Tensor:
    """1 on the network's output, whatever it is asked for: L_simple (Ho et al. 2020, eq. 14)."""
    return torch.ones_like(log_snr)


@on_output
@bounded
def min_snr(
    log_snr: Tensor, density: TrainingDensity, *, gamma: Annotated[float, "gamma > 0"] = 5.0
) -> tuple[Tensor, Tensor]:
    """w = min(SNR, gamma) (Hang et al. 2023, section 3.4): on eps min(1, gamma / SNR)."""
    snr = log_snr.exp()
    return snr.clamp(max=gamma), (gamma / snr).clamp(max=1)


@on_output
def truncated_snr(log_snr: Tensor, density: TrainingDensity) -> tuple[Tensor, Tensor]:
    """w = max(SNR, 1) (Salimans & Ho 2022, section 4): on eps max(1, 1 / SNR), infinite at alpha = 0."""
    snr = log_snr.exp()
    return snr.clamp(min=1), (1 / snr).clamp(min=1)


@on_output
@bounded
def p2(
    log_snr: Tensor,
    density: TrainingDensity,
    *,
    k: Annotated[float, "k > 0"] = 1.0,
    gamma: Annotated[float, "gamma >= 0"] = 1.0,
) -> tuple[Tensor, Tensor]:
    """w = SNR / (k + SNR)^gamma (Choi et al. 2022, eq. 8): on eps (k + SNR)^-gamma."""
    snr = log_snr.exp()
    on_x0 = snr ** (1 - gamma) / (k / snr + 1) ** gamma  # the same, finite at SNR = inf
    return on_x0, (k + snr) ** -gamma


@on_output
@bounded
def edm(
    log_snr: Tensor, density: TrainingDensity, *, sigma_data: Annotated[float, "sigma_data > 0"] = 0.5
) -> tuple[Tensor, Tensor]:
    """w = SNR + 1 / sigma_data^2 (Karras et al. 2022, table 1): 1 on the output of the edm objective."""
    snr = log_snr.exp()
    return snr + sigma_data**-2, 1 + sigma_data**-2 / snr


@on_output
def sigmoid(log_snr: Tensor, density: TrainingDensity, *, bias: float = 2.0) -> tuple[Tensor, Tensor]:
    """w = e^b sigmoid(lambda - b) (Kingma & Gao 2023; Hoogeboom et al. 2024): on eps sigmoid(b - lambda)."""
    return math.exp(bias) * torch.sigmoid(log_snr - bias), torch.sigmoid(bias - log_snr)


@on_output
def vlb(log_snr: Tensor, density: TrainingDensity) -> tuple[Tensor, Tensor]:
    """w = SNR / (2 density), with which the loss estimates the variational bound however t is drawn: -dSNR/dt
    / 2 at uniform t (Kingma et al. 2021, eq. 17), T/2 (SNR_{t-1} - SNR_t) on a table (eq. 14). On eps 1 / (2
    density). In nats, of the sum over dimensions where the loss is of their mean."""
    if density is None:
        raise ValueError("density = None: vlb divides by the training density of log_snr (times.py gives it)")
    p = (density if isinstance(density, Tensor) else density()).to(log_snr)
    return log_snr.exp() / (2 * p), 1 / (2 * p)
