"""A run is its configuration: what changes the result changes the signature, nothing else does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.runs.signature import canonical, signature
from unclip.runs.store import Busy, Run
from unclip.runs.upstream import resolve


def config(*overrides: str) -> dict[str, Any]:
    return resolve(compose("train", ["stage=decoder", "clip=random", *overrides]))[0]


@pytest.mark.parametrize(
    "override",
    [
        "paths.outputs=elsewhere",
        "logger=none",
        "trainer=ddp_cpu",
        "trainer.num_nodes=2",
        "trainer.log_every_n_steps=1",
        "trainer.limit_val_batches=2",
        "callbacks.fid.n=10",
        "callbacks.samples=null",
        "callbacks.progress.refresh_seconds=5",
        "extractor=random",
        "retry=true",
        "on_nan=skip",
        "checkpointing=true",
        "trainer.benchmark=false",
        "data.device=cpu",
        "paths.data=/elsewhere",
    ],
)
def test_what_cannot_change_the_result_does_not_change_the_signature(override: str) -> None:
    assert signature(config(override)) == signature(config())


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "schedule=linear",
        "schedule.T=999",
        "schedule.betas.s=0.009",
        "objective=v",
        "weighting=min_snr",
        "model.dropout=0.01",
        "optim.lr=0.001",
        "data.batch_size=64",
        "data.resize=bilinear",
        "trainer.max_steps=3",
        "trainer.precision=bf16-mixed",
        "trainer.gradient_clip_val=2.0",
        "matmul=highest",
        "compile=max-autotune",
        "callbacks.ema.decay=0.9",
        "stage.drop_embedding=0.2",
        "sampler.steps=9",
    ],
)
def test_what_can_change_the_result_changes_the_signature(override: str) -> None:
    assert signature(config(override)) != signature(config())


def test_a_later_option_whose_default_means_as_before_moves_no_run() -> None:
    before = config()
    after = copy.deepcopy(before)
    after["stage"]["loss_norm"] = "l2"  # its default in DecoderModule's signature
    after["compile"] = "auto"  # its default in the schema
    before["stage"].pop("loss_norm")
    before.pop("compile")
    assert signature(after) == signature(before)
    assert "loss_norm" not in canonical(after)["stage"]
    after["stage"]["loss_norm"] = "l1"
    assert signature(after) != signature(before)


def test_refinements_of_guidance_move_a_run_only_when_they_are_used() -> None:
    before, after = config(), config()
    for option in ("guidance_interval", "guidance_rescale", "thresholding"):
        before["sampler"].pop(option)
    assert signature(after) == signature(before)
    after["sampler"]["guidance_rescale"] = 0.7
    assert signature(after) != signature(before)


def test_upstream_counts_by_its_signature_not_by_how_it_was_named(tmp_path: Path) -> None:
    def prior(*overrides: str) -> str:
        return signature(
            resolve(compose("train", ["stage=prior", f"paths.outputs={tmp_path}", *overrides]))[0]
        )

    clip = compose("train", ["stage=clip", f"paths.outputs={tmp_path}"]).config
    run = Run.of(clip, "default")
    run.prepare(clip, "unclip train stage=clip")
    run.weights.touch()
    run.mark("finished")
    assert (
        prior()
        == prior(f"clip={run.signature}")
        == prior(f"clip={run.folder}")
        == prior(f"clip={run.signature[:6]}")
    )
    assert prior("clip=random") != prior()


def test_an_upstream_of_other_data_or_another_stage_is_refused(tmp_path: Path) -> None:
    outputs = f"paths.outputs={tmp_path}"
    config = resolve(compose("train", ["stage=prior", outputs, "data=synthetic", "clip=random"]))[0]
    run = Run.of(config, "default")
    run.prepare(config, "unclip train stage=prior")
    with pytest.raises(Problems, match="not finished"):
        resolve(compose("train", ["stage=decoder", outputs, "data=synthetic", f"clip={run.signature}"]))
    run.weights.touch()
    run.mark("finished")
    with pytest.raises(Problems, match="stage prior, not clip") as error:
        resolve(compose("train", ["stage=decoder", outputs, f"clip={run.signature}"]))
    assert "data._target_" in str(error.value)


def test_states_and_the_lock(tmp_path: Path) -> None:
    run = Run(tmp_path / "default" / "0123456789")
    assert run.state == "new"
    config = compose("train", ["stage=clip"]).config
    run.prepare(config, "unclip train stage=clip")
    run.mark("running")
    assert run.state == "interrupted", "running, but nobody holds the lock"
    with run.lock():
        assert run.state == "live"
        with pytest.raises(Busy, match="another process"), run.lock():
            pass
    run.mark("failed", error="x")
    assert run.state == "failed"
    run.mark("finished")
    assert run.state == "interrupted", "finished, but the weights are gone"
    run.weights.touch()
    assert run.state == "finished"
    (run.folder / "status.json").write_text("{")
    with pytest.raises(ValueError, match=r"status\.json is not readable"):
        _ = run.state
