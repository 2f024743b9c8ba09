"""Colour without captions: the flowers experiment at reduced width trains and draws; a wrong CLIP is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unclip.config.compose import compose
from unclip.config.problems import Problems


def test_a_net_without_conditions_has_no_clip_and_any_other_has_one():
    with pytest.raises(Problems, match="model=decoder/flowers is unconditional: clip=null"):
        compose("train", ["stage=decoder", "model=decoder/flowers"])
    with pytest.raises(Problems, match="is told embeddings: auto, a run of one, or random"):
        compose("train", ["stage=decoder", "clip=null"])


@pytest.mark.slow
def test_the_flowers_experiment_runs_on_any_colour_set(unclip, tmp_path: Path):
    done = unclip(
        "train",
        "experiment=flowers/unet",
        "data=synthetic",
        "data.channels=3",
        "data.image_size=16",
        "data.size=64",
        "data.batch_size=4",
        "model.widths=[8,16,24,32]",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "sampler.steps=4",
        "callbacks.samples.rows=1",
        "callbacks.fid.n_final=8",
        "logger=none",
    )
    assert done.returncode == 0, done.stderr
    run = Path(tmp_path / done.stdout.strip().splitlines()[-1].removeprefix("run: "))
    status = json.loads((run / "status.json").read_text())
    assert status["step"] == 16
    assert "val/fd_n8" in status["metrics"]
    assert list((run / "samples").glob("*.png"))
