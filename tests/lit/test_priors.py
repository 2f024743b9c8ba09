"""Both priors: one interface, what they learn of structured embeddings, how they are sampled."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from tests.lit.conftest import TOKENIZER, D, W, fit, optim, prior_module
from unclip.data.embeddings import Embeddings
from unclip.diffusion import (
    X0,
    Denoiser,
    Discrete,
    Eps,
    Gaussian,
    V,
    cosine_betas,
    ddpm,
    linear_betas,
    make_grid,
)
from unclip.diffusion.self_conditioning import self_conditioned
from unclip.generate import UnCLIP
from unclip.lit.autoregressive import AutoregressiveModule
from unclip.nets.autoregressive import AutoregressivePrior
from unclip.nets.prior import PriorTransformer
from unclip.sampling import AnalyticSampler, Sampler

COSINE, LINEAR = Discrete(cosine_betas(100)), Discrete(linear_betas(100))


def structured(data, concentration: float = 0.25) -> Embeddings:
    """Unit embeddings around a direction of each caption, captions' own embeddings elsewhere: the gap between CLIP's
    modalities. Three directions within each."""
    generator = torch.Generator().manual_seed(0)
    n, spread = len(data.captions), torch.zeros(D)
    spread[:3] = torch.tensor([1.0, 0.7, 0.4]) * concentration

    def drawn(split):
        ids = data.split(split).caption_ids
        return F.normalize(centres[ids] + spread * torch.randn(len(ids), D, generator=generator), dim=1)

    centres = F.normalize(torch.randn(n, D, generator=generator), dim=1)
    text = F.normalize(centres + torch.randn(D, generator=generator), dim=1)
    tokens = torch.randn(n, 4, W, generator=generator)
    images = {split: drawn(split) for split in ("train", "validation")}
    return Embeddings(images, text, tokens, torch.ones(n, 4, dtype=torch.bool))


def transformer(**changes) -> PriorTransformer:
    torch.manual_seed(1)
    return PriorTransformer(D, W, 24, **{"width": 32, "layers": 2, "heads": 2, "dropout": 0.0, **changes})


def autoregressive(embeddings, data, **changes) -> AutoregressiveModule:
    torch.manual_seed(1)
    net = AutoregressivePrior(D, W, 24, width=32, layers=2, heads=2, dropout=0.0, buckets=64)
    settings = {
        "net": net,
        "embeddings": embeddings,
        "optim": optim(),
        "caption_ids": data.split("train").caption_ids,
    }
    return AutoregressiveModule(**{**settings, **changes})


def cosines(prior, embeddings, data, **options) -> tuple[float, float]:
    """Of samples for the captions of validation images with these images; and with those of other captions."""
    ids = data.split("validation").caption_ids
    samples = prior.eval().sample(embeddings.captions(ids), torch.arange(len(ids)), 3, **options)
    torch.testing.assert_close(samples.norm(dim=1), torch.ones(len(ids)))
    true = embeddings.image["validation"]
    other = [F.cosine_similarity(samples, true.roll(i, 0)).mean() for i in range(1, len(ids))]
    return F.cosine_similarity(samples, true).mean().item(), torch.stack(other).mean().item()


@pytest.mark.parametrize("scale", ["unit", "whiten"])
@pytest.mark.parametrize(
    ("objective", "schedule"), [(X0(), COSINE), (V(), COSINE), (Eps(), LINEAR)], ids=["x0", "v", "eps"]
)
def test_every_objective_and_scaling_learns_the_captions(tiny, objective, schedule, scale):
    embeddings = structured(tiny.data)
    settings = {"objective": objective, "schedule": schedule, "embedding_scale": scale, "steps": 16}
    prior = fit(prior_module(embeddings, **settings), tiny.data, 300 if schedule is LINEAR else 150)
    own, other = cosines(prior, embeddings, tiny.data)
    assert own > other + 0.3
    text = F.cosine_similarity(
        embeddings.text[tiny.data.split("validation").caption_ids], embeddings.image["validation"]
    )
    assert own > text.mean()


def test_the_autoregressive_prior_learns_the_captions(tiny):
    embeddings = structured(tiny.data)
    prior = fit(autoregressive(embeddings, tiny.data), tiny.data, 150)
    own, other = cosines(prior, embeddings, tiny.data)
    assert own > other + 0.2
    guided = cosines(prior, embeddings, tiny.data, guidance=2.0)
    assert guided != (own, other)
    assert guided[0] > guided[1] + 0.2
    assert prior.settings["prior_components"] == prior.net.tokens.components <= D


def test_a_validation_loss_of_tokens_starts_at_that_of_guessing_and_falls(tiny):
    embeddings = structured(tiny.data)
    prior = autoregressive(embeddings, tiny.data)
    found = []
    prior.log = lambda name, value, **_: found.append(value.item()) if name == "train/loss" else None
    fit(prior, tiny.data, 60)
    assert found[0] == pytest.approx(torch.tensor(64.0).log().item(), rel=0.1)  # of 64 buckets
    assert found[-1] < 0.75 * found[0]


def answering(prior):
    """With a net that has something to say: an untrained one of diffusion answers zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in prior.net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return prior.eval()


