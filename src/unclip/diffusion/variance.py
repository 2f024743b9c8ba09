"""The variance of x_s given x_t in an ancestral step from level t to a cleaner level s: the two fixed ones
and the analytic one. Not the step itself (sample.py); a learned variance lies between the two fixed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unclip.diffusion.broadcast import at_least_float32
from unclip.diffusion.denoiser import Cond, Denoise
from unclip.diffusion.grid import Grid, Level
from unclip.diffusion.steps import Noise, denoise_at

Variance = Callable[[Tensor, Tensor, Level, Level], Tensor | float]  # x_t, x0_hat, t, s -> of x_s given x_t


def posterior_variance(t: Level, s: Level, eta: float = 1.0) -> float:
    """sigma_s^2 (1 - r^eta), r = (alpha_t sigma_s / (alpha_s sigma_t))^2: of q(x_s | x_t, x_0), beta_tilde
    (Ho et al. 2020, eq. 7), between any two levels. "Fixed small"; right for data that are a single point.

    eta: the speed of the reverse SDE, 0 for none of it (Lu et al. 2022b, section 5).
    """
    return s.sigma**2 * (1 - _snr_ratio(t, s) ** eta)


def forward_variance(t: Level, s: Level) -> float:
    """sigma_t^2 (1 - r) = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2: of q(x_t | x_s), beta (Ho et al. 2020,
    section 3.2), between any two levels. "Fixed large"; right for data of unit variance where alpha^2 +
    sigma^2 = 1. Given to x_s though it is x_t's: of all steps here this alone depends on the scale of x.
    """
    return t.sigma**2 * (1 - _snr_ratio(t, s))


def _snr_ratio(t: Level, s: Level) -> float:
    return (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2


def small(x: Tensor, x0: Tensor, t: Level, s: Level) -> float:
    """`posterior_variance`, as a sampler asks for it."""
    return posterior_variance(t, s)


def large(x: Tensor, x0: Tensor, t: Level, s: Level) -> float:
    """`forward_variance`, as a sampler asks for it."""
    return forward_variance(t, s)


@dataclass(frozen=True)
class Analytic:
    """The variance of the best Gaussian step (Bao et al. 2022, theorem 1):

        beta_tilde + (alpha_s - k alpha_t)^2 v_t,    k = sqrt(sigma_s^2 - beta_tilde) / sigma_t

    with v_t the mean variance of x_0 given x_t. For the exact denoiser v_t is sigma_t^2 / alpha_t^2
    (1 - sigma_t^2 Gamma_t), Gamma_t = E |score|^2 / D, which is the paper's form. Here v_t is E |x_0 -
    x0_hat|^2 / D itself: the same for the exact denoiser, the optimum for an inexact one too (Bao et al.
    2022b, NPR-DPM), and defined at alpha = 0, near which the paper's form needs clipping.

    errors: v_t by t, for every level the sampler leaves but the last; see `estimate`.
    """

    errors: Mapping[float, float]

    def __call__(self, x: Tensor, x0: Tensor, t: Level, s: Level) -> float:
        if t.t not in self.errors:
            raise ValueError(
                f"t = {t.t:g}: the analytic variance was estimated at other levels, "
                f"{', '.join(f'{known:g}' for known in self.errors)}: estimate it on the sampler's own grid"
            )
        small = posterior_variance(t, s)
        # x0_hat's coefficient in the mean, alpha_s - k alpha_t
        return small + (s.alpha * small / s.sigma**2) ** 2 * self.errors[t.t]

    @classmethod
    @torch.no_grad()
    def estimate(
        cls,
        denoise: Denoise,
        batches: Iterable[tuple[Tensor, Cond]],
        grid: Grid,
        noise: Noise = torch.randn_like,
    ) -> Analytic:
        """From real data: batches of x_0 (B, *S) with their conditions, each noised once to every level of
        the grid. One evaluation of `denoise`, which is not guided here, a batch and level."""
        levels = [t for t, _ in grid.pairs()]
        sums: Tensor | float = 0.0
        count = 0
        for x0, cond in batches:
            x0 = at_least_float32(x0)
            squares = []
            for t in levels:
                x_t = t.alpha * x0 + t.sigma * noise(x0)
                squares.append((x0 - denoise_at(denoise, cond, x_t, t)).double().square().sum())
            sums, count = sums + torch.stack(squares), count + x0.numel()
        if not isinstance(sums, Tensor):
            raise ValueError("batches is empty: the analytic variance is an average over data")
        return cls(dict(zip([t.t for t in levels], (sums / count).tolist(), strict=True)))
