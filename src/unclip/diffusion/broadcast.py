"""The one broadcasting helper, and the dtype rules: states and coefficients are float32 at least.
No mathematics of diffusion."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """float64 stays; float32 stays; anything narrower (bfloat16, integers) becomes float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def precise(x: Tensor) -> Tensor:
    """float64 wherever the device has it: for noise levels, whose differences cancel."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def over(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient per sample, (B,) or (), shaped to multiply x (B, *S), in x's dtype but float32 at
    least."""
    shape = coefficient.shape + (1,) * (x.ndim - coefficient.ndim)
    return coefficient.to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32)).reshape(shape)
