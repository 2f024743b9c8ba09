"""What a user would pick instead, training on the same batches: other libraries' U-Nets with as many parameters as
ours, and the training that each library's own examples have; and ours with its blocks computed again in the backward
pass. A library that is not installed says how to get it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unclip.bench.fit import Training
from unclip.bench.measure import Absent, Way, looped
from unclip.bench.tutorial import OTHERWISE, TutorialDecoder, TutorialTraining
from unclip.data.images import to_float
from unclip.diffusion import Discrete
from unclip.diffusion.betas import cosine_betas
from unclip.nets.decoder import DecoderNet

DALLE2 = (
    "pip install --no-deps dalle2-pytorch accelerate coca-pytorch einx ema-pytorch frozendict kornia kornia-rs loguru "
    "pytorch-warmup resize-right rotary-embedding-torch torch-einops-utils vector-quantize-pytorch x-clip beartype "
    "webdataset braceexpand embedding-reader (by itself it asks for other versions of open_clip_torch and pandas)"
)
PACKAGES = ("diffusers", "denoising-diffusion-pytorch", "dalle2-pytorch")
HOW = {
    "diffusers": "pip install 'unclip-lab[bench]'",
    "denoising_diffusion_pytorch": "pip install 'unclip-lab[bench]'",
    "dalle2_pytorch": DALLE2,
}
# of float16, which needs gradients that are scaled
UNSCALED = "written for float32 and bfloat16: trainer.precision=bf16-mixed to compare"


def peers(ours: Training) -> dict[str, Callable[[], Way | Absent]]:
    """By name, what makes each way of training beside `ours`."""
    others: dict[str, Callable[[], Way | Absent]] = {
        "tutorial": lambda: tutorial(ours),
        "diffusers": lambda: diffusers(ours),
        "denoising-diffusion-pytorch": lambda: denoising_diffusion(ours),
        "dalle2-pytorch": lambda: dalle2(ours),
    }
    if ours.dtype == torch.float16:
        others = {name: partial(Absent, name, UNSCALED) for name in others}
    return {**others, "checkpointing": lambda: again(ours)}


def again(ours: Training) -> Way:
    """Ours on the same data, with its blocks computed again in the backward pass."""
    twin = copy.copy(ours)
    twin.__dict__.pop("module", None)  # of its own, made from its own configuration
    twin.config = {**ours.config, "checkpointing": True}
    return twin.way(note="checkpointing=true")


def absent(package: str, name: str) -> Absent | None:
    """What to say of a library that is not there."""
    return None if find_spec(package) else Absent(name, f"not installed: {HOW[package]}")


def tutorial_net(ours: Training) -> TutorialDecoder | Absent:
    """The twin of our own net in the tutorial's form."""
    model = ours.config["model"]
    if not isinstance(ours.module.net, DecoderNet) or any(model[k] != v for k, v in OTHERWISE.items()):
        return Absent("tutorial", "written for the decoder's own U-Net as the reference has it")
    assert ours.clip is not None
    known = {"embedding_dim": ours.clip.embedding_dim, "token_width": ours.clip.token_width}
    twin = TutorialDecoder(**{"image_channels": ours.source.image_channels, **known, **model})
    return twin.to(ours.device)


def tutorial(ours: Training) -> Way | Absent:
    """As write-ups have it."""
    twin = tutorial_net(ours)
    if isinstance(twin, Absent):
        return twin
    training = TutorialTraining(twin, Discrete(cosine_betas(1000)).alpha_bar)
    training.mixed = ours.dtype == torch.bfloat16
    batches, known = ours.batches(), ours.embeddings.to(ours.device)

    def step() -> None:
        batch = next(batches)
        text = known.captions(batch["caption"])
        image = known.image["train"][batch["index"]]
        training.step(to_float(batch["image"]), image, text["tokens"], text["token_mask"])

    return looped("tutorial", step, ours.device, items=ours.batch, parameters=count(twin))


