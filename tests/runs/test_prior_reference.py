"""A decoder trained on a prior's samples: which prior that is, and that it fits. And sampling without a prior."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.runs.references import runs_of
from unclip.runs.signature import canonical, signature
from unclip.runs.store import Run
from unclip.runs.upstream import request, resolve

ON_SAMPLES = ["model.conditioning=prior_sample"]


def resolved(*overrides: str) -> tuple[dict[str, Any], dict[str, tuple[Run, list[str]]]]:
    return resolve(request([*overrides]))


def finished(tmp_path: Path, *overrides: str) -> Run:
    """A run that looks finished, trained by nobody."""
    config, _ = resolved(*overrides, f"paths.outputs={tmp_path}")
    run = Run.of(config, "default")
    run.prepare(config, "unclip train")
    run.weights.touch()
    run.mark("finished")
    return run


def test_auto_is_the_same_experiments_prior_of_the_decoders_own_clip() -> None:
    config, runs = resolved(
        "experiment=demo/decoder", *ON_SAMPLES, "prior=auto", "seed=3", "data.resize=bilinear"
    )
    clip, prior = resolved("experiment=demo/prior", "data.resize=bilinear")[0]["clip"], runs["prior"]
    assert config["clip"] == clip
    assert config["prior"] == prior[0].signature == signature(resolve(request(prior[1]))[0])
    assert prior[1] == ["experiment=demo/prior", "data.resize=bilinear"], "the decoder's seed stays its own"
    other, runs = resolved("experiment=demo/decoder", *ON_SAMPLES, "prior=auto", "clip=random")
    assert "clip=random" in runs["prior"][1]
    assert other["prior"] != config["prior"]


def test_a_planned_prior_is_the_one() -> None:
    """As `unclip run` plans a whole experiment: runs that will be there by then, with settings of their own."""
    config, _ = resolved("experiment=demo/prior", "seed=5")
    clip = SimpleNamespace(run=Run(Path("outputs/demo") / config["clip"]), config={}, overrides=["its own"])
    prior = SimpleNamespace(run=Run.of(config, "demo"), config=config, overrides=["and its own"])
    decoder = request(["experiment=demo/decoder", *ON_SAMPLES, "prior=auto"])
    found, runs = resolve(decoder, planned={"clip": clip, "prior": prior})
    assert found["prior"] == prior.run.signature
    assert runs["prior"] == (prior.run, ["and its own"])
    prior.config = {**config, "clip": "another"}
    with pytest.raises(Problems, match="was trained on CLIP another, this decoder is on CLIP"):
        resolve(decoder, planned={"clip": clip, "prior": prior})


def test_what_does_not_fit_together_is_named(tmp_path: Path) -> None:
    def wrong(*overrides: str) -> str:
        with pytest.raises(Problems) as error:
            resolved("stage=decoder", f"paths.outputs={tmp_path}", *overrides)
        return str(error.value)

    clip = finished(tmp_path, "stage=clip")
    prior = finished(tmp_path, "stage=prior", f"clip={clip.signature}")
    config, _ = resolved(
        "stage=decoder", f"paths.outputs={tmp_path}", *ON_SAMPLES, f"prior={prior.signature}"
    )
    assert config["prior"] == prior.signature
    assert "prior: is not set: the one whose samples" in wrong(*ON_SAMPLES)
    assert "prior = auto: is what a decoder with model.conditioning=prior_sample" in wrong("prior=auto")
    assert "prior = random: has learned nothing" in wrong(*ON_SAMPLES, "prior=random")
    mixed = wrong(*ON_SAMPLES, f"prior={prior.signature}", "clip=random")
    assert f"was trained on CLIP {clip.signature}, this decoder is on CLIP random" in mixed
    assert "is a run of stage clip, not prior" in wrong(*ON_SAMPLES, f"prior={clip.signature}")
    assert f"prior = {'f' * 10}: names no run" in wrong(*ON_SAMPLES, f"prior={'f' * 10}")


def test_the_new_keys_move_no_run() -> None:
    config = {**compose("train", ["stage=decoder"]).config, "clip": "x"}
    assert "prior" not in canonical(config)
    switches = {"head_channels", "resampling", "rescale", "modulation"}
    assert switches <= config["model"].keys()
    assert not switches & canonical(config)["model"].keys()


def test_sampling_goes_with_the_decoders_prior_or_with_none(tmp_path: Path) -> None:
    clip = finished(tmp_path, "stage=clip")
    prior = finished(tmp_path, "stage=prior", f"clip={clip.signature}")
    both = f"clip={clip.signature}", f"prior={prior.signature}"
    decoder = finished(tmp_path, "stage=decoder", *ON_SAMPLES, *both)

    def runs(**named: str) -> dict[str, str]:
        asked = {"paths": {"outputs": str(tmp_path)}, "run": decoder.signature, **named}
        return {stage: run.signature for stage, run in runs_of(asked).items()}

    assert runs() == {"clip": clip.signature, "prior": prior.signature, "decoder": decoder.signature}
    assert runs(prior="none") == {"clip": clip.signature, "decoder": decoder.signature}
    plain = finished(tmp_path, "stage=decoder", both[0])
    with pytest.raises(Problems, match="prior=none to do without one"):
        runs(run=plain.signature)
