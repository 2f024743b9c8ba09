"""Each benchmark at its smallest: what is compared is the same work, and what is said of it follows from what was
measured."""

from __future__ import annotations

from functools import partial
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unclip.bench import data, prior, quality, sampling, startup, sweep
from unclip.bench.fit import Training
from unclip.bench.measure import Way
from unclip.bench.tutorial import TutorialSampling
from unclip.diffusion import Discrete
from unclip.diffusion.betas import linear_betas
from unclip.sampling import Sampler

ONCE = {"rounds": 1, "seconds": 0.001}
SMALL = ["experiment=smoke/prior", "data.batch_size=4", "model.width=16"]
DECODER = ["experiment=smoke/decoder", "sampler=dpmpp_2m", "sampler.steps=3"]


@pytest.fixture(autouse=True)
def small_peak(monkeypatch):
    monkeypatch.setattr("unclip.bench.machine.SIDE", {"cpu": 64})
    monkeypatch.setattr("unclip.bench.machine.COPIED", {"cpu": 1 << 16})


def test_clip_inside_the_step_gives_the_prior_what_the_cache_would():
    """So the two ways differ in when the CLIP runs, not in what is learned."""
    training = Training(SMALL)
    live = prior.Live(training.clip, training.source, training.embeddings)
    index = torch.tensor([3, 1, 17])
    images = training.source.split("train").images[index]
    from unclip.data.embeddings import image_features

    expected = image_features(training.clip, images)["image"]
    assert torch.allclose(live.image["train"][index], expected, atol=1e-6)
    captions = training.source.split("train").caption_ids[index]
    for name, known in training.embeddings.captions(captions).items():
        assert torch.allclose(live.captions(captions)[name].float(), known.float(), atol=1e-6)


def test_prior_counts_the_clip_that_runs_in_the_step():
    (table,) = prior.measure({**ONCE, "training": SMALL, "published": None})["tables"]
    cached, inside = table["rows"][:2]
    assert inside["flop"] > cached["flop"]
    assert inside["parameters"] == cached["parameters"]