def diffusers(ours: Training) -> Way | Absent:
    """UNet2DModel and the unconditional training script's step."""
    if missing := absent("diffusers", "diffusers"):
        return missing
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    size, channels = ours.source.image_size, ours.source.image_channels

    def made(width: int) -> Any:
        down = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D")
        return UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=2,
            block_out_channels=tuple(width * m for m in (1, 2, 4, 8)),
            down_block_types=down,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
            norm_num_groups=8,
        )

    net = of_size(made, ours.parameters).to(ours.device)
    scheduler: Any = DDPMScheduler(1000)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    average = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True)
    batches = ours.batches()

    def step() -> None:
        x0 = to_float(next(batches)["image"])
        noise = torch.randn_like(x0)
        t = torch.randint(0, 1000, (len(x0),), device=x0.device)
        x_t = scheduler.add_noise(x0, noise, t)
        with mixed(ours):
            loss = F.mse_loss(net(x_t, t).sample.float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(net.parameters())

    note = "unconditional"
    return looped(
        "diffusers UNet2DModel", step, ours.device, items=ours.batch, parameters=count(net), note=note
    )


def denoising_diffusion(ours: Training) -> Way | Absent:
    """Unet, GaussianDiffusion and the step of the library's Trainer."""
    name = "denoising-diffusion-pytorch"
    if missing := absent("denoising_diffusion_pytorch", name):
        return missing
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    channels = ours.source.image_channels
    net = of_size(lambda width: Unet(width, channels=channels), ours.parameters)
    diffusion = GaussianDiffusion(net, image_size=ours.source.image_size, timesteps=1000).to(ours.device)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    average = EMA(diffusion, beta=0.995, update_every=10).to(ours.device)
    batches = ours.batches()

    def step() -> None:
        images = next(batches)["image"].float() / 255
        with mixed(ours):
            loss = diffusion(images)
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    return looped(name, step, ours.device, items=ours.batch, parameters=count(net), note="unconditional")


def dalle2(ours: Training) -> Way | Absent:
    """Unet and Decoder under the library's DecoderTrainer, told what ours is told."""
    if missing := absent("dalle2_pytorch", "dalle2-pytorch"):
        return missing
    from accelerate import Accelerator
    from dalle2_pytorch import Decoder, DecoderTrainer, Unet

    told: dict[str, Any] = {}
    if ours.clip is not None:
        told = {"image_embed_dim": ours.clip.embedding_dim, "text_embed_dim": ours.clip.token_width}
        told |= {
            "cond_on_text_encodings": bool(getattr(ours.module.net, "uses_caption", False)),
            "cond_dim": 128,
        }
    channels = ours.source.image_channels

    def made(width: int) -> nn.Module:
        return Unet(dim=width, channels=channels, **copy.deepcopy(told))

    net = of_size(made, ours.parameters)
    size = ours.source.image_size
    decoder = Decoder(
        net,
        image_size=size,
        channels=channels,
        timesteps=1000,
        learned_variance=False,
        unconditional=not told,
    )
    precision = "bf16" if ours.dtype == torch.bfloat16 else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=ours.device.type == "cpu")
    trainer = DecoderTrainer(decoder.to(ours.device), accelerator, lr=1e-4, ema_beta=0.99)
    batches = ours.batches()
    known = ours.embeddings.to(ours.device) if ours.embeddings else None

    def step() -> None:
        batch = next(batches)
        condition: dict[str, Tensor] = {}
        if known is not None:
            condition["image_embed"] = known.image["train"][batch["index"]]
            if told["cond_on_text_encodings"]:
                condition["text_encodings"] = known.captions(batch["caption"])["tokens"]
        trainer(batch["image"].float() / 255, unet_number=1, **condition)
        trainer.update(1)

    return looped("dalle2-pytorch", step, ours.device, items=ours.batch, parameters=count(net))


def mixed(ours: Training) -> AbstractContextManager[Any]:
    """The precision that ours trains in."""
    return torch.autocast(ours.device.type, torch.bfloat16, enabled=ours.dtype == torch.bfloat16)


def of_size(make: Callable[[int], nn.Module], parameters: int, start: int = 64) -> nn.Module:
    """The net whose number of parameters is nearest, over widths that are multiples of 8."""
    guess = 8 * max(1, round(start * (parameters / count(make(start))) ** 0.5 / 8))
    widths = [width for width in (guess - 8, guess, guess + 8) if width > 0]
    return min(map(make, widths), key=lambda net: abs(count(net) - parameters))


def count(net: nn.Module) -> int:
    """Its parameters."""
    return sum(p.numel() for p in net.parameters())
