"""The one schedule with parameters: a monotone network, and what trains it beside the model. No optimizer."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.process import Continuous, bisected, variance_preserving


class Learned(Continuous, nn.Module):
    """-log_snr = gamma_min + (gamma_max - gamma_min) (g(t) - g(0)) / (g(1) - g(0)), with g(t) = l1(t) +
    l3(sigmoid(l2(l1(t)))) of positive weights, so rising (Kingma et al. 2021, eq. 3 and appendix H). Variance
    preserving. The two ends are parameters too; gamma_max stays above gamma_min.

    Its initial parameters are fixed, with log_snr near linear in t: the middles of the `hidden` units of l2
    are spread over [0, 1]. t_at by bisection, without gradients.

    train_ends: whether gradients reach the two ends. They belong to the bound as a whole, its prior and
    decoder terms included; by the diffusion loss alone they would drift together.
    """

    @bounded
    def __init__(
        self,
        hidden: Annotated[int, "hidden >= 1"] = 1024,
        gamma_min: float = -13.3,
        gamma_max: float = 5.0,
        steepness: Annotated[float, "steepness > 0"] = 8.0,
        train_ends: bool = True,
    ):
        super().__init__()
        if not gamma_min < gamma_max:
            raise ValueError(f"gamma_max = {gamma_max}: must satisfy gamma_max > gamma_min = {gamma_min}")
        ends = gamma_min, _before_softplus(gamma_max - gamma_min)
        self.gamma_min, self.width = (nn.Parameter(torch.tensor(x), train_ends) for x in ends)
        middles = (torch.arange(hidden) + 0.5) / hidden
        self.weight1 = nn.Parameter(torch.tensor(_before_softplus(1.0)))
        self.bias1 = nn.Parameter(torch.tensor(0.0))
        self.weight2 = nn.Parameter(torch.full((hidden,), _before_softplus(steepness)))
        self.bias2 = nn.Parameter(-steepness * middles)
        self.weight3 = nn.Parameter(torch.full((hidden,), _before_softplus(1 / hidden)))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return variance_preserving(self.level(t))

    def level(self, t: Tensor) -> Tensor:
        """log_snr(t), differentiable in t and in the parameters."""
        t = at_least_float32(t)
        now, first, last = self._g(torch.stack([t, torch.zeros_like(t), torch.ones_like(t)]))
        return -(self.gamma_min.to(t) + softplus(self.width.to(t)) * (now - first) / (last - first))

    def t_at(self, log_snr: Tensor) -> Tensor:
        return bisected(self.level, log_snr, 1.0)

    def _g(self, t: Tensor) -> Tensor:
        """g(t) without l3's bias, which cancels; whatever t's shape, dtype and device."""
        inner = softplus(self.weight1.to(t)) * t + self.bias1.to(t)
        units = torch.sigmoid(
            softplus(self.weight2.to(t)) * inner.unsqueeze(-1) + self.bias2.to(t)
        )  # (..., H)
        return inner + (softplus(self.weight3.to(t)) * units).sum(-1)


class VarianceGradient:
    """A learned schedule in training: it becomes the one along which the loss varies least.

    With the weighting vlb the mean loss does not depend on what lies between the ends, but its variance does.
    So what flows back to the schedule is the gradient of the mean of the *squared* losses, d L_i^2 = 2 L_i d L_i, in
    the same backward pass in which the network gets that of their mean (Kingma et al. 2021, appendix I.2). For
    that every tensor (B,) on the way to the schedule goes `through` here, and `see` is told the losses before
    the backward pass. All else is the schedule's own.
    """

    def __init__(self, schedule: Learned):
        self.schedule = schedule
        self._factor: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "schedule":  # asked for while a copy is made, which has nothing yet
            raise AttributeError(name)
        return getattr(self.schedule, name)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return self.through(alpha), self.through(sigma)

    def through(self, x: Tensor) -> Tensor:
        """x (B,), whose gradient row i will be multiplied by 2 L_i."""
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient if self._factor is None else self._factor * gradient)
        return x

    def see(self, losses: Tensor) -> None:
        """losses (B,), of whose mean the gradient is about to be taken."""
        self._factor = 2 * losses.detach()


def _before_softplus(x: float) -> float:
    """The number whose softplus is x > 0."""
    return x + math.log(-math.expm1(-x))
