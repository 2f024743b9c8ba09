"""What the network is asked for. An objective is a row of one table: target = a x_0 + b eps, and back again
x_0 = c_skip x_t + c_out out. No schedule, no network, no weighting.

| objective | target                            | c_skip        | c_out        | c_eps       |
|-----------|-----------------------------------|---------------|--------------|-------------|
| eps       | eps                               | 1/alpha       | -sigma/alpha | -1          |
| x0        | x_0                               | 0             | 1            | alpha/sigma |
| v         | alpha eps - sigma x_0             | alpha/n       | -sigma/n     | -alpha/n    |
| flow      | eps - x_0                         | 1/m           | -sigma/m     | -alpha/m    |
| edm       | (sigma x_0 - alpha d^2 eps)/(d D) | alpha d^2/D^2 | sigma d/D    | alpha d/D   |

n = alpha^2 + sigma^2, m = alpha + sigma, d = sigma_data, D = sqrt(alpha^2 d^2 + sigma^2).

An error e of the output is an error c_out e of x_0 and -c_eps e of eps: c_eps = c_out alpha / sigma, written
so that it is finite at alpha = 0, as c_out is at sigma = 0 (weighting.py needs both ends).
Coefficients alpha, sigma are (B,) or 0-d tensors; x_0, eps, x_t, out are (B, *S).
"""

from __future__ import annotations

from typing import Annotated, Protocol

import torch
from torch import Tensor

from unclip.diffusion.bounds import bounded
from unclip.diffusion.broadcast import over


class Objective(Protocol):
    """What the network is asked for. Every method takes alpha and sigma broadcastable to its tensors; the coefficients
    have their shape, and x0_hat = c_skip x_t + c_out out."""

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network's output is compared with, (B, *S)."""

    def to_x0(self, x_t: Tensor, out: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of x_0 an output amounts to, (B, *S): c_skip x_t + c_out out, float32 at least."""

    def c_in(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What x_t is multiplied by on its way into the network."""

    def c_skip(self, alpha: Tensor, sigma: Tensor) -> Tensor: ...

    def c_out(self, alpha: Tensor, sigma: Tensor) -> Tensor: ...

    def c_eps(self, alpha: Tensor, sigma: Tensor) -> Tensor: ...


class Affine:
    """What the rows of the table share; a row gives `mix` (a, b of its target), c_skip, c_out and c_eps.

    sigma_data: the standard deviation of the data; the network gets x_t divided by the one that follows (c_in).
    """

    @bounded
    def __init__(self, sigma_data: Annotated[float, "sigma_data > 0"] = 1.0):
        self.sigma_data = sigma_data

    def mix(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def c_skip(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def c_out(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def c_eps(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        raise NotImplementedError

    def c_in(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        # 1 when variance preserving and sigma_data is 1
        return ((alpha * self.sigma_data) ** 2 + sigma**2).rsqrt()

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        a, b = self.mix(alpha, sigma)
        return over(a, x0) * x0 + over(b, x0) * eps

    def to_x0(self, x_t: Tensor, out: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        c_skip, c_out = self.c_skip(alpha, sigma), self.c_out(alpha, sigma)
        return over(c_skip, x_t) * x_t + over(c_out, x_t) * out


class Eps(Affine):
    """The noise (Ho et al. 2020). Undefined at alpha = 0, where x_t says nothing of x_0 beyond eps itself."""

    def mix(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(sigma)

    def c_skip(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return 1 / alpha

    def c_out(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -sigma / alpha

    def c_eps(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -torch.ones_like(alpha)

    def to_x0(self, x_t: Tensor, out: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # looked at on the CPU alone: elsewhere every step would wait for the device. There x_0 is NaN, which
        # no clipping hides, and the samplers, which know their levels, refuse it
        if alpha.device.type == "cpu" and not torch.compiler.is_compiling() and (alpha == 0).any():
            raise ValueError(
                "eps at alpha = 0: x_t is pure noise there, and x_0 = (x_t - sigma eps) / alpha divides by "
                "zero. Sample from a level with signal (spacing log_snr or karras starts at log_snr = -20 or "
                "above), or train the x0, v, flow or edm objective"
            )
        return super().to_x0(x_t, out, torch.where(alpha == 0, torch.nan, alpha), sigma)


class X0(Affine):
    """The clean sample."""

    def mix(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.zeros_like(sigma)

    def c_skip(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.zeros_like(alpha)

    def c_out(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)

    def c_eps(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha / sigma


class V(Affine):
    """The velocity alpha eps - sigma x_0 (Salimans & Ho 2022, appendix D)."""

    def mix(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -sigma, alpha

    def c_skip(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha / (alpha**2 + sigma**2)

    def c_out(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -sigma / (alpha**2 + sigma**2)

    def c_eps(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -alpha / (alpha**2 + sigma**2)


class Flow(Affine):
    """The direction from data to noise, eps - x_0 (Lipman et al. 2023; Liu et al. 2023). Without sigma_data
    the network gets x_t as it is, as is the custom on the flow schedule."""

    @bounded
    def __init__(self, sigma_data: Annotated[float, "sigma_data > 0"] | None = None):
        super().__init__(sigma_data or 1.0)
        self._as_it_is = sigma_data is None

    def mix(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(alpha), torch.ones_like(sigma)

    def c_skip(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return 1 / (alpha + sigma)

    def c_out(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -sigma / (alpha + sigma)

    def c_eps(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return -alpha / (alpha + sigma)

    def c_in(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha) if self._as_it_is else super().c_in(alpha, sigma)


class Edm(Affine):
    """Unit-variance inputs and targets for data of standard deviation sigma_data (Karras et al. 2022, table
    1, here for any alpha). On a variance-preserving schedule with sigma_data = 1 it is exactly -v."""

    @bounded
    def __init__(self, sigma_data: Annotated[float, "sigma_data > 0"] = 0.5):
        super().__init__(sigma_data)

    def _norm(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.hypot(alpha * self.sigma_data, sigma)

    def mix(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        D, d = self._norm(alpha, sigma), self.sigma_data
        return sigma / (d * D), -alpha * d / D

    def c_skip(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * self.sigma_data**2 / self._norm(alpha, sigma) ** 2

    def c_out(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma * self.sigma_data / self._norm(alpha, sigma)

    def c_eps(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * self.sigma_data / self._norm(alpha, sigma)