def priors(tiny):
    embeddings = structured(tiny.data)
    return embeddings, [
        answering(p) for p in (prior_module(embeddings), autoregressive(embeddings, tiny.data))
    ]


def test_both_priors_are_one_interface(tiny):
    """Unit vectors, the same for a sample in any batch, other ones for another seed, better ones of more candidates;
    and either makes pictures with the same decoder."""
    from tests.lit.conftest import decoder_module

    embeddings, made = priors(tiny)
    ids = torch.arange(6)
    text = embeddings.captions(ids)
    for prior in made:
        whole = prior.sample(text, ids, seed=2)
        part = prior.sample(embeddings.captions(ids[[4, 1]]), ids[[4, 1]], seed=2)
        torch.testing.assert_close(part, whole[[4, 1]], atol=1e-4, rtol=0)
        assert (prior.sample(text, ids, seed=3) - whole).abs().max() > 0.05
        one, four = (prior.sample(text, ids, seed=2, rerank=k) for k in (1, 4))
        closer = (four * text["text"]).sum(1) - (one * text["text"]).sum(1)
        assert (closer >= -1e-6).all()
        assert closer.max() > 1e-3
        guided = prior.sample(text, ids, seed=2, guidance=3.0)
        assert (guided - whole).abs().max() > 0.01
        model = UnCLIP(tiny.clip, prior, decoder_module(embeddings).eval(), TOKENIZER, prior_guidance=3.0)
        assert torch.equal(model.imagine(text, ids, 2), guided)
        assert model.sample(["a solid disc"], per_prompt=2).shape == (2, 1, 16, 16)


def test_the_percentiles_decide_the_level_that_the_net_is_told(tiny):
    embeddings = structured(tiny.data)
    for percentiles in ((0.5, 1.0), (0.0, 0.25), (0.9, 0.9)):
        prior = autoregressive(embeddings, tiny.data, percentiles=percentiles).eval()
        seen = []
        prior.net.from_level.register_forward_pre_hook(lambda net, args, seen=seen: seen.append(args[0]))
        ids = torch.zeros(40, dtype=torch.int64)
        prior.sample(embeddings.captions(ids), torch.arange(40), seed=0, rerank=1)
        share = seen[0] / 1000  # of the range of features
        assert percentiles[0] - 1 / 64 <= share.min() <= share.max() <= percentiles[1]
        assert len(share.unique()) > 3 or percentiles[0] == percentiles[1]


def test_temperature_zero_is_one_answer_a_level(tiny):
    embeddings, (_, prior) = priors(tiny)
    prior.temperature, prior.percentiles = 0.0, (0.7, 0.7)
    ids = torch.zeros(5, dtype=torch.int64)
    found = prior.sample(embeddings.captions(ids), torch.arange(5), seed=0)
    torch.testing.assert_close(found, found[:1].expand_as(found))


# ---- self-conditioning ------------------------------------------------------------------------------------


def test_the_net_is_told_its_last_estimate_while_sampling(tiny):
    """Zeros first; with guidance each half of the batch its own; without guidance on the way, the conditional one."""
    told, answers = [], []

    def denoise(x, t, cond):
        told.append(cond["x0_hat"])
        answers.append(x * 0.5 + len(told))
        return answers[-1]

    walk = self_conditioned(denoise)
    x, t = torch.randn(4, 3), torch.zeros(4)
    for size in (4, 4, 2, 4):
        walk(x[:size], t[:size], {})
    assert torch.equal(told[0], torch.zeros(4, 3))
    assert torch.equal(told[1], answers[0])
    assert torch.equal(told[2], answers[1][:2])
    assert torch.equal(told[3], torch.cat([answers[2], answers[2]]))


