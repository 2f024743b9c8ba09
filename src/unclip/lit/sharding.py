"""Fully sharded training (FSDP2): of parameters, gradients, moments and averages each rank keeps a part.
What is trained is not known here; what is saved is whole, in the format of any other run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce, get_rank
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from unclip.nets.blocks import blocks


class FullyShard(ModelParallelStrategy):
    """Over all ranks at once (Zhao et al. 2023). Each block of the net is gathered just before it runs, the remaining
    parameters for the whole step; in bfloat16 where the trainer's precision is mixed. Gradients are reduced in float32.

    Checkpoints have the format of a single process: the first rank gathers and writes them, every rank reads them.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self._gathered = ExitStack()

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False  # into the whole net, before it is sharded

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        assert self.lightning_module is not None
        mixed = {"bf16-mixed": torch.bfloat16}.get(str(self.precision_plugin.precision))
        shard(self.lightning_module, self.device_mesh["data_parallel"], mixed)
        Strategy.setup(self, trainer)
        self.barrier()

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients of the unsharded scalars over the ranks. Averaging an averaged part again changes
        nothing, so this is right for accumulated gradients too."""
        assert self.lightning_module is not None
        for parameter in self.lightning_module.parameters():
            if parameter.grad is not None and not isinstance(parameter, DTensor):
                all_reduce(parameter.grad, ReduceOp.SUM)
                parameter.grad /= self.world_size

    def on_validation_start(self) -> None:
        """Gather the net where no average has been gathered in its place."""
        assert self.lightning_module is not None
        if any(isinstance(p, DTensor) for p in self.lightning_module.parameters()):
            self._gathered.enter_context(unsharded(self.lightning_module))

    def on_validation_end(self) -> None:
        self._gathered.close()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return assembled(self.lightning_module.state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return assembled(optimizer.state_dict())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbers = (i for group in saved["param_groups"] for i in group["params"])
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            state = {
                number: {
                    name: placed(x, p) if isinstance(x, Tensor) and x.shape == p.shape else x
                    for name, x in saved["state"].get(number, {}).items()
                }
                for number, p in zip(numbers, parameters, strict=True)
            }
            optimizer.load_state_dict({**saved, "state": state})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Memory-mapped: the ranks of a machine share the pages, and copy only the shards they keep."""
        return dict(torch.load(checkpoint_path, map_location="cpu", weights_only=weights_only, mmap=True))


def shard(stage: nn.Module, mesh: DeviceMesh, mixed: torch.dtype | None = None) -> None:
    """Shard a stage's parameters, in place and once, over the ranks of a mesh; its `training_step` gathers them in the
    dtype `mixed`. Autocast would cast each gathered weight instead, and keep the copy until the backward pass.

    Scalars, such as a temperature, have no rows to shard: they stay on every rank.
    """
    if isinstance(stage, FSDPModule):
        return
    numbers = {p for p in stage.parameters() if p.ndim == 0}
    for parameter in stage.parameters():
        parameter.data = parameter.data.contiguous()  # in whatever memory format: shards are rows
    net = stage.net
    assert isinstance(net, nn.Module)
    policy = MixedPrecisionPolicy(mixed, torch.float32, cast_forward_inputs=False)
    share: Any = partial(fully_shard, mesh=mesh, mp_policy=policy, ignored_params=numbers)
    for block in blocks(net):
        share(block)
    share(stage, reshard_after_forward=False)
    register_fsdp_forward_method(stage, "training_step")


@contextmanager
def unsharded(stage: nn.Module) -> Iterator[None]:
    """Inside, every rank holds the whole stage, in the precision in which it trains, and computes without the others;
    all ranks enter and leave together."""
    parts = [part for part in stage.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    lower = next((p for p in stage.parameters() if p.dtype != torch.float32), None) if parts else None
    try:
        with nullcontext() if lower is None else torch.autocast(lower.device.type, lower.dtype):
            yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not stage, recurse=False)


def local(x: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, in the same memory; any other tensor itself."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    """A sharded tensor gathered, on all ranks together; any other tensor itself."""
    return cast("Tensor", x.full_tensor()) if isinstance(x, DTensor) else x


def placed(x: Tensor, like: Tensor) -> Tensor:
    """x, the same on all ranks, sharded and laid out in memory as `like` is, on its device."""
    if isinstance(like, DTensor):
        return distribute_tensor(x.contiguous(), like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(x)


def assembled(state: Any) -> Any:
    """Nested dictionaries and lists with sharded tensors gathered, on all ranks together. Only the first rank keeps
    them, on the CPU; elsewhere None is in their place."""
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if get_rank() == 0 else None
    if isinstance(state, dict):
        return {name: assembled(x) for name, x in state.items()}
    return [assembled(x) for x in state] if isinstance(state, list) else state
