"""What all stages share: the optimizer, keyed randomness, logging; and what the two diffusion stages share.

Only `net` is trained and saved. Frozen things (the CLIP below) are not here at all: their embeddings are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import lightning
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from unclip.data.embeddings import Embeddings
from unclip.data.image_text import Split
from unclip.diffusion import Denoiser, Objective, Schedule, diffusion_loss
from unclip.diffusion.learned import Learned, VarianceGradient
from unclip.diffusion.times import Draw, Times, Uniform
from unclip.diffusion.weighting import Weighting
from unclip.lit.finite import Finite
from unclip.lit.optim import align
from unclip.lit.sharding import whole
from unclip.nets.cpu import laid_out
from unclip.randomness import BatchNoise, KeyedNoise, key
from unclip.sampling import Sampler

Optim = Callable[[nn.Module, int], tuple[Optimizer, Any]]
Batch = Mapping[str, Tensor]
UNIFORM = Uniform()
NET_TIME = 1000.0  # nets read time on the scale of a table of a thousand steps, whatever the schedule


class Stage(lightning.LightningModule):
    """A stage trains `net` with `optim(net, total_steps) -> (optimizer, scheduler)`.

    Randomness is a function of (seed, epoch, batch, rank), so an interrupted run resumes without any saved generator
    state, and the noise of a global batch is the same on any number of ranks, in any number of pieces. With gradient
    accumulation Lightning's `batch` is one piece of ours.
    """

    def __init__(self, net: nn.Module, optim: Optim, seed: int = 0):
        super().__init__()
        self.net, self.optim, self.seed = net, optim, seed
        self.embeddings: Embeddings | None = None  # of the data, for stages on top of a CLIP
        self._so_far: dict[str, list[Tensor]] = {}  # what `of_batch` collects from the pieces of a batch
        self._norms: list[Tensor] = []  # gradient norms of the lists in `clipped`
        self.finite = Finite()

    @property
    def pieces(self) -> int:
        """Pieces of a rank's part of a batch, each with a forward and backward pass of its own, accumulated."""
        return int(self.trainer.accumulate_grad_batches)

    @property
    def logs_step(self) -> bool:
        """Whether what is logged before the optimizer's step is written after it."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # its logger connector sets it
        return every > 0 and (self.global_step + 1) % every == 0

    @property
    def compiled(self) -> list[nn.Module]:
        """The modules that a training step calls, for torch.compile."""
        return [self.net]

    @property
    def varying(self) -> list[nn.Module]:
        """Those of them that are given batches of many sizes."""
        return []

    def on_fit_start(self) -> None:
        if self.embeddings is not None:
            self.embeddings = self.embeddings.to(self.device)

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.optim(self.net, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            align(optimizer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx % self.pieces == 0:
            for optimizer in self.trainer.optimizers:
                optimizer.zero_grad()  # Lightning would keep them in memory beside this batch's activations
        torch.manual_seed(key(self.seed, "dropout", self.current_epoch, batch_idx, self.global_rank))

    def on_before_backward(self, loss: Tensor) -> None:
        self.finite.saw(loss)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # Lightning leaves that to a fused step, which comes after clipping
        self._norms = [
            get_total_norm([p.grad for p in part if p.grad is not None]) for part in self.clipped(optimizer)
        ]
        norm = whole(self._norms[0])
        if self.logs_step:
            self.log("train/grad_norm", norm)
        self.finite.check(self, optimizer, norm)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Also of a fused optimizer under autocast, where Lightning refuses: it takes the gradients for scaled."""
        if gradient_clip_val:
            for part, norm in zip(self.clipped(optimizer), self._norms, strict=True):
                if gradient_clip_algorithm == "value":
                    clip_grad_value_(part, gradient_clip_val)
                else:
                    clip_grads_with_norm_(part, gradient_clip_val, norm)

    def clipped(self, optimizer: Optimizer) -> list[list[Tensor]]:
        """Lists of parameters, each clipped by its own gradient norm; the net's come first."""
        return [[p for group in optimizer.param_groups for p in group["params"]]]

    def training_noise(self, batch: Batch, batch_idx: int) -> BatchNoise:
        """This piece's part of the draws for a global training batch."""
        step, piece = divmod(batch_idx, self.pieces)
        seed = key(self.seed, "noise", self.current_epoch, step)
        number, of = self.global_rank * self.pieces + piece, self.trainer.world_size * self.pieces
        return BatchNoise(seed, len(batch["index"]), number, of, self.device)

    def of_batch(self, name: str, x: Tensor, batch_idx: int) -> Tensor | None:
        """x (B,...) of all pieces of this rank's batch, at the last of them; None before."""
        if self.pieces == 1:
            return x
        self._so_far.setdefault(name, []).append(x)
        return torch.cat(self._so_far.pop(name)) if (batch_idx + 1) % self.pieces == 0 else None

    def log_loss(self, loss: Tensor, batch_idx: int) -> None:
        """Log train/loss, the mean over the global batch; loss: the mean over this piece's samples."""
        found = self.of_batch("train/loss", loss.detach().reshape(1), batch_idx)
        if found is not None:
            self.log("train/loss", found.mean(), sync_dist=self.trainer.world_size > 1)

    def log_validation(self, means: Mapping[str, Tensor], count: int) -> None:
        """Log the means over all samples of all ranks; means: over the `count` samples of this rank's batch."""
        ranks = (
            self.trainer.world_size
        )  # Lightning divides by the ranks' mean number of samples, rounded down
        self.log_dict(means, sync_dist=ranks > 1, batch_size=count * ranks)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.finite.demand(self)
        counted_in(checkpoint, self.pieces, 1)
        checkpoint["skipped"] = self.finite.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run may resume with another number of pieces."""
        counted_in(checkpoint, 1, self.pieces)
        self.finite.skipped = checkpoint.get("skipped", 0)

    def summed(self, x: Tensor) -> Tensor:
        """x added up over all ranks."""
        total = self.trainer.strategy.reduce(x, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def all_ranks(self, x: Tensor) -> Tensor:
        """All ranks' rows, in the order of ranks; gradients flow back to each."""
        if self.trainer.world_size == 1:
            return x
        gathered = self.all_gather(x, sync_grads=x.is_floating_point())  # (ranks,B,...)
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)


