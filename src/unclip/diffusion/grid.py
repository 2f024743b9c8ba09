"""What a sampler walks: noise levels in decreasing order, made once a run. No model, no sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.diffusion.bounds import bounded
from unclip.diffusion.schedule import LOG_SNR_LIMIT, Schedule, log_snr

Spacing = Literal["leading", "trailing", "linspace", "karras", "log_snr"]
T_MIN = 1e-3  # where linspace and leading end on a continuous schedule, whose t = 0 is the clean end already
KARRAS_RHO = 7.0


class Level(NamedTuple):
    """One noise level as Python floats: coefficients made of it have float64's precision on any device."""

    t: float
    alpha: float
    sigma: float


@dataclass(frozen=True)
class Grid:
    """N steps of decreasing noise: t, alpha, sigma, (N+1,) each, float64 on the CPU; alpha, sigma are the
    schedule's at t.

    A grid of `make_grid` ends at the clean level (1, 0), whose t (-1 of a table, 0 of continuous time) is
    never given to a model. One made by hand may end anywhere.

    schedule: where the levels are from; only samplers that visit levels between them (`heun` with churn) ask.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    schedule: Schedule | None = field(default=None, repr=False, compare=False)
    levels: tuple[Level, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("t", "alpha", "sigma"):
            value = torch.as_tensor(getattr(self, name)).detach().to(device="cpu", dtype=torch.float64)
            object.__setattr__(self, name, value)
        if self.t.ndim != 1 or len(self.t) < 2 or not self.t.shape == self.alpha.shape == self.sigma.shape:
            shapes = ", ".join(str(tuple(x.shape)) for x in (self.t, self.alpha, self.sigma))
            raise ValueError(f"t, alpha, sigma of shapes {shapes}: a grid of N >= 1 steps has (N+1,) of each")
        # sigma/alpha falls, written without dividing: alpha may be 0 at the start, sigma at the end
        falls = self.alpha[:-1] * self.sigma[1:] < self.alpha[1:] * self.sigma[:-1]
        if not falls.all():
            i = int(falls.logical_not().nonzero()[0])
            raise ValueError(
                f"noise must decrease at every step, and does not from t = {self.t[i]:g} to "
                f"{self.t[i + 1]:g}: sort t downwards, without repeats; the clean end is added by itself"
            )
        object.__setattr__(self, "levels", _levels(self.t, self.alpha, self.sigma))

    @property
    def steps(self) -> int:
        return len(self.t) - 1

    def __getitem__(self, levels: slice) -> Grid:
        """A part of the walk: `grid[k:]` starts at level k, `grid[k : k + 2]` is step k alone."""
        return Grid(self.t[levels], self.alpha[levels], self.sigma[levels], self.schedule)

    def pairs(self) -> Iterator[tuple[Level, Level]]:
        """The N steps as (level now, level next)."""
        return pairwise(self.levels)

    def levels_at(self, log_snr: Sequence[float]) -> tuple[Level, ...]:
        """The schedule's own levels of these log-SNRs, or its nearest end. ValueError without a schedule."""
        if self.schedule is None:
            raise ValueError(
                "a grid without its schedule has no levels but its own: Grid(t, alpha, sigma, schedule)"
            )
        t = self.schedule.t_at(torch.tensor(log_snr, dtype=torch.float64))
        return _levels(t, *self.schedule(t))


