"""A cascade from one command: two upsamplers after the decoder, and pictures, records and numbers of what they draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from unclip.config.tree import OWN_FOLDER

SMALL = "data:\n  image_size: 8\n"
UPSAMPLER = """
  - override /stage: upsampler
  - override /corruption: {corruption}

model:
  factor: 2
  channels: 8
  multipliers: [1, 2]
  blocks: 1
  cond_width: 16
  unshuffle: 1
stage:
  crop: 0.5
data:
  image_size: {size}
sampler:
  steps: {steps}
"""
FILES = {
    "clip": f"  - /experiment/smoke/clip\n\n{SMALL}",
    "prior": f"  - /experiment/smoke/prior\n\n{SMALL}",
    "decoder": f"  - /experiment/smoke/decoder\n\n{SMALL}",
    "upsampler": "  - /experiment/smoke/common" + UPSAMPLER.format(corruption="blur", size=16, steps=4),
    "upsampler2": "  - /experiment/smoke/common" + UPSAMPLER.format(corruption="bsr", size=32, steps=3),
    "sample": "  - /experiment/smoke/sample\n",
    "evaluate": "  - /experiment/smoke/evaluate\n",
}


@pytest.mark.slow
def test_two_upsamplers_after_a_decoder(unclip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "mine" / "experiment" / "tiny"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n# A tiny cascade.\ndefaults:\n{content}")
    monkeypatch.setenv(OWN_FOLDER, str(tmp_path / "mine"))
    asked = ["trainer.max_steps=4", "sample.per_prompt=2", "sample.denoising=1"]
    done = unclip("run", "experiment=tiny", "upsampler2.optim.lr=0.001", *asked, "results=r")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[5/6] unclip train experiment=tiny/upsampler2 optim.lr=0.001 trainer.max_steps=4" in done.stdout
    line = json.loads((tmp_path / "r" / "samples.jsonl").read_text().splitlines()[0])
    assert [(u["factor"], u["size"], u["steps"]) for u in line["upsamplers"]] == [(2, 16, 4), (2, 32, 3)]
    assert {"decoder", "upsampler", "upsampler2"} < line["weights"].keys()
    assert Image.open(tmp_path / "r" / line["file"]).size == (32, 32)
    assert Image.open(tmp_path / "r" / "denoising.png").width > 300
    measured = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert [u["corruption"] for u in measured["sampling"]["upsamplers"]] == ["GaussianBlur", "Degradation"]
    alone = measured["upsampling"]  # both, of real images as small as the decoder's pictures
    assert (alone["from"], alone["to"], len(alone["upsamplers"])) == (8, 32, 2)
    assert alone["floor"] < alone["bicubic"]

    for request, size in ((["upsampler2=none"], 16), (["upsampler=none"], 8)):
        one = unclip("sample", "run=r", 'prompts=["a solid disc"]', "out=one", *request)
        assert one.returncode == 0, one.stderr
        assert Image.open(tmp_path / "one" / "samples" / "00000.png").size == (size, size)
    stages = json.loads((tmp_path / "r" / "pipeline.json").read_text())["stages"]
    crossed = unclip("sample", "run=r", f"upsampler={stages['upsampler2']['folder']}")
    assert crossed.returncode == 2
    assert "upsampler: enlarges pictures of 16 to 32, and the decoder draws 8" in crossed.stderr


@pytest.mark.slow
def test_it_beats_bicubic_enlargement_of_real_pictures(unclip, tmp_path: Path, fashion_mnist):
    """A third of the experiment's steps; Frechet distance of 1000 test images, reduced and enlarged again, to real ones
    of training."""
    from unclip import build
    from unclip.data.images import to_float, to_uint8
    from unclip.evaluate.distances import frechet_distance, moments
    from unclip.evaluate.extractors import FashionMnistClassifier
    from unclip.runs.store import Run

    asked = ["trainer.max_steps=500", "logger=none", f"data.folder={fashion_mnist.folder}"]
    done = unclip("train", "experiment=cascade/upsampler", *asked, timeout=900)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / done.stdout.strip().splitlines()[-1].removeprefix("run: "))
    source = build.data(run.config)
    module = build.module(run.config, build.trained_net(run, source), embeddings=None).eval()
    real = to_float(source.split("test").images[:1000])
    low = module.reduced(real)
    sampler = module.sampler.but(steps=10)
    parts = [module.sample(low[i], i, 0, sampler) for i in torch.arange(1000).split(250)]
    ours, bicubic = torch.cat(parts), F.interpolate(low, scale_factor=2.0, mode="bicubic")
    extractor = FashionMnistClassifier()
    train = moments(extractor.features(source.split("train").images[:5000]))
    fd = [float(frechet_distance(*moments(extractor.features(to_uint8(x))), *train)) for x in (ours, bicubic)]
    assert fd[0] < 0.7 * fd[1], fd
