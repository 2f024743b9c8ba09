"""Training the autoencoder of latent diffusion (Rombach et al. 2022): reconstruction, a little KL, and, if wanted, a
perceptual distance and a discriminator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import Optimizer

from unclip.data.images import to_float, to_uint8
from unclip.diffusion.bounds import bounded
from unclip.evaluate.perceptual import Perceptual
from unclip.lit.base import Batch, Optim, Stage
from unclip.nets.autoencoder import Autoencoder, Gaussian
from unclip.nets.discriminator import hinge

LARGEST = 1e4  # of the adaptive weight


class AutoencoderModule(Stage):
    """Per value of a picture: |x - y| (l1) or (x - y)^2 (l2), y the reconstruction from a sample of the posterior, and
    kl_weight x KL / (C H W), so that a weight counts as in the paper, where all terms are sums over a picture.

    perceptual_weight: of the perceptual distance, added as in Esser et al. 2021. The discriminator's verdict on y is
    added from step `discriminator_start` on, with discriminator_weight; adaptive_weight: times the ratio of the
    gradients of reconstruction and verdict at the last layer (Esser et al. 2021, eq. 7).
    """

    net: Autoencoder

    @bounded
    def __init__(
        self,
        net: Autoencoder,
        optim: Optim,
        kl_weight: Annotated[float, "kl_weight >= 0"] = 1e-6,
        reconstruction: Literal["l1", "l2"] = "l1",
        perceptual_weight: Annotated[float, "perceptual_weight > 0"] = 1.0,
        discriminator_weight: Annotated[float, "discriminator_weight > 0"] = 0.5,
        discriminator_start: Annotated[int, "discriminator_start >= 0"] = 0,
        adaptive_weight: bool = True,
        seed: int = 0,
        perceptual: Perceptual | None = None,
        discriminator: nn.Module | None = None,
    ):
        super().__init__(net, optim, seed)
        self.kl_weight, self.reconstruction = kl_weight, reconstruction
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.discriminator, self.discriminator_weight = discriminator, discriminator_weight
        self.discriminator_start, self.adaptive_weight = discriminator_start, adaptive_weight
        self._errors: list[Tensor] = []  # of validation batches: sum of squares, number of values

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.perceptual is not None:
            self.perceptual = self.perceptual.to(self.device)

    def configure_optimizers(self) -> Any:
        """The discriminator's parameters have moments of their own in the same AdamW, and the net's rate: so there is
        one count of steps, and one state to go on from."""
        if self.discriminator is None:
            return super().configure_optimizers()
        both, steps = nn.ModuleList([self.net, self.discriminator]), self.trainer.estimated_stepping_batches
        optimizer, scheduler = self.optim(both, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def clipped(self, optimizer: Optimizer) -> list[list[Tensor]]:
        """Net and discriminator apart: neither's gradient shrinks for the other's being long."""
        return [list(part.parameters()) for part in (self.net, self.discriminator) if part is not None]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x = to_float(batch["image"])  # (B,C,H,W)
        noise = self.training_noise(batch, batch_idx)
        h, posterior = self.net(x, noise(x.new_empty(len(x), *self.net.latent_shape)))
        y = self.net.to_pixels(h)
        likeness = self.likeness(x, y)
        loss = likeness + self.divergence(x, posterior)
        self.log_loss(loss, batch_idx)
        return loss if self.discriminator is None else loss + self.adversarial(x, y, likeness)

    def likeness(self, x: Tensor, y: Tensor) -> Tensor:
        """How far reconstructions y are from pictures x, both (B,C,H,W): scalar, per value."""
        far = F.l1_loss(y, x) if self.reconstruction == "l1" else F.mse_loss(y, x)
        return far if self.perceptual is None else far + self.perceptual_weight * self.perceptual(x, y).mean()

    def divergence(self, x: Tensor, posterior: Gaussian) -> Tensor:
        """kl_weight x KL, scalar, per value of x (B,C,H,W)."""
        return self.kl_weight * posterior.kl().mean() / x[0].numel()

    def adversarial(self, x: Tensor, y: Tensor, likeness: Tensor) -> Tensor:
        """The net's loss by the discriminator and the discriminator's own, whose gradients reach only the one each;
        before the start 0, though with a gradient, which all ranks expect of all parameters."""
        judge = self.discriminator
        assert judge is not None
        if self.global_step < self.discriminator_start:
            return 0.0 * torch.stack([p.sum() for p in judge.parameters()]).sum()
        fixed = {name: p.detach() for name, p in judge.named_parameters()}
        verdict = -functional_call(judge, fixed, (y,)).mean()
        weight = self.discriminator_weight * self.balance(likeness, verdict)
        own = hinge(judge(x), judge(y.detach()))
        self.log_dict({"train/verdict": verdict, "train/discriminator": own, "train/balance": weight})
        return weight * verdict + own

    def balance(self, likeness: Tensor, verdict: Tensor) -> Tensor | float:
        """||grad likeness|| / ||grad verdict|| at the last layer's weights, over the global batch."""
        if not self.adaptive_weight:
            return 1.0
        weights = self.net.last.weight
        sizes = [
            self.all_ranks(torch.autograd.grad(loss, weights, retain_graph=True)[0].unsqueeze(0))
            .mean(0)
            .norm()
            for loss in (likeness, verdict)
        ]
        return (sizes[0] / (sizes[1] + 1e-4)).clamp(max=LARGEST).detach()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """val/loss of the mean latents; val/rms, the error of the pictures made of them, over all of them, in grey
        levels of 255."""
        x = to_float(batch["image"])
        posterior = self.net.encode(x)
        y = self.net.decode(posterior.mean)
        squares = (to_uint8(y).float() - batch["image"].float()).square()
        self._errors.append(torch.stack([squares.sum(), squares.new_tensor(squares.numel())]))
        loss = self.likeness(x, y) + self.divergence(x, posterior)
        self.log_validation({"val/loss": loss, "val/kl": posterior.kl().mean()}, len(x))

    def on_validation_epoch_end(self) -> None:
        total, values = self.summed(torch.stack(self._errors).sum(0)).unbind()
        self._errors.clear()
        self.log("val/rms", (total / values).sqrt())
