"""`unclip run` of experiments with a stage beside CLIP, prior and decoder: from the command to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

TINY = [
    "data=synthetic",
    "data.size=128",
    "data.batch_size=16",
    "trainer.max_steps=2",
    "trainer.limit_val_batches=1",
    "sampler.steps=3",
    "sample.per_prompt=2",
    "sample.denoising=1",
    "evaluate.n=24",
    "logger=csv",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "overrides", "stage", "metric"),
    [
        ("cascade", ["~data.resize"], "upsampler", "upsampling"),  # shapes are drawn at any size
        ("latent", [], "autoencoder", "reconstruction"),
    ],
)
def test_it_goes_from_the_command_to_the_report(
    unclip, tmp_path: Path, experiment: str, overrides: list[str], stage: str, metric: str
) -> None:
    done = unclip("run", f"experiment={experiment}", *TINY, *overrides, "results=r", timeout=600)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"unclip train experiment={experiment}/{stage} " in done.stdout
    for ugly in ("Traceback", "Warning", "NaN", "nan "):
        assert ugly not in said
    lines = [line for line in done.stdout.splitlines() if line.startswith("  training")]
    assert len(lines) == len(set(lines)) == 4  # each stage says once that it is done

    results = tmp_path / "r"
    assert Image.open(results / "samples" / "00000.png").size == (32, 32)
    measured = json.loads((results / "metrics.json").read_text())
    assert measured[metric]["n"] == 24
    assert measured["sampling"]["runs"].keys() == {"clip", "prior", "decoder", stage}
    page = (results / "report.html").read_text()
    assert f"<h2>{metric.capitalize()}</h2>" in page
    assert f"<td>{stage}</td>" in page
    if metric == "upsampling":
        upsampled = measured[metric]
        assert (upsampled["from"], upsampled["to"], upsampled["upsamplers"][0]["steps"]) == (16, 32, 3)
        assert 0 < upsampled["floor"] < upsampled["bicubic"] < upsampled["value"]  # it has learned nothing
    else:
        assert measured[metric]["latents"] == [4, 8, 8]
        assert measured[metric]["fd"]["floor"] < measured[metric]["fd"]["value"]
        assert 5 < measured[metric]["psnr"] < 30

    again = unclip("run", f"experiment={experiment}", *TINY, *overrides, "results=r")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") == 5
