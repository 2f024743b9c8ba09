"""Calls of nets, diffusion and evaluation with numbers that they cannot work with, and what they say, word for word;
`...` stands for what is long. A table; test_messages.py makes the calls."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import nn

from unclip.diffusion import Discrete, Eps, Grid, guided, make_grid
from unclip.diffusion.denoiser import Denoiser
from unclip.diffusion.variance import Analytic
from unclip.evaluate import consistency, embedding_metrics, manifold, pixels
from unclip.evaluate.extractors import RandomNetwork
from unclip.nets import autoencoder, layers, open_clip, pca, unet

TABLE = Discrete([0.1, 0.2])
GREY = torch.zeros(3, 1, 8, 8)
ROWS = torch.ones(3, 4)


def _none(x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
    return x


def _hub_is_silent() -> None:
    with open_clip._one_line("ViT-B-32", "its weights", "laion"):
        raise OSError("no network")


def _no_tokenizer() -> None:
    with open_clip._one_line("ViT-B-32", "its tokenizer"):
        raise OSError("no network")


def _other_weights() -> None:
    with open_clip._one_line("ViT-B-32", "its weights", __file__):
        raise RuntimeError("size mismatch")


def _other_tokenizer() -> None:
    library = SimpleNamespace(
        list_models=lambda: ["ViT-B-32"], list_pretrained_tags_by_model=lambda _: ["laion"]
    )
    open_clip._model(library, "ViT-B-32", "openai")


CALLS: dict[str, Callable[[], object]] = {
    # diffusion
    "time = 'sigma': what a network receives as time is 't' or 'log_snr'": lambda: Denoiser(
        nn.Identity(), TABLE, Eps(), time="sigma"  # type: ignore[arg-type]
    ),
    "t, alpha, sigma of shapes (1,), (1,), (1,): a grid of N >= 1 steps has (N+1,) of each": lambda: Grid(
        torch.ones(1), torch.ones(1), torch.ones(1)
    ),
    "guidance needs cond and null_cond of the same keys: ['text'] and None": lambda: guided(_none, 2.0, None)(
        GREY, torch.zeros(3), {"text": ROWS}
    ),
    "betas of shape (1,): a table is one row of T >= 2 betas": lambda: Discrete([0.5]),
    "batches is empty: the analytic variance is an average over data": lambda: Analytic.estimate(
        _none, [], make_grid(TABLE, 2)
    ),
    # evaluation
    "no pictures to judge": lambda: consistency.inception_style_score(ROWS[:0]),
    "[3, 2] rows: there must be one of each a picture": lambda: consistency.confusion(ROWS, torch.zeros(2)),
    "3 and 2 ids: must be one for each of 3 queries and 3 candidates": lambda: embedding_metrics.retrieval(
        ROWS, ROWS, torch.arange(3), torch.arange(2)
    ),
    "2 labels of 3 images: must be one each, at least one": lambda: embedding_metrics.zero_shot_accuracy(
        ROWS, [ROWS], torch.zeros(2)
    ),
    "embeddings of shape (4,): must be (N, D) with N >= 1": lambda: embedding_metrics.zero_shot_accuracy(
        ROWS, [ROWS[0]], torch.zeros(3, dtype=torch.long)
    ),
    "images of torch.float32 (3, 1, 8, 8): must be uint8 (N,C,H,W), as they are stored": lambda: (
        RandomNetwork().features(GREY)
    ),
    "images of torch.float32 (3, 1, 8, 8): must be uint8 (N,C,H,W), at least one": lambda: pixels.brightness(GREY),
    "features of shape (0, 4): must be (N, F), N >= 1, all finite": lambda: manifold.nearest(ROWS[:0], ROWS, 1),
    # nets
    "groups = 3 does not divide the 8 channels of a grid ([8, 16, 16])": lambda: autoencoder.Autoencoder(
        16, 1, channels=8, max_channels=16, groups=3
    ),
    "the width of a time embedding is 5; it must be even and at least 2": lambda: layers.TimeEmbedding(5),
    "1 embeddings: principal components need at least 2": lambda: pca.PCA.fitted(ROWS[:1]),
    "groups = 3 does not divide the 8 channels of a level ([8, 16])": lambda: unet.check_shape(
        16, 1, [8, 16], [], False, 1, 3
    ),
    "clip = open_clip:ViT-B-32:openai: no such weights; possible: laion, or the path of a file": _other_tokenizer,
    "clip = open_clip:ViT-B-32:laion: its weights cannot be had (no network): fetch them where there is a network, "
    "into the cache of HF_HOME, or give a file, clip=open_clip:ViT-B-32:PATH": _hub_is_silent,
    "clip = open_clip:ViT-B-32: its tokenizer cannot be had (no network): ...": _no_tokenizer,
    "clip = open_clip:ViT-B-32:...: not weights of this model (size mismatch)": _other_weights,
}  # fmt: skip
