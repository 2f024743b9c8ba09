"""Shared by all tests: quiet, deterministic, and away from the checkout's own outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from unclip.data.fashion_mnist import FashionMNIST

ROOT = Path(__file__).parent.parent

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores
os.environ.setdefault("WANDB_SILENT", "true")

# The smallest run of each kind: a second or two of training on data made on the spot.
SMALL_DATA = ["data=synthetic", "data.size=64", "data.image_size=16", "data.batch_size=16", "logger=none"]
SMALL = {
    "clip": [
        "stage=clip",
        *SMALL_DATA,
        "model.width=32",
        "model.image_layers=1",
        "model.text_layers=1",
        "model.embedding_dim=16",
    ],
    "prior": [
        "stage=prior",
        *SMALL_DATA,
        "model.width=32",
        "model.layers=1",
        "clip=random",
        "sampler.steps=4",
    ],
    "decoder": [
        "stage=decoder",
        *SMALL_DATA,
        "model.channels=8",
        "model.cond_width=16",
        "model.blocks=1",
        "model.dropout=0.1",
        "clip=random",
        "sampler.steps=4",
        "extractor=random",
        "callbacks.fid.n=8",
        "callbacks.fid.n_final=8",
        "callbacks.samples.rows=1",
    ],
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU, and there is none here")


@pytest.fixture
def unclip(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command `unclip ...` in an empty folder."""

    def run(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "unclip", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def fashion_mnist() -> FashionMNIST:
    """The real data, where `make demo` keeps it; fetched once, as it would be there."""
    from unclip.data.fashion_mnist import FashionMNIST
    from unclip.data.places import DataUnavailable

    data = FashionMNIST(folder=str(ROOT / "data" / "fashion_mnist"))
    try:
        data.prepare_data()
    except DataUnavailable as reason:
        pytest.skip(str(reason))
    return data
