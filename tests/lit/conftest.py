"""Tiny stages on drawn shapes: enough to train, small enough to train in a second."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import lightning
import pytest
import torch

from unclip.data.embeddings import Embeddings, image_features, text_features
from unclip.data.synthetic import Synthetic
from unclip.data.tokenizer import ByteTokenizer
from unclip.diffusion import X0, Discrete, V, cosine_betas
from unclip.diffusion.sample import ddim, ddpm
from unclip.diffusion.weighting import uniform
from unclip.lit.clip import ClipModule
from unclip.lit.decoder import DecoderModule
from unclip.lit.optim import adamw
from unclip.lit.prior import PriorModule
from unclip.nets.clip import CLIP
from unclip.nets.contrastive import multi_positive
from unclip.nets.decoder import DecoderNet
from unclip.nets.prior import PriorTransformer
from unclip.sampling import Sampler

SIZE, D, W = 16, 8, 16
TOKENIZER = ByteTokenizer(24)


def tiny_data(**loader) -> Synthetic:
    return Synthetic(size=32, image_size=SIZE, **{"batch_size": 32, **loader})


def tiny_clip() -> CLIP:
    torch.manual_seed(0)
    return CLIP(
        SIZE, 1, 256, 24, embedding_dim=D, patch=4, width=W, image_layers=2, text_layers=1, heads=2, dropout=0
    )


def tiny_embeddings(data, clip) -> Embeddings:
    images = {
        split: image_features(clip, data.split(split).images)["image"] for split in ("train", "validation")
    }
    text = text_features(clip, TOKENIZER, data.captions)
    return Embeddings(images, text["text"], text["tokens"], text["token_mask"])


def optim(lr: float = 3e-3):
    return partial(adamw, lr=lr, decay="constant")


def clip_module(data, **changes) -> ClipModule:
    settings = {
        "objective": multi_positive,
        "optim": optim(),
        "tokenizer": TOKENIZER,
        "captions": data.captions,
    }
    return ClipModule(tiny_clip(), **{**settings, **changes})


def prior_module(embeddings, steps: int = 6, **changes) -> PriorModule:
    torch.manual_seed(1)
    settings = {
        "net": PriorTransformer(D, W, 24, width=32, layers=2, heads=2, dropout=0.0),
        "schedule": Discrete(cosine_betas(100)),
        "objective": X0(),
        "weighting": uniform,
        "sampler": Sampler(ddpm, steps=steps),
        "embeddings": embeddings,
        "optim": optim(),
    }
    return PriorModule(**{**settings, **changes})


def decoder_module(embeddings, steps: int = 5, net: dict | None = None, **changes) -> DecoderModule:
    torch.manual_seed(2)
    shape = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "heads": 2, "groups": 4}
    shape |= {"dropout": 0.0, "cond_width": 32, "caption_layers": 0, "unshuffle": 2}
    settings = {
        "net": DecoderNet(SIZE, 1, D, W, **{**shape, **(net or {})}),
        "schedule": Discrete(cosine_betas(100)),
        "objective": V(),
        "weighting": uniform,
        "sampler": Sampler(ddim, steps=steps, guidance=1.5, clip=1.0),
        "embeddings": embeddings,
        "optim": optim(),
    }
    return DecoderModule(**{**settings, **changes})


def fit(module, data, steps: int, **trainer):
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "barebones": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    lightning.Trainer(max_steps=steps, **{**settings, **trainer}).fit(module, data)
    return module


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """Data, an untrained CLIP and its embeddings of the data."""
    data, clip = tiny_data(), tiny_clip().eval()
    return SimpleNamespace(data=data, clip=clip, embeddings=tiny_embeddings(data, clip))
