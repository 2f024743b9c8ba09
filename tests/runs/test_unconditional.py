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

    name = str(run)
    drawn = unclip("sample", f"run={name}", "per_prompt=3", "out=drawn", "accelerator=cpu")
    assert drawn.returncode == 0, drawn.stderr
    assert "\n3 pictures: " in drawn.stdout
    lines = (tmp_path / "drawn" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == [""] * 3
    extractor = ["extractor=random", "extractor.image_channels=3"]
    judged = unclip(
        "evaluate", f"run={name}", *extractor, "n=8", "kid_subsets=2", "out=judged", "accelerator=cpu"
    )
    assert judged.returncode == 0, judged.stderr
    measured = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    assert {"fd", "memorisation"} < measured.keys()
    assert "prior" not in measured
    assert measured["sampling"]["prior"] == "none: unconditional"
    for verb, wrong, line in (
        (["sample"], 'prompts=["a dog"]', "is unconditional and reads none: per_prompt=N"),
        (["sample"], "prior=abc", "is unconditional and takes no embeddings: prior=none"),
        (["evaluate", *extractor], "metrics=prior", "needs a trained model with a CLIP"),
        (["manipulate", "variations"], "seed=1", "have no embedding to be changed"),
    ):
        refused = unclip(*verb, f"run={name}", wrong, "accelerator=cpu")
        assert refused.returncode == 2, refused.stderr
        assert line in refused.stderr


def test_colour_for_a_judge_of_grey_pictures_is_refused_before_anything_is_trained():
    with pytest.raises(Problems, match=r"extractor=random extractor\.image_channels=3, or inception"):
        compose("train", ["stage=decoder", "data=emoji"])
    compose("train", ["stage=decoder", "data=emoji", "callbacks=training"])  # nothing is judged