class DiffusionStage(Stage):
    """A stage whose net is a denoiser, trained on x0 (B, *S) under a condition of cached CLIP embeddings.

    time: what the net receives, t (on the scale of 1,000 steps) or log_snr. times: which noise levels training
    visits; validation always visits the schedule's own. A subclass implements `example`, which gives x0 and the
    condition of a batch, and may override `losses`.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        objective: Objective,
        weighting: Weighting,
        sampler: Sampler,
        embeddings: Embeddings | None,
        optim: Optim,
        loss_norm: Literal["l2", "l1", "huber"] = "l2",
        time: Literal["t", "log_snr"] = "t",
        seed: int = 0,
        times: Times | None = None,
    ):
        super().__init__(net, optim, seed)
        self.times = times or UNIFORM
        # a learned schedule is a part of the net, saved and averaged with it, not another part of the stage
        self.schedule = VarianceGradient(schedule) if isinstance(schedule, Learned) else schedule
        self.objective, self.weighting = objective, weighting
        self.sampler, self.loss_norm, self.time = sampler, loss_norm, time
        self.embeddings = embeddings

    def to(self, *args: Any, **kwargs: Any) -> Self:
        super().to(*args, **kwargs)
        if not isinstance(self, FSDPModule):  # shards are rows, and stay so
            laid_out(self.net)
        return self

    def example(
        self, batch: Batch, split: Split, uniform: Callable[[], Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """x0 (B, *S) and condition of a batch; `uniform() -> (B,)` decides what is dropped, None drops
        nothing."""
        raise NotImplementedError

    @property
    def denoiser(self) -> Denoiser:
        scale = NET_TIME / (self.schedule.T or 1) if self.time == "t" else 1.0
        learned = bool(getattr(self.net, "learned_variance", False))
        return Denoiser(self.net, self.schedule, self.objective, self.time, scale, learned)

    def losses(self, x0: Tensor, draw: Draw, eps: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """(B,) at the draw's times."""
        weighting, norm = self.weighting, self.loss_norm
        return diffusion_loss(self.denoiser, x0, draw.t, eps, cond, weighting, norm, draw.density)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        noise = self.training_noise(batch, batch_idx)
        learned = self.schedule if isinstance(self.schedule, VarianceGradient) else None
        draw = self.times(noise.uniform(self.times.spread), learned.schedule if learned else self.schedule)
        if learned:
            density = draw.density
            draw = draw._replace(density=lambda: learned.through(density()))
        losses = self._losses(batch, "train", draw, noise, noise.uniform)
        if learned:
            learned.see(losses)
        if self.times.learns:
            t = self.of_batch("t", draw.t, batch_idx)
            seen = self.of_batch("losses", losses.detach(), batch_idx)
            if t is not None and seen is not None:
                self.times.learn(self.all_ranks(t), self.all_ranks(seen))
        loss = draw.mean(losses)
        self.log_loss(loss, batch_idx)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        noise = KeyedNoise(key(self.seed, "validation"), batch["index"])
        draw = UNIFORM(noise.uniform().to(self.device), self.schedule)
        losses = self._losses(batch, "validation", draw, noise, None)
        self.log_validation({"val/loss": losses.mean()}, len(losses))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["times"] = self.times.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.times.load_state_dict(checkpoint.get("times", {}))

    def _losses(
        self,
        batch: Batch,
        split: Split,
        draw: Draw,
        noise: BatchNoise | KeyedNoise,
        drop: Callable[[], Tensor] | None,
    ) -> Tensor:
        x0, cond = self.example(batch, split, drop)
        return self.losses(x0, draw, noise(x0), cond)


def counted_in(checkpoint: dict[str, Any], before: int, after: int) -> None:
    """Convert a checkpoint's count of Lightning's batches, `before` to one of ours, to `after` to one of ours."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for span in ("total", "current"):
        more = progress[span]["ready"] // before * (after - before)
        progress[span] = {name: count + more for name, count in progress[span].items()}


def keep(drop: float, uniform: Callable[[], Tensor] | None, like: Tensor) -> Tensor:
    """(B,) bool: which samples keep a condition that is dropped with probability `drop`."""
    if uniform is None:
        return torch.ones(len(like), dtype=torch.bool, device=like.device)
    return uniform().to(like.device) >= drop
