"""Layers with implementations of their own for the CPU, where PyTorch's kernels are slow there; on other devices, and
in a compiled net, they are PyTorch's. The results are the same up to rounding; dropout draws other masks.

B batch, C channels, Y X pixels, G groups.  Measured on two AVX-512 cores with torch 2.12.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FINE = 16  # side in pixels from which convolutions are faster on channels_last
NARROW = 8  # channels of a group below which PyTorch's backward pass of a group norm is ten times slower
LEVELS = 2**16  # of a draw that decides on dropout
ALIGNED = 16  # floats of a vector register: attention over any other multiple of keys is half as fast


def here(x: Tensor) -> bool:
    """Whether our own implementation applies: float32 on a CPU, not compiled."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def arranged(x: Tensor, side: int | None = None) -> Tensor:
    """x (B,C,Y,X) in the memory format in which convolutions of grids of its side, or of `side`, are fastest."""
    coarse = x.device.type == "cpu" and (side or x.shape[-1]) < FINE
    return x.contiguous(memory_format=torch.contiguous_format if coarse else torch.channels_last)


def laid_out(net: nn.Module) -> None:
    """Give the weights of convolutions the memory format that is fastest on their device: on an accelerator
    channels_last, like images. A CPU copies them at every step whatever their format, fastest from the usual one."""
    on_cpu = next(net.parameters()).device.type == "cpu"
    net.to(memory_format=torch.contiguous_format if on_cpu else torch.channels_last)  # type: ignore[call-overload]


def aligned(tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Context tokens (B,M,E) of attention and their mask (B,M), padded by unseen tokens to a multiple of ALIGNED. Where
    there is no mask only on a CPU: elsewhere attention is faster without one."""
    more = -tokens.shape[1] % ALIGNED
    if not more or (mask is None and tokens.device.type != "cpu"):
        return tokens, mask
    seen = torch.ones_like(tokens[..., 0], dtype=torch.bool) if mask is None else mask
    return F.pad(tokens, (0, 0, 0, more)), F.pad(seen, (0, more))


class Dropout(nn.Dropout):
    """nn.Dropout with four draws from each 64-bit random number, where PyTorch takes one or two numbers a draw. The
    probability is rounded to a multiple of 1 / LEVELS; the mean is kept exactly."""

    def forward(self, input: Tensor) -> Tensor:
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        if not self.training or dropped == 0 or not here(input):
            return super().forward(input)
        n = input.numel()
        draws = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        mask = torch.empty_like(input)  # in the order of memory, whatever that is
        mask.as_strided((n,), (1,)).copy_(draws[:n])
        return input * mask.ge_(dropped - LEVELS // 2).mul_(LEVELS / (LEVELS - dropped))


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm, and after it a scale and shift (B,C) by a condition, if given: y (1 + scale) + shift."""

    def forward(self, input: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        pays = scale is not None or self.num_channels < NARROW * self.num_groups
        if pays and here(input) and self.weight.dtype == input.dtype:
            y: Tensor = _Norm.apply(input, self.num_groups, self.weight, self.bias, self.eps, scale, shift)
            return y
        y = super().forward(input)
        if scale is None or shift is None:
            return y
        return torch.addcmul(_over(shift), y, 1 + _over(scale))  # in one pass


class _Norm(torch.autograd.Function):
    """With y = ((x - mean) rstd weight + bias) (1 + scale) + shift, all its gradients are made of two sums over the
    pixels, of dy and of dy x; and that by x is dy, x and a constant, each times a number of its sample and channel."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        scale: Tensor | None,
        shift: Tensor | None,
    ) -> Tensor:
        b, c, height, width = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, b, c, height * width, groups, eps)
        if scale is not None and shift is not None:
            torch.addcmul(_over(shift), y, 1 + _over(scale), out=y)
        ctx.save_for_backward(x, mean, rstd, weight, bias, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = gradients
        x, mean, rstd, weight, bias, scale = ctx.saved_tensors
        each = x.shape[1] // mean.shape[1]  # channels of a group

        def by_channel(value: Tensor) -> Tensor:  # (B,G) -> (B,C)
            return value.repeat_interleave(each, dim=1)

        def by_group(value: Tensor) -> Tensor:  # (B,C) -> (B,G): the mean over a group's channels and pixels
            return value.unflatten(1, (-1, each)).sum(2) / (each * x.shape[2] * x.shape[3])

        product = dy * x
        total = dy.sum((2, 3))  # (B,C)
        along = by_channel(rstd) * (product.sum((2, 3)) - by_channel(mean) * total)  # (B,C): sums of dy x_hat
        gain = 1 if scale is None else 1 + scale
        slope = by_group(weight * gain * along) * rstd**2  # (B,G)
        level = by_group(weight * gain * total) * rstd - slope * mean
        torch.addcmul(_over(by_channel(-level)), dy, _over(by_channel(rstd) * weight * gain), out=product)
        dx = product.addcmul_(x, _over(by_channel(-slope)))
        dscale, dshift = (None, None) if scale is None else (weight * along + bias * total, total)
        return dx, None, (gain * along).sum(0), (gain * total).sum(0), None, dscale, dshift


def _over(value: Tensor) -> Tensor:
    """(B,C) to go with images (B,C,Y,X)."""
    return value[..., None, None]