@bounded
def make_grid(
    schedule: Schedule,
    steps: Annotated[int, "steps >= 1"] | None,
    spacing: Spacing | Sequence[float] | Tensor = "trailing",
) -> Grid:
    """N = `steps` levels of a schedule by decreasing noise, then the clean end (1, 0).

    trailing  equal steps of t down from T-1 (Lin et al. 2024, table 2)
    leading   equal steps of t down to 0; never visits T-1: for reproductions
    linspace  equal steps of t from T-1 to 0
    karras    equal steps of (sigma/alpha)^(1/7) (Karras et al. 2022, eq. 5), log_snr within +-20
    log_snr   equal steps of log_snr, within +-20 (Lu et al. 2022, section 3.4)
    a list    these t, decreasing, as they are; `steps` is their number, or None

    The first three are rounded to a table's entries. On a continuous schedule they divide [0, 1] likewise,
    but leading and linspace end at t = 1e-3, and all start where log_snr = -20 if it goes below: alpha = 0 is
    not visited.

    ValueError: more steps than the table has entries, an unknown spacing, a list that is unsorted or leaves
    the schedule.
    """
    T = schedule.T
    if not isinstance(spacing, str):
        t = _explicit(T, steps, spacing)
    elif steps is None:
        raise ValueError(f"steps = None: spacing = {spacing!r} needs a number of steps")
    elif T is not None and steps > T:
        raise ValueError(f"steps = {steps}: a table of T = {T} entries has at most {T} steps")
    else:
        t = _spaced(schedule, steps, spacing)
    alpha, sigma = schedule(t)
    clean_t = 0.0 if T is None else -1.0
    t, alpha, sigma = (F.pad(x, (0, 1), value=end) for x, end in ((t, clean_t), (alpha, 1.0), (sigma, 0.0)))
    return Grid(t, alpha, sigma, schedule)


def _levels(t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Level, ...]:
    return tuple(Level(*row) for row in torch.stack([t, alpha, sigma], dim=1).tolist())


def _spaced(schedule: Schedule, steps: int, spacing: str) -> Tensor:
    match spacing:
        case "trailing" | "leading" | "linspace":
            if schedule.T is None:
                return _continuous(schedule, steps, spacing)
            return _table(schedule.T, steps, spacing)
        case "log_snr":
            noise, data = _range(schedule)
            return schedule.t_at(torch.linspace(noise, data, steps, dtype=torch.float64))
        case "karras":
            # of sigma/alpha = exp(-log_snr / 2)
            noise, data = (math.exp(level / (-2 * KARRAS_RHO)) for level in _range(schedule))
            roots = torch.linspace(noise, data, steps, dtype=torch.float64)
            return schedule.t_at(-2 * KARRAS_RHO * roots.log())
    raise ValueError(f"spacing = {spacing!r}: leading, trailing, linspace, karras, log_snr or a list of t")


def _table(T: int, steps: int, spacing: str) -> Tensor:
    k = torch.arange(steps, 0, -1, dtype=torch.float64)  # N, ..., 1
    if spacing == "trailing":
        return (k * T / steps).round() - 1
    if spacing == "leading":
        return (k - 1) * (T // steps)
    return torch.linspace(T - 1, 0, steps, dtype=torch.float64).round()


def _continuous(schedule: Schedule, steps: int, spacing: str) -> Tensor:
    # a schedule may stay beyond that level for a good part of [0, 1]: the rest is divided, not cut off
    top = schedule.t_at(torch.tensor(-LOG_SNR_LIMIT, dtype=torch.float64)).item()
    k = torch.arange(steps, 0, -1, dtype=torch.float64)
    if spacing == "trailing":
        return top * k / steps
    if spacing == "leading":
        return T_MIN + (top - T_MIN) * (k - 1) / steps
    return torch.linspace(top, T_MIN, steps, dtype=torch.float64)


def _explicit(T: int | None, steps: int | None, spacing: Sequence[float] | Tensor) -> Tensor:
    t = torch.as_tensor(spacing, dtype=torch.float64, device="cpu").flatten()
    top = 1 if T is None else T - 1
    if not len(t) or (t.diff() >= 0).any() or not (t[0] <= top and t[-1] >= 0):
        raise ValueError(f"spacing = {t.tolist()}: a list of t must decrease, within {top} ... 0")
    if steps is not None and steps != len(t):
        raise ValueError(f"steps = {steps} with a list of {len(t)} t: they must agree, or steps be None")
    return t


def _range(schedule: Schedule) -> tuple[float, float]:
    """The schedule's log_snr from most to least noise, within +-20."""
    ends = torch.tensor([1.0 if schedule.T is None else schedule.T - 1.0, 0.0], dtype=torch.float64)
    noise, data = log_snr(schedule, ends).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT).tolist()
    return noise, data
