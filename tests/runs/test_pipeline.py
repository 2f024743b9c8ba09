"""`unclip run` end to end on a few steps, and what can be done with its results."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from unclip.cli import main

Command = Callable[..., subprocess.CompletedProcess[str]]
SYNTHETIC = ["data=synthetic", "data.size=64", "extractor=random", "logger=csv", "paths.outputs=out"]
FEW_STEPS = ["trainer.max_steps=3", "data.batch_size=16"]


def steps_of(experiment: str) -> list[str]:
    """A few steps of each stage of an experiment, on data made on the spot."""
    sampling = ["prior.sampler.steps=3", "decoder.sampler.steps=3", "decoder.callbacks.fid=null"]
    return [
        "run",
        f"experiment={experiment}",
        *SYNTHETIC,
        *FEW_STEPS,
        *sampling,
        "sample.per_prompt=2",
        "evaluate.n=16",
    ]


def test_the_demo_runs_is_reused_sampled_evaluated_and_manipulated(
    unclip: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*steps_of("demo"), "results=out/result"]
    first = unclip(*command)
    assert first.returncode == 0, first.stdout + first.stderr
    result = tmp_path / "out" / "result"
    for name in (
        "grid.png",
        "denoising.png",
        "samples.jsonl",
        "metrics.json",
        "report.html",
        "pipeline.json",
    ):
        assert (result / name).is_file(), name
        assert name in first.stdout or name in ("samples.jsonl", "pipeline.json")
    lines = [json.loads(line) for line in (result / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 16
    assert {"file", "prompt", "seed", "sampler", "steps", "guidance", "weights"} <= lines[0].keys()
    assert Image.open(result / lines[-1]["file"]).size == (32, 32)
    metrics = json.loads((result / "metrics.json").read_text())
    assert {"value", "n", "floor"} <= metrics["fd"].keys()
    html = (result / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "http" not in html

    start = time.monotonic()
    again = unclip(*command)
    assert time.monotonic() - start < 30
    assert again.stdout.count("finished already") == 4

    prompts = 'prompts=["a solid disc","something new"]'
    sampled = unclip(
        "sample", "run=out/result", prompts, "per_prompt=2", "out=mine", "guidance=2", "paths.outputs=out"
    )
    assert sampled.returncode == 0, sampled.stderr
    drawn = [json.loads(line) for line in (tmp_path / "mine" / "samples.jsonl").read_text().splitlines()]
    assert [d["prompt"] for d in drawn] == ["a solid disc", "a solid disc", "something new", "something new"]
    assert drawn[0]["guidance"] == 2
    evaluated = unclip(
        "evaluate", "run=out/result", "extractor=random", "n=16", "out=numbers", "paths.outputs=out"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    repeated = json.loads((tmp_path / "numbers" / "metrics.json").read_text())
    assert repeated["fd"]["value"] == pytest.approx(metrics["fd"]["value"], rel=1e-6)

    monkeypatch.chdir(tmp_path)
    common = ["run=out/result", "extractor=random", "steps=3", "out=changed", "paths.outputs=out"]
    asked = ["target=a solid disc", "thetas=[0,1]", "images=test:0,3"]
    assert main(["manipulate", "text_diff", *common, *asked]) == 0
    rows = json.loads((tmp_path / "changed" / "text_diff.json").read_text())["rows"]
    assert [len(row["embedding_cosine"]) for row in rows] == [3, 3]  # the picture, and theta 0 and 1
    assert rows[0]["embedding_cosine"][0] == pytest.approx(1, abs=1e-4)
    assert Image.open(tmp_path / "changed" / "text_diff.png").size[0] > 3 * 64
    capsys.readouterr()
    for wrong, line in {
        ("nope",): "nope: is no manipulation; possible: inpaint, interpolate",
        ("negative", *common): "  negative: is not set",
        ("pca", *common, "images=test:99999"): "must be numbers from 0 to",
        ("pca", *common, "images=out/result/samples"): "what do the 16 pictures show",
        ("outpaint", *common, "border=3"): "border may be 4, 8",
    }.items():
        assert main(["manipulate", *wrong]) == 2
        assert line in capsys.readouterr().err


@pytest.mark.slow
def test_the_reference_configuration_trains_a_few_steps_of_each_stage(
    unclip: Command, tmp_path: Path
) -> None:
    command = [
        *steps_of("fashion_mnist/reference"),
        "decoder.data.batch_size=2",
        "sample.per_prompt=1",
        "evaluate.n=8",
    ]
    result = unclip(*command, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    statuses = [
        json.loads((p.parent / "status.json").read_text())
        for p in (tmp_path / "out").glob("fashion_mnist/reference/*/weights.safetensors")
    ]
    assert [s["state"] for s in statuses] == ["finished"] * 3


@pytest.mark.slow
def test_the_prompt_decides_the_picture(unclip: Command, tmp_path: Path) -> None:
    """Real garments, a third of the demo's budget: what is asked for is seen, and captions in another order are not."""
    budget = ["clip.trainer.max_steps=300", "prior.trainer.max_steps=150", "decoder.trainer.max_steps=220"]
    result = unclip(
        "run", "experiment=demo", *budget, "sample.per_prompt=20", "evaluate.n=200", "results=r", timeout=900
    )
    assert result.returncode == 0, result.stderr
    from unclip.data.fashion_mnist import FashionMNIST
    from unclip.evaluate.extractors import FashionMnistClassifier

    files = [tmp_path / "r" / "samples" / f"{i:05d}.png" for i in range(200)]
    images = torch.stack(
        [torch.tensor(list(Image.open(f).getdata()), dtype=torch.uint8).view(1, 32, 32) for f in files]
    )
    seen = FashionMnistClassifier().logits(images).argmax(1)
    asked = torch.arange(10).repeat_interleave(20)
    assert len(FashionMNIST(str(tmp_path / "data" / "fashion_mnist")).captions) == 10
    matching, shuffled = (seen == asked).double().mean(), (seen == asked.roll(20)).double().mean()
    assert matching > 0.5
    assert shuffled < 0.2
