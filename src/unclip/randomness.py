"""Randomness that belongs to samples, not to processes: keyed by seed and index, so that neither the number
of devices nor the batch size nor an interruption changes what is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def key(seed: int, *parts: object) -> int:
    """A 63-bit seed for one purpose: `key(seed, "data", epoch)`. Different parts give unrelated streams."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class KeyedNoise:
    """Gaussian noise for a batch of samples, each from its own CPU generator keyed by (seed, index of the
    sample).

    Called with x (B, *S) it gives noise like x, row i being the next draw of sample `indices[i]`: what
    samplers take as `noise`. Any slice of the samples, in any batches on any devices, gets the same noise.
    """

    def __init__(self, seed: int, indices: Sequence[int] | Tensor):
        listed = indices.tolist() if isinstance(indices, Tensor) else indices
        self.generators = [torch.Generator().manual_seed(key(seed, int(i))) for i in listed]

    def __call__(self, x: Tensor) -> Tensor:
        self._check(len(x))
        rows = torch.stack([torch.randn(x.shape[1:], generator=g) for g in self.generators])
        if x.device.type == "cuda":
            rows = rows.pin_memory().to(x.device, non_blocking=True)  # the host does not wait for the GPU
        return rows.to(device=x.device, dtype=x.dtype)

    def uniform(self) -> Tensor:
        """(B,) in [0, 1)."""
        return torch.cat([torch.rand(1, generator=g) for g in self.generators])

    def _check(self, rows: int) -> None:
        if rows != len(self.generators):
            raise ValueError(f"x has {rows} rows, the noise is keyed for {len(self.generators)} samples")


class BatchNoise:
    """Draws for one rank's part of a global batch: made for the whole batch from one generator, then cut out.

    So the ranks together draw what one process would, and no two ranks draw the same.
    """

    def __init__(
        self, seed: int, rows: int, rank: int = 0, ranks: int = 1, device: torch.device | str = "cpu"
    ):
        self.generator = torch.Generator(device).manual_seed(seed)
        self.total, self.part = rows * ranks, slice(rows * rank, rows * (rank + 1))

    def __call__(self, x: Tensor) -> Tensor:
        """Gaussian, like x (B, *S)."""
        shape = (self.total, *x.shape[1:])
        return torch.randn(shape, generator=self.generator, device=self.generator.device)[self.part].to(x)

    def uniform(self, arrange: Callable[[Tensor], Tensor] = lambda u: u) -> Tensor:
        """(B,) in [0, 1). `arrange` has the draws of the whole global batch before they are cut."""
        whole = torch.rand(self.total, generator=self.generator, device=self.generator.device)
        return arrange(whole)[self.part]
