"""A training that ran out of memory: which setting to lower, and how far, found by trying steps of smaller batches."""

from __future__ import annotations

import gc
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from unclip.config import rules
from unclip.config.problems import Failure
from unclip.nets.blocks import repeatable

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from unclip.data.module import ImageTextData
    from unclip.lit.base import Stage

# of the CPU's allocator, and of CUDA's libraries
REFUSED = ("not enough memory", "can't allocate memory", "ALLOC_FAILED")
FINENESS = 8  # the largest batch is found to within this part of the one that was too large


class OutOfMemory(Failure):
    """The message says what would fit."""


def ran_out(error: BaseException) -> bool:
    """Whether this error says that there is no more memory."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in REFUSED)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or said


def out_of_memory(
    error: BaseException, trainer: Trainer, module: Stage, source: ImageTextData, config: dict[str, Any]
) -> OutOfMemory:
    """The error to report instead. A single process finds by trial what fits; with several ranks it is a guess."""
    traceback.clear_frames(error.__traceback__)  # they hold what a step had computed
    error.__traceback__ = error.__context__ = error.__cause__ = None
    given, pieces, ranks = source.batch_size, module.pieces, trainer.world_size
    asked = given // ranks // pieces
    where = f"{_size(trainer.strategy.root_device)} do not hold a step of {_images(asked)}"
    if ranks > 1:
        where, found = f"{where} on each of {ranks} ranks", asked // 2
        but = f", but perhaps one of {found}"
    else:
        found = _found(trainer, module, source)
        but = f", but one of {found}"
    if found == asked:
        why = f"a step of {_images(found)} fits by itself: other processes use it, or what runs between steps"
        return OutOfMemory(f"out of memory, though {why}: callbacks.fid=null callbacks.samples=null")
    helps = not config.get("checkpointing") and any(True for _ in repeatable(module.net))
    if found == 0:
        other = "a smaller model, " + "checkpointing=true, " * helps
        return OutOfMemory(f"{where}, nor of 1: {other}trainer.precision=bf16-mixed, or another device")
    less = "checkpointing=true, which keeps less and is the same run; or " if helps else ""
    smaller = f"{less}data.batch_size={found * ranks * pieces}, another run"
    if not _may_be_in_pieces(config):
        return OutOfMemory(f"{where}{but}: {smaller}")
    more = next(
        k for k in range(pieces + 1, given + 1) if given % (k * ranks) == 0 and given // k // ranks <= found
    )
    same = f"computes each batch of {given} in {more} pieces, the same run with retry=true"
    return OutOfMemory(f"{where}{but}: trainer.accumulate_grad_batches={more} {same}; or {smaller}")


def _may_be_in_pieces(config: dict[str, Any]) -> bool:
    asked = {**config, "trainer": {**config["trainer"], "accumulate_grad_batches": 2}}
    return not list(rules.pieces(asked, {}, {"stage": config["stage"]["name"]}))


def _found(trainer: Trainer, module: Stage, source: ImageTextData) -> int:
    try:
        return largest(trainer, module, source)
    except Exception:  # a step that fails for another reason tells nothing: half of it is a guess
        return source.batch_size // module.pieces // 2


def largest(trainer: Trainer, module: Stage, source: ImageTextData) -> int:
    """The largest number of images, up to a piece of a batch, whose step fits into memory with all that training keeps;
    0 where not even one does."""
    device = trainer.strategy.root_device
    whole = next(iter(source.train_dataloader()))
    batch = {name: x[: source.batch_size // module.pieces] for name, x in whole.items()}
    most = len(batch["index"])
    module.to(device).train()
    trained = [p for p in module.parameters() if p.requires_grad]
    moments = [torch.empty_like(p) for p in trained for _ in range(2)]  # of AdamW
    told = {"log": lambda *_, **__: None, "log_dict": lambda *_, **__: None}  # there is no loop to log in
    for name, nothing in told.items():
        setattr(module, name, nothing)
    try:
        with torch.compiler.set_stance("force_eager"):
            low, high = 0, most + 1
            tried = most
            while high - low > max(1, most // FINENESS if low else 1):
                if _fits(trainer, module, {name: x[:tried].to(device) for name, x in batch.items()}):
                    low = tried
                else:
                    high = tried
                tried = max((low + high) // 2, 1)
            return low
    finally:
        for name in told:
            delattr(module, name)
        del moments
        _empty(module)


def _fits(trainer: Trainer, module: Stage, batch: dict[str, Any]) -> bool:
    try:
        with trainer.precision_plugin.train_step_context():
            loss: Any = module.training_step(batch, 0)
        loss.backward()
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return False
    finally:
        with suppress(NameError):
            del loss
        _empty(module)
    return True


def _empty(module: Stage) -> None:
    module.zero_grad()
    module._so_far.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _size(device: torch.device) -> str:
    if device.type != "cuda":
        return "this machine's memory and its limits"
    total = torch.cuda.get_device_properties(device).total_memory
    return f"the {total / 2**30:.1f} GiB of {torch.cuda.get_device_name(device)}"
