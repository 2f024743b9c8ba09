"""How a stage computes on its device: in which precision it multiplies, and what is compiled. Not what it computes."""

from __future__ import annotations

from typing import Literal

import torch

from unclip.lit.base import Stage

Compile = bool | Literal["auto", "reduce-overhead", "max-autotune"]
WITHOUT_GRAPHS = {"reduce-overhead": None, "max-autotune": "max-autotune-no-cudagraphs"}


def multiply(precision: Literal["highest", "high", "medium"]) -> None:
    """Products of float32 matrices as torch.set_float32_matmul_precision has it, and convolutions likewise: in TF32 on
    a GPU that has it, unless the precision is the highest."""
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


def compile_parts(stage: Stage, wanted: Compile, device: torch.device, sharded: bool = False) -> None:
    """torch.compile of what a stage calls, in place. auto: on a GPU, but for a sharded net, where gathering its blocks
    breaks the graph. A name is one of torch.compile's modes. Those record a CUDA graph for each size of a batch, with
    memory of its own: what is given many sizes does without."""
    if wanted == "auto":
        wanted = device.type == "cuda" and not sharded
    if wanted:
        mode = None if wanted is True else wanted
        for part in stage.compiled:
            part.compile(mode=WITHOUT_GRAPHS[mode] if mode and part in stage.varying else mode)
