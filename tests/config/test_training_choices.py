"""Choices of a diffusion stage's training that need each other, and what a new group does to signatures."""

from __future__ import annotations

import pytest

from unclip.config import rules
from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.runs.signature import canonical, signature

HYBRID = ["model.learned_variance=true", "stage.loss=hybrid"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["stage.loss=hybrid"], "stage.loss = hybrid: its variational part trains a variance"),
        (
            ["model.learned_variance=true"],
            "model.learned_variance = True: L_simple leaves the variance untrained",
        ),
        (["sampler=ddpm_learned"], "sampler = ddpm_learned: needs a net that predicts it"),
        (
            [*HYBRID, "schedule=cosine_continuous"],
            "schedule = cosine_continuous: stage.loss = hybrid is a sum",
        ),
        (
            ["stage.loss=vlb", "schedule=linear_continuous"],
            "schedule = linear_continuous: stage.loss = vlb is a sum",
        ),
        ([*HYBRID, "times=log_normal"], "times = log_normal: stage.loss = hybrid needs entries of the table"),
        (["stage.loss=vlb", "times=logit_normal"], "times = logit_normal: stage.loss = vlb is the bound"),
        (["stage.loss=vlb", "times=log_normal"], "entries of the table: uniform, stratified, importance"),
        (
            ["stage.loss=vlb", "weighting=min_snr"],
            "weighting = min_snr: stage.loss = vlb has the bound's own",
        ),
        (
            ["stage.loss=vlb", "schedule=jsd", "sampler.spacing=log_snr"],
            "objective = eps: has no x_0 for stage.loss",
        ),
        (["times=importance", "schedule=linear_continuous"], "times = importance: remembers losses by entry"),
        (["times=uniform", "stage=clip"], "times = uniform: stage clip has no times"),
        (["times=normal"], "times = normal: no such option"),
        (["times=log_normal", "times.P_std=0"], "times.P_std = 0: must satisfy P_std > 0"),
        (["weighting=p2", "weighting.k=0"], "weighting.k = 0: must satisfy k > 0"),
        (
            ["compile=reduce-overhead", "trainer.accumulate_grad_batches=2"],
            "trainer.accumulate_grad_batches = 2: compile=reduce-overhead replays CUDA graphs",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(overrides: list[str], problem: str) -> None:
    stage = [] if any(o.startswith("stage=") for o in overrides) else ["stage=decoder"]
    with pytest.raises(Problems) as error:
        compose("train", [*stage, *overrides])
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [*HYBRID, "sampler=ddpm_learned", "weighting=min_snr", "times=importance"],
        [*HYBRID, "times=logit_normal", "schedule=linear"],
        ["stage.loss=vlb", "times=stratified"],
        ["stage.loss=vlb", "schedule=linear_zero_terminal", "objective=v"],
        ["weighting=vlb", "times=log_normal", "schedule=linear_continuous", "objective=edm"],
    ],
)
def test_what_fits_together_composes(overrides: list[str]) -> None:
    compose("train", ["stage=decoder", *overrides])


def test_the_groups_that_came_later_move_no_run_at_their_default() -> None:
    def of(*overrides: str) -> dict:
        return {**compose("train", ["stage=decoder", *overrides]).config, "clip": "x"}

    before = of()
    del before["times"]
    before["stage"] = {k: v for k, v in before["stage"].items() if k != "loss"}
    before["model"] = {k: v for k, v in before["model"].items() if k != "learned_variance"}
    assert signature(of()) == signature(of("times=uniform")) == signature(before)
    assert "times" not in canonical(of())
    others = ["times=stratified", "times=log_normal", "times=importance", "stage.loss=vlb"]
    assert len({signature(of(o)) for o in others} | {signature(of())}) == 5


def test_every_strategy_of_lightnings_that_a_run_can_go_on_from_is_known() -> None:
    """By name; trainer=fsdp and others of one's own are given as a `_target_`."""
    from lightning.pytorch.strategies import StrategyRegistry

    of_processes = [name for name in StrategyRegistry.available_strategies() if name.startswith("ddp")]
    assert "ddp" in of_processes
    for name in ("auto", "single_device", *of_processes):
        assert rules.STRATEGIES.fullmatch(name)
    for wrong in ("foo", "3", "None", "ddpp", "ddp_"):
        assert not rules.STRATEGIES.fullmatch(wrong)
