"""Loss weights as functions of (log_snr, objective, training density). Not the loss, not the choice of t.

A weighting is a weight w(lambda) on the squared error of x_0; on that of the network's output it is
w c_out^2. Each is written twice, as w and as w / SNR, the weight on the squared error of eps: where alpha or
sigma is 0 and w c_out^2 would be 0 * inf, the equal (w / SNR) c_eps^2 has the limit (c_eps: see
objective.py). c_out and c_eps are taken at alpha^2 + sigma^2 = 1; only v's depend on that scale.

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


class Weighting(Protocol):
    def __call__(self, log_snr: Tensor, objective: Objective, density: Tensor | None = None, /) -> Tensor:
        """The weight on the network's output, (B,) like log_snr.

        density: that of log_snr in training, (B,), for weightings that divide by it; none below does.
        """


def parametric(weighting: Callable[..., Tensor]) -> Callable[..., Any]:
    """`f(log_snr, objective, density, *, parameters)`, which without log_snr is `f` with those parameters."""
    names = [p.name for p in inspect.signature(weighting).parameters.values() if p.kind is p.KEYWORD_ONLY]

    @functools.wraps(weighting)
    def call(*args: Any, **parameters: Any) -> Any:
        if "log_snr" in parameters or (args and isinstance(args[0], Tensor)):
            return weighting(*args, **parameters)
        return functools.partial(weighting, **dict(zip(names, args, strict=False)), **parameters)

    return call


@parametric
def uniform(log_snr: Tensor, objective: Objective, density: Tensor | None = None) -> Tensor:
    """1 on the network's output, whatever it is asked for: L_simple (Ho et al. 2020, eq. 14)."""
    return torch.ones_like(log_snr)


@parametric
@bounded
def min_snr(
    log_snr: Tensor,
    objective: Objective,
    density: Tensor | None = None,
    *,
    gamma: Annotated[float, "gamma > 0"] = 5.0,
) -> Tensor:
    """w = min(SNR, gamma) (Hang et al. 2023, section 3.4): on eps min(1, gamma / SNR)."""
    snr = log_snr.exp()
    return _on_output(log_snr, objective, snr.clamp(max=gamma), (gamma / snr).clamp(max=1))


@parametric
def truncated_snr(log_snr: Tensor, objective: Objective, density: Tensor | None = None) -> Tensor:
    """w = max(SNR, 1) (Salimans & Ho 2022, section 4): on eps max(1, 1 / SNR), infinite at alpha = 0."""
    snr = log_snr.exp()
    return _on_output(log_snr, objective, snr.clamp(min=1), (1 / snr).clamp(min=1))


@parametric
@bounded
def p2(
    log_snr: Tensor,
    objective: Objective,
    density: Tensor | None = None,
    *,
    k: Annotated[float, "k > 0"] = 1.0,
    gamma: Annotated[float, "gamma >= 0"] = 1.0,
) -> Tensor:
    """w = SNR / (k + SNR)^gamma (Choi et al. 2022, eq. 8): on eps (k + SNR)^-gamma."""
    snr = log_snr.exp()
    on_x0 = snr ** (1 - gamma) / (k / snr + 1) ** gamma  # the same, finite at SNR = inf
    return _on_output(log_snr, objective, on_x0, (k + snr) ** -gamma)


@parametric
@bounded
def edm(
    log_snr: Tensor,
    objective: Objective,
    density: Tensor | None = None,
    *,
    sigma_data: Annotated[float, "sigma_data > 0"] = 0.5,
) -> Tensor:
    """w = SNR + 1 / sigma_data^2 (Karras et al. 2022, table 1): 1 on the output of the edm objective."""
    snr = log_snr.exp()
    return _on_output(log_snr, objective, snr + sigma_data**-2, 1 + sigma_data**-2 / snr)


@parametric
def sigmoid(
    log_snr: Tensor, objective: Objective, density: Tensor | None = None, *, bias: float = 2.0
) -> Tensor:
    """w = e^b sigmoid(lambda - b) (Kingma & Gao 2023; Hoogeboom et al. 2024): on eps sigmoid(b - lambda)."""
    on_x0 = math.exp(bias) * torch.sigmoid(log_snr - bias)
    return _on_output(log_snr, objective, on_x0, torch.sigmoid(bias - log_snr))


def _on_output(log_snr: Tensor, objective: Objective, on_x0: Tensor, on_eps: Tensor) -> Tensor:
    """The weight on the output, (B,), of a weight given as on_x0 = w and on_eps = w / SNR."""
    alpha, sigma = variance_preserving(log_snr)
    from_x0 = on_x0 * objective.c_out(alpha, sigma) ** 2
    from_eps = on_eps * objective.c_eps(alpha, sigma) ** 2
    return torch.where(from_x0.isnan(), from_eps, from_x0)