def test_loaders_hand_out_each_image_once_an_epoch():
    train = Training(SMALL).source.split("train")
    for made in (partial(data.loader, "ours", train, 16), partial(data.torchs, train, 16, 0)):
        way: Way = made()
        assert way.items == 16
        assert way.run(2 * len(train) // 16) > 0
    items = data.Items(train)
    assert torch.equal(items[5]["image"], train.images[5])
    assert items[5]["index"] == 5


def test_data_says_what_loading_is_of_a_step():
    request = {**ONCE, "training": SMALL[1:], "shares": ["smoke/prior"], "batch": 8, "workers": [0]}
    loaders, shares = data.measure(request)["tables"]
    assert [row["name"] for row in loaders["rows"]] == ["unclip", "unclip", "torch DataLoader"]
    name, batch, loading, step, share = shares["cells"][1]
    assert (name, batch) == ("smoke/prior", "4")
    rounding = 0.005 / float(loading) + 0.05 / float(step)  # of the numbers in the table
    assert float(share.rstrip("%")) == pytest.approx(100 * float(loading) / float(step), rel=rounding + 0.02)


class Exact(nn.Module):
    """The noise in x_t where every picture is `picture`."""

    def __init__(self, picture: Tensor, alphas_bar: Tensor):
        super().__init__()
        self.picture, self.alphas_bar = nn.Parameter(picture), alphas_bar

    def forward(self, x: Tensor, t: Tensor, *_: Any) -> Tensor:
        alpha_bar = self.alphas_bar[t].float().view(-1, 1, 1, 1)
        return (x - alpha_bar.sqrt() * self.picture) / (1 - alpha_bar).sqrt()


def test_the_tutorials_loop_is_ddpm():
    """With an exact denoiser of a single picture it ends at that picture."""
    picture = torch.linspace(-0.9, 0.9, 16).view(1, 1, 4, 4)
    alphas_bar = Discrete(linear_betas(50)).alpha_bar
    loop = TutorialSampling(Exact(picture, alphas_bar), lambda z, t, cond: z, alphas_bar, 2.0)
    text = {"text": torch.randn(3, 8), "tokens": torch.zeros(3, 1, 8), "token_mask": torch.ones(3, 1).bool()}
    drawn = loop(text, (3, 1, 4, 4), 50)
    expected = ((picture + 1) * 127.5).round()
    assert (drawn.float() - expected).abs().max() <= 1


def test_sampling_is_measured_and_a_part_of_a_thousand_steps_counts_for_all():
    request = {**ONCE, "training": DECODER, "prior": ["experiment=smoke/prior"], "n": 2, "timed": 2}
    text, loop = sampling.measure({**request, "quality": False})["tables"]
    ours, tutorial = text["rows"]
    assert tutorial["flop"] > 50 * ours["flop"]
    solver, theirs = loop["rows"][:2]
    assert solver["flop"] == pytest.approx(theirs["flop"], rel=0.01)  # as many evaluations of the same net
    assert any("reads nothing back" in remark for remark in loop["remarks"])


def test_a_loop_that_reads_a_value_is_found_out():
    made = sampling.Pipeline(DECODER, ["experiment=smoke/prior"], 2)
    cond = made.condition()[1]
    drawn = sampling.on_meta(made.module, cond, made.indices, made.sampler)
    assert drawn.shape == (2, 1, 16, 16)

    def curious(denoise: Any, x: Tensor, grid: Any, cond: Any, **_: Any) -> Tensor:
        return x / x.std().item()

    with pytest.raises((RuntimeError, NotImplementedError)):
        sampling.on_meta(made.module, cond, made.indices, Sampler(curious, steps=3))


def test_the_fewest_steps_that_pass_are_found(monkeypatch):
    found = {
        ("ddpm", 1000): [10.0, 10.2, 9.8],
        ("a", 5): [20.0, 21.0, 22.0],
        ("a", 10): [10.6, 10.7, 10.5],
        ("b", 10): [11.0, 11.2, 11.1],
        ("a", 20): [9.0, 9.0, 9.0],
    }
    error = 0.2 / 3**0.5
    assert quality.error(found["ddpm", 1000]) == pytest.approx(error)
    assert quality.bound(found) == pytest.approx(1.05 * mean(found["ddpm", 1000]) + 2 * error)
    assert "10, by a" in quality.verdict(found)
    passed = {(line[0], line[1]) for line in quality.cells(found)[1:] if line[-1] == "yes"}
    assert passed == {("ddpm", "1,000"), ("a", "10"), ("a", "20")}

    def evaluated(request: Any, samplers: list[str], steps: list[int]) -> quality.Distances:
        return {which: fd for which, fd in found.items() if which[0] in samplers}

    monkeypatch.setattr(quality, "evaluated", evaluated)
    request = {"seeds": [0, 1, 2], "samplers": ["a", "b"], "few": [5, 10, 20], "images": 50, "guidance": 2.0}
    table = quality.table({**request, "run": "outputs/demo", "out": "here"})
    assert "outputs/demo, 50 pictures, 3 seeds" in table["title"]
    assert "10, by a" in table["remarks"][0]
    made = {**request, "run": "outputs/demo", "out": "here", "quality": "only"}
    assert sampling.measure(made)["tables"] == [table], "no time is taken"


def test_commands_are_processes_and_a_sweep_plans_and_trains(monkeypatch):
    ran: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda command, **_: ran.append(list(command)))
    (table,) = startup.measure({"rounds": 2})["tables"]
    assert [row["name"] for row in table["rows"]][:2] == ["unclip --help", "unclip train, a wrong key"]
    seeds = [word for command in ran for word in command if word.startswith("seed=")]
    assert len(set(seeds)) == len(seeds) >= 3  # a training that was never run before each time
    ran.clear()
    plans, cells = sweep.measure({"rounds": 1, "cells": [4, 3, 1], "trained": 2})["tables"]
    for axes in (
        {"schedule=linear,cosine", "seed=0,1"},
        {"schedule=linear", "seed=0,1,2"},
        {"schedule=linear", "seed=0"},
    ):
        assert any(axes < set(command) for command in ran), axes
    assert (plans["rows"][0]["name"], cells["rows"][0]["items"]) == ("4 cells", 2)
