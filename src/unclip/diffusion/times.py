"""Time sampling: which noise levels training visits, as maps of uniform draws u (B,) to t (B,).
Draws nothing itself; the schedule says what a t means, the weighting what its error counts.

A new way is a class with `quantile` and `cdf`, or with a `__call__` of its own, and one YAML file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import precise
from unclip.diffusion.schedule import LOG_SNR_LIMIT, Schedule, log_snr

RESOLUTION = 2.0**-24  # of a float32 draw: densities and quantiles are not asked for nearer to 0 or 1


class Draw(NamedTuple):
    """A batch's times and what a loss needs to know of how they came about.

    t: (B,). density: gives that of log_snr in training at these t, (B,), weights counted in. weight: (B,)
    importance weights that make `mean` the mean over the schedule's own draws; None for none.
    """

    t: Tensor
    density: Callable[[], Tensor]
    weight: Tensor | None = None

    def mean(self, losses: Tensor) -> Tensor:
        """() of (B,): the estimate of the training loss."""
        return losses.mean() if self.weight is None else (self.weight.to(losses) * losses).mean()


class Times:
    """The schedule's own choice, `schedule.from_uniform(v)`, of v = quantile(u) in [0, 1), whose inverse is
    `cdf`.

    stratified: the batch's draws are u_0 + i / B mod 1, one in each of B equal parts, so that the loss varies
    less from batch to batch (Kingma et al. 2021, appendix I.1).
    """

    learns = False  # whether `learn` wants each global batch's losses

    def __init__(self, stratified: bool = False):
        self.stratified = stratified

    def __call__(self, u: Tensor, schedule: Schedule) -> Draw:
        """Times of draws u (B,) in [0, 1)."""
        t = schedule.from_uniform(self.quantile(u))
        return Draw(t, lambda: self._table(t, schedule) if schedule.T else self._continuous(u, schedule))

    def spread(self, u: Tensor) -> Tensor:
        """What becomes of the independent draws of a whole global batch, (B,), before it is divided."""
        return stratify(u) if self.stratified else u

    def quantile(self, u: Tensor) -> Tensor:
        return u

    def cdf(self, v: Tensor) -> Tensor:
        return v

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Called after a step with t and losses (B,) of the global batch, the same on every rank."""

    def state_dict(self) -> dict[str, Any]:
        """What of earlier batches the next draw depends on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def _continuous(self, u: Tensor, schedule: Schedule) -> Tensor:
        """1 / |d log_snr / du|, by differentiating forward."""

        def level(u: Tensor) -> Tensor:
            return log_snr(schedule, schedule.from_uniform(self.quantile(u)))

        u = precise(u).clamp(RESOLUTION, 1 - RESOLUTION)
        return 1 / torch.func.jvp(level, (u,), (torch.ones_like(u),))[1].abs()

    def _table(self, t: Tensor, schedule: Schedule) -> Tensor:
        """p_t over the interval that makes SNR / density the table's T (SNR_{t-1} - SNR_t) where p_t = 1/T
        (Kingma et al. 2021, eq. 14): expm1(log_snr_{t-1} - log_snr_t). Before the first entry SNR_{t-1} is
        infinite; 2 SNR_0 stands for it, the width at which x_t itself knows x_0."""
        t = precise(t)
        limits = -LOG_SNR_LIMIT, LOG_SNR_LIMIT
        now, before = (log_snr(schedule, x).clamp(*limits) for x in (t, (t - 1).clamp(min=0)))
        step = torch.where(t == 0, torch.ones_like(t), torch.expm1(before - now))
        assert schedule.T is not None
        return (self.cdf((t + 1) / schedule.T) - self.cdf(t / schedule.T)) / step


class Uniform(Times):
    """The schedule's own choice as it is: uniform over [0, 1] or over a table, unless the schedule says
    otherwise."""


class LogitNormal(Times):
    """logit v ~ N(mean, std^2): the middle of the schedule more often than its ends (Esser et al. 2024,
    section 3.1, for the flow schedule)."""

    @bounded
    def __init__(self, mean: float = 0.0, std: Annotated[float, "std > 0"] = 1.0, stratified: bool = False):
        super().__init__(stratified)
        self.mean, self.std = mean, std

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * _normal_quantile(u)).clamp(max=1 - RESOLUTION)

    def cdf(self, v: Tensor) -> Tensor:
        return torch.special.ndtr((torch.logit(v) - self.mean) / self.std)


class LogNormal(Times):
    """log(sigma / alpha) ~ N(P_mean, P_std^2), at the nearer end where the schedule has no such level
    (Karras et al. 2022, table 1). Visits a table between its entries too."""

    @bounded
    def __init__(
        self,
        P_mean: float = -1.2,
        P_std: Annotated[float, "P_std > 0"] = 1.2,
        stratified: bool = False,
    ):
        super().__init__(stratified)
        self.P_mean, self.P_std = P_mean, P_std

    def __call__(self, u: Tensor, schedule: Schedule) -> Draw:
        z = _normal_quantile(u)
        t = schedule.t_at(-2 * (self.P_mean + self.P_std * z))
        return Draw(t, lambda: torch.exp(-(z**2) / 2) / (math.sqrt(2 * math.pi) * 2 * self.P_std))


class Importance(Times):
    """Entries of a table in proportion to the root mean square of their last losses, each weighted by 1 /
    (T p_t): the same expected loss, of less variance (Nichol & Dhariwal 2021, eq. 18).

    Uniform until every entry has `history` losses; `floor` of the draws stay uniform for ever. What it
    remembers lives on the CPU, is the same on every rank and has to be saved with a run.
    """

    learns = True

    @bounded
    def __init__(
        self,
        history: Annotated[int, "history >= 1"] = 10,
        floor: Annotated[float, "0 < floor <= 1"] = 0.001,
        stratified: bool = False,
    ):
        super().__init__(stratified)
        self.history, self.floor = history, floor
        self.losses = torch.zeros(0, history, dtype=torch.float64)  # (T, history), a ring per entry
        self.counts = torch.zeros(0, dtype=torch.long)  # (T,) losses ever seen

    def __call__(self, u: Tensor, schedule: Schedule) -> Draw:
        if schedule.T is None:
            raise ValueError("schedule.T = None: importance remembers losses by entry and needs a table")
        if not len(self.counts):
            self._reset(schedule.T)
        p = self.probabilities().to(precise(u))  # (T,)
        t = torch.searchsorted(p.cumsum(0), precise(u), right=True).clamp(max=schedule.T - 1)
        weight = 1 / (schedule.T * p[t])
        return Draw(t.to(u.dtype), lambda: self._table(t, schedule), weight)

    def probabilities(self) -> Tensor:
        """p_t (T,) float64, on the CPU."""
        T = len(self.counts)
        uniform = torch.full((T,), 1 / T, dtype=torch.float64)
        size = self.losses.square().mean(1).sqrt()  # (T,)
        if self.counts.min() < self.history or not size.sum() > 0:
            return uniform
        return torch.lerp(size / size.sum(), uniform, self.floor)

    def learn(self, t: Tensor, losses: Tensor) -> None:
        t, losses = t.detach().long().cpu(), losses.detach().double().cpu()
        order = t.argsort(stable=True)
        order = order[losses[order].isfinite()]  # a loss that is no number teaches nothing
        t, losses = t[order], losses[order]
        first, after = torch.searchsorted(t, t), torch.searchsorted(t, t, right=True)
        place = torch.arange(len(t)) - first  # which of its entry's losses in this batch
        kept = place >= after - first - self.history  # an entry's last ones: no slot is written twice
        slot = (self.counts[t] + place) % self.history
        self.losses[t[kept], slot[kept]] = losses[kept]
        self.counts += torch.bincount(t, minlength=len(self.counts))

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:  # none in a checkpoint of another choice of times
            self.losses, self.counts = state["losses"].clone(), state["counts"].clone()

    def _reset(self, T: int) -> None:
        self.losses = torch.zeros(T, self.history, dtype=torch.float64)
        self.counts = torch.zeros(T, dtype=torch.long)


def stratify(u: Tensor) -> Tensor:
    """u_0 + i / B mod 1, (B,), of independent draws (B,), of which it uses the first."""
    return (u[0] + torch.arange(len(u), device=u.device, dtype=u.dtype) / len(u)) % 1


def _normal_quantile(u: Tensor) -> Tensor:
    return torch.special.ndtri(u.clamp(RESOLUTION, 1 - RESOLUTION))
