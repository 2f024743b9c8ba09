"""A variance of x_s given x_t that the network predicts with the mean, in the same pass (Nichol & Dhariwal
2021, eq. 15). Not how it is trained (loss.py), nor the fixed variances it lies between (variance.py).

log Sigma = v log beta + (1 - v) log beta_tilde, with v (B, *S) from the network; v = 0 is "small", 1 "large".
"""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.diffusion.broadcast import at_least_float32, over
from unclip.diffusion.denoiser import Cond, Denoiser
from unclip.diffusion.grid import Level
from unclip.diffusion.variance import posterior_variance


def log_excess(v: Tensor, sigma_t: Tensor, sigma_s: Tensor) -> Tensor:
    """log(Sigma / beta_tilde) (B, *S) of a step t -> s, sigma_s > 0: sigmas (B,) or ().

    beta_tilde = sigma_s^2 (1 - r) and beta = sigma_t^2 (1 - r), see variance.py: 2 v log(sigma_t / sigma_s).
    """
    return v * over(2 * (sigma_t / sigma_s).log(), v)


def log_variance_into_data(v: Tensor, sigma: Tensor, log_snr: Tensor, log_snr_before: Tensor) -> Tensor:
    """log Sigma (B, *S) of the last step, from sigma to x_0, where beta is sigma^2 and beta_tilde would be 0:
    the paper takes beta_tilde of the step before, sigma^2 (1 - SNR_before / SNR)."""
    small = torch.log(-torch.expm1(log_snr_before - log_snr))
    return over(2 * sigma.log(), v) + (1 - v) * over(small, v)


class LearnedVariance:
    """A denoiser with `learned_variance` as a denoise function that remembers v of its last call, and with it
    the `variance` of `sample.ddpm(denoise, ..., variance=learned.variance)`.

    The wrappers of guidance.py go around it. Where one of them doubles the batch, the conditional half comes
    first, and the variance is that half's.
    """

    def __init__(self, denoiser: Denoiser):
        if not denoiser.learned_variance:
            raise ValueError(
                "learned_variance = False: this network predicts no variance; possible: small, large"
            )
        self.denoiser = denoiser
        self._v: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """x0_hat (B, *S)."""
        x_t = at_least_float32(x_t)
        out, self._v = self.denoiser.outputs(x_t, t, cond)
        return self.denoiser.objective.to_x0(x_t, out, *self.denoiser.schedule(t))

    def v(self, x_t: Tensor) -> Tensor:
        """(B, *S), of the last call, whose x_t this is."""
        assert self._v is not None, "v is known after the network has been called"
        return self._v[: len(x_t)]

    def variance(self, x_t: Tensor, x0_hat: Tensor, t: Level, s: Level) -> Tensor:
        """Sigma (B, *S) of the step t -> s, sigma_s > 0, at the last call's x_t."""
        v = self.v(x_t)
        return (
            posterior_variance(t, s) * log_excess(v, v.new_full((), t.sigma), v.new_full((), s.sigma)).exp()
        )