def test_half_of_the_samples_train_with_an_estimate_that_no_gradient_runs_through(tiny):
    embeddings = structured(tiny.data)
    prior = prior_module(embeddings, net=transformer(self_conditioning=True), self_conditioning=True)
    seen = []
    prior.net.register_forward_pre_hook(lambda net, args: seen.append(args[2]))
    fit(prior, tiny.data, 40)
    assert ["x0_hat" in cond for cond in seen] == [False, True] * 40
    given = torch.stack(
        [cond["x0_hat"].abs().sum(1) > 0 for cond in seen[3::2]]
    )  # the first knows nothing yet
    assert 0.4 < given.float().mean() < 0.6
    assert not any(cond["x0_hat"].requires_grad for cond in seen[1::2])
    assert prior.net.from_estimate.weight.abs().max() > 0
    seen.clear()
    prior.eval().sample(embeddings.captions(torch.arange(3)), torch.arange(3), 0, guidance=2.0)
    assert seen[0]["x0_hat"].abs().max() == 0
    assert all(cond["x0_hat"].abs().max() > 0 for cond in seen[1:])
    own, other = cosines(fit(prior.train(), tiny.data, 110), embeddings, tiny.data)
    assert own > other + 0.3


def test_without_self_conditioning_a_net_is_what_it_was_before():
    assert not [name for name in transformer().state_dict() if "estimate" in name]
    with pytest.raises(ValueError, match="self_conditioning = True: the net was made with False"):
        prior_module(None, self_conditioning=True)


# ---- analytic variance ------------------------------------------------------------------------------------


class Exact(torch.nn.Module):
    """The exact x0_hat of Gaussian data, as a network."""

    def __init__(self, schedule, std: float):
        super().__init__()
        self.exact = Gaussian(schedule, 0.3, std)

    def forward(self, x, t, cond):
        return self.exact(x, t)


def keyed(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize("std", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("steps", [4, 64])
def test_the_analytic_sampler_is_no_worse_than_either_fixed_variance(std: float, steps: int):
    """The spread of samples of Gaussian data; x0_hat is exact, so all of the error is the variance's. The last level
    is t = 0: a longer last step, which adds no noise, would be an error of its own."""
    schedule = Discrete(cosine_betas(1000))
    denoiser, like = Denoiser(Exact(schedule, std), schedule, X0()), torch.empty(10_000, 4)

    def error(sampler) -> float:
        return abs((sampler(denoiser, like, {}, keyed(2)).std() / std).log().item())

    settings = {"steps": steps, "spacing": "linspace"}
    data = 0.3 + std * keyed(1)(like)
    analytic = AnalyticSampler(ddpm, **settings).calibrated(denoiser, data, {}, keyed(3))
    fixed = [error(Sampler(partial(ddpm, variance=v), **settings)) for v in ("small", "large")]
    assert (
        error(analytic) < 0.015
    )  # of 40,000 numbers, as many as the data's own: one standard error is 0.005
    assert error(analytic) < min(fixed) + 0.015
    assert max(fixed) > 0.1 or steps > 4


def test_a_prior_with_the_analytic_sampler_is_calibrated_once_it_is_loaded(tiny):
    embeddings = structured(tiny.data)
    text, ids = embeddings.captions(torch.arange(4)), torch.arange(4)
    prior = answering(prior_module(embeddings, sampler=AnalyticSampler(ddpm, 6)))
    assert prior.calibrates
    with pytest.raises(ValueError, match="the analytic variance is not estimated yet"):
        prior.sample(text, ids, 0)
    prior.calibrate(embeddings, tiny.data.split("train").caption_ids)
    assert not prior.calibrates
    first = prior.sample(text, ids, 0)
    again = answering(prior_module(embeddings, sampler=AnalyticSampler(ddpm, 6)))
    again.calibrate(embeddings, tiny.data.split("train").caption_ids)
    torch.testing.assert_close(again.sample(text, ids, 0), first)
    small = answering(prior_module(embeddings, sampler=Sampler(ddpm, 6))).sample(text, ids, 0)
    assert (first - small).abs().max() > 1e-3
    levels = [t.t for t, _ in make_grid(prior.schedule, 6).pairs()]
    errors = prior.sampler.function.keywords["variance"].errors
    assert sorted(errors) == sorted(levels)
    assert all(v > 0 for v in errors.values())
