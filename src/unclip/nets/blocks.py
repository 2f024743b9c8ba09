"""The blocks that a net is built of: the units of sharding and of gradient checkpointing. What they compute is not
known here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def blocks(net: nn.Module) -> Iterator[nn.Module]:
    """The entries of a net's ModuleLists, and of its Sequentials but for single layers. An entry that holds lists of
    its own is divided into their entries and its other children."""
    for child in net.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            for entry in child:
                if isinstance(child, nn.ModuleList) or any(True for _ in entry.children()):
                    yield from _units(entry)
        else:
            yield from blocks(child)


def _units(entry: nn.Module) -> Iterator[nn.Module]:
    if any(isinstance(part, nn.ModuleList) for part in entry.modules()):
        for child in entry.children():
            for part in child if isinstance(child, nn.ModuleList) else [child]:
                yield from _units(part)
    elif any(True for _ in entry.parameters()):
        yield entry


def repeatable(net: nn.Module) -> Iterator[nn.Module]:
    """Those of its blocks that a backward pass may compute again, keeping less than they compute: single layers have
    nothing inside, and a batch norm would see its batch twice."""
    for block in blocks(net):
        inside = list(block.modules())[1:]
        if inside and not any(isinstance(part, _BatchNorm) for part in inside):
            yield block


def checkpoint_blocks(net: nn.Module) -> None:
    """Gradient checkpointing: keep only the input of each repeatable block and compute the rest again in the backward
    pass, with the same dropout (Chen et al. 2016, section 4.1). The same numbers, for one more forward pass, in the
    memory of one block.

    In place and once, before a net is compiled or sharded; names of parameters stay.
    """
    for block in list(repeatable(net)):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
