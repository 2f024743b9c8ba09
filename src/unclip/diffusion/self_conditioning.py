"""Self-conditioning (Chen et al. 2023, "Analog Bits", section 3.2): a denoiser that is told its own estimate of the
step before. The wrapper for sampling; training makes the estimate itself, without gradient, for half of its samples."""

from __future__ import annotations

import torch
from torch import Tensor

from unclip.diffusion.denoiser import Cond, Denoise

ESTIMATE = "x0_hat"  # its key in cond; a network takes a condition without it for one of zeros


def self_conditioned(denoise: Denoise) -> Denoise:
    """`denoise` with its last x0_hat as cond["x0_hat"] (B, *S), 0 at the first call (their algorithm 2).

    It has a state: make a new one for each run of a sampler. It goes within `guided`, whose two halves of a batch each
    have their own estimate; where guidance stops or starts on the way, the conditional one is kept, or serves for both.
    """
    last: Tensor | None = None

    def denoise_again(x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        nonlocal last
        if last is None:
            last = torch.zeros_like(x_t)
        elif len(last) != len(x_t):
            last = last[: len(x_t)] if len(last) > len(x_t) else torch.cat([last, last])
        last = denoise(x_t, t, {**(cond or {}), ESTIMATE: last})
        return last

    return denoise_again
