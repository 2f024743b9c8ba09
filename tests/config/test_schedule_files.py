"""Every schedule that can be chosen by name is one: it trains, samples, and is what its file says it is."""

from __future__ import annotations

import pytest
import torch
import yaml
from tests.lit.conftest import prior_module, tiny_clip, tiny_data, tiny_embeddings
from tests.lit.test_training import losses

from unclip.build import part
from unclip.config.compose import compose, config_folder, options
from unclip.config.problems import Problems
from unclip.diffusion import V, log_snr
from unclip.randomness import KeyedNoise

SCHEDULES = options("schedule")
TABLES = {"linear", "scaled_linear", "quadratic", "cosine", "sigmoid_betas", "jsd"}
TABLES |= {"linear_zero_terminal", "scaled_linear_zero_terminal"}
EMBEDDINGS = tiny_embeddings(tiny_data(), tiny_clip().eval())


def made(option: str, *overrides: str):
    request = ["stage=prior", f"schedule={option}", "objective=v", "weighting=vlb", *overrides]
    return part(compose("train", request).config["schedule"])


@pytest.mark.parametrize("option", SCHEDULES)
def test_it_trains_and_is_sampled(option: str) -> None:
    schedule = made(option)
    assert (schedule.T == 1000) == (option in TABLES)
    module = prior_module(EMBEDDINGS, steps=4, schedule=schedule, objective=V())
    before = [p.detach().clone() for p in module.net.parameters()]
    for loss in losses(module, tiny_data(), 2):
        assert 0 < loss < 10  # v has the variance of unit data and noise
    assert any(not torch.equal(*pair) for pair in zip(before, module.net.parameters(), strict=True))
    batch = {"index": torch.arange(3), "caption": torch.zeros(3, dtype=torch.long)}
    x0, cond = module.example(batch, "train", None)
    samples = module.sampler(module.denoiser, x0, cond, KeyedNoise(0, torch.arange(3)))
    assert samples.isfinite().all()
    assert samples.std() < 10  # of embeddings it is 1; x_T of edm has 80


@pytest.mark.parametrize(("one", "other"), [("vp", "linear_continuous"), ("jsd_continuous", "chen_linear")])
def test_two_names_of_one_schedule_configure_the_same(one: str, other: str) -> None:
    texts = [(config_folder() / "schedule" / f"{option}.yaml").read_text() for option in (one, other)]
    assert yaml.safe_load(texts[0]) == yaml.safe_load(texts[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("scaled_linear", "quadratic"),
        ("sigmoid", "sigmoid_betas"),
        ("cosine_truncated", "cosine_shifted"),
        ("linear", "linear_zero_terminal"),
        ("chen_linear", "chen_linear_scaled"),
    ],
)
def test_names_that_sound_alike_are_not_the_same(one: str, other: str) -> None:
    middle = [
        log_snr(schedule, torch.tensor(0.9 * (schedule.T or 1))) for schedule in (made(one), made(other))
    ]
    assert (middle[0] - middle[1]).abs() > 0.05


def test_what_a_modifier_changes_can_be_overridden() -> None:
    level = [
        log_snr(made("cosine_shifted", *overrides), torch.tensor(0.5, dtype=torch.float64))
        for overrides in ([], ["schedule.resolution=128"], ["schedule.schedule.log_snr_min=-5"])
    ]
    assert (level[0] - level[1]).exp().item() == pytest.approx(4)
    assert level[2] > level[0]


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["schedule=linear", "schedule.T=20", "sampler.steps=5"], "schedule.T", ["20", "T >= 21; cosine"]),
        (
            ["schedule=linear_zero_terminal", "schedule.schedule.T=15", "sampler.steps=5"],
            "schedule.schedule.T",
            ["15", "T >= 21"],
        ),
        (
            ["schedule=linear_zero_terminal", "schedule.schedule.T=50", "sampler.steps=64"],
            "sampler.steps",
            ["the table has schedule.schedule.T = 50"],
        ),
        (["schedule=jsd", "objective=eps"], "objective", ["eps", "alpha = 0", "sampler.spacing=log_snr"]),
        (["schedule=linear_zero_terminal", "objective=eps"], "objective", ["eps", "alpha = 0"]),
        (["schedule=laplace", "schedule.scale=0"], "schedule.scale", ["must satisfy scale > 0"]),
        (
            ["schedule=cosine_shifted", "schedule.schedule.s=1"],
            "schedule.schedule.s",
            ["log_snr_min"],
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    overrides: list[str], key: str, words: list[str]
) -> None:
    with pytest.raises(Problems) as error:
        compose("train", ["stage=prior", *overrides])
    found = {problem.key: str(problem) for problem in error.value.problems}
    assert set(found) == {key}
    assert all(word in found[key] for word in words), found[key]


def test_eps_samples_a_table_without_signal_from_where_there_is_some() -> None:
    compose("train", ["stage=prior", "schedule=jsd", "objective=eps", "sampler.spacing=log_snr"])


def test_a_learned_schedule_needs_the_bounds_weights() -> None:
    with pytest.raises(Problems, match=r"weighting = uniform.*weighting=vlb"):
        compose("train", ["stage=prior", "schedule=learned"])
