"""What a prior is for, on garments with a part of the experiment's budget: its samples are nearer to the images'
embeddings than the captions' own embeddings are, and the decoder draws better from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BUDGET = ["clip.trainer.max_steps=400", "prior.trainer.max_steps=800", "decoder.trainer.max_steps=700"]


@pytest.mark.slow
def test_both_priors_are_better_than_the_text_embedding(unclip, tmp_path: Path):
    done = unclip("run", "experiment=garments", *BUDGET, "evaluate.n=300", "results=r", timeout=2400)
    assert done.returncode == 0, done.stdout + done.stderr
    diffusion = json.loads((tmp_path / "r" / "metrics.json").read_text())
    clip = json.loads((tmp_path / "r" / "pipeline.json").read_text())["stages"]["clip"]["signature"]

    arguments = ["prior=autoregressive", f"clip={clip}", "trainer.max_steps=800", "stage.temperature=0.5"]
    trained = unclip("train", "experiment=garments/prior", *arguments, timeout=1200)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    run = trained.stdout.split()[-1]

    def evaluated(out: str, *arguments: str) -> dict:
        named = ["run=r", "experiment=garments/evaluate", "n=300", f"out={out}"]
        done = unclip("evaluate", *named, *arguments, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((tmp_path / out / "metrics.json").read_text())

    autoregressive = evaluated("other", f"prior={run}", "metrics=prior")
    for found in (diffusion["prior"], autoregressive["prior"]):
        assert found["value"] > found["text_embedding"] + 0.1
        assert found["value"] > found["shuffled_caption"] + 0.1
        assert found["retrieval"] > found["text_embedding_retrieval"] - 0.1  # which CLIP is trained for
        assert found["retrieval"] > found["shuffled_caption_retrieval"] + 0.3
    without = evaluated("none", "prior=none", "metrics=fd,attributes")
    assert diffusion["fd"]["value"] < without["fd"]["value"]  # by more, the better the decoder is
