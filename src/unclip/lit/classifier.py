"""Training a data set's own classifier: what images are judged by, never what they are made with."""

from __future__ import annotations

from typing import Annotated

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from unclip.data.images import to_float
from unclip.diffusion.bounds import bounded
from unclip.lit.base import Batch, Optim, Stage
from unclip.nets.classifier import Classifier


class ClassifierModule(Stage):
    """Cross entropy on labels.

    noise: each training image gets Gaussian noise of a standard deviation uniform in [0, noise), on the scale
    of [-1, 1], so that the judge forgives what little noise generated images keep.
    """

    net: Classifier

    @bounded
    def __init__(
        self,
        net: Classifier,
        optim: Optim,
        noise: Annotated[float, "noise >= 0"] = 0.0,
        seed: int = 0,
    ):
        super().__init__(net, optim, seed)
        self.noise = noise

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x = to_float(batch["image"])  # (B,C,H,W)
        if self.noise:
            draw = self.training_noise(batch, batch_idx)
            level = rearrange(self.noise * draw.uniform(), "b -> b 1 1 1").to(x)
            x = x + level * draw(x)
        loss = F.cross_entropy(self.net(x), batch["label"])
        self.log_loss(loss, batch_idx)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, label = self.net(to_float(batch["image"])), batch["label"]
        right = (logits.argmax(1) == label).float().mean()
        self.log_validation({"val/loss": F.cross_entropy(logits, label), "val/accuracy": right}, len(label))
