"""Sampling the trained stages: whole reverse processes, guidance, and noise that belongs to samples."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from tests.lit.conftest import TOKENIZER, decoder_module, prior_module
from unclip.diffusion import Discrete, linear_betas, make_grid
from unclip.diffusion.sample import ddim, ddpm
from unclip.generate import UnCLIP
from unclip.lit.prior import PriorModule
from unclip.randomness import KeyedNoise, key
from unclip.sampling import Sampler


def livened(module):
    """With a net that has something to say: an untrained one answers zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def model(tiny, **changes) -> UnCLIP:
    prior = livened(prior_module(tiny.embeddings, rerank=2))
    decoder = livened(decoder_module(tiny.embeddings))
    return UnCLIP(
        **{"clip": tiny.clip, "prior": prior, "decoder": decoder, "tokenizer": TOKENIZER, **changes}
    )


def times(module) -> list[torch.Tensor]:
    """The net's time inputs, a call each, filled while it is sampled."""
    seen: list[torch.Tensor] = []
    module.net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[1]))
    return seen


def test_the_prior_runs_its_whole_reverse_process(tiny):
    """Every step of the grid, from the noisiest down, each on what the last one left; not one pass at t = T."""
    prior = livened(prior_module(tiny.embeddings, steps=6, rerank=2))
    inputs = []
    prior.net.register_forward_pre_hook(lambda net, args: inputs.append((args[0], args[1])))
    text = tiny.embeddings.captions(torch.tensor([0, 1, 2]))
    prior.sample(text, torch.arange(3), seed=0)
    grid = make_grid(prior.schedule, 6)
    assert [t[0].item() for _, t in inputs] == pytest.approx((10 * grid.t[:-1]).tolist())
    assert grid.t[0] == 99  # of a table of 100, read on the scale of 1000
    assert inputs[0][0].shape == (2 * 3, 8)  # both candidates at once
    assert not torch.equal(inputs[0][0][:3], inputs[0][0][3:])
    changes = [(a[0] - b[0]).abs().max() for a, b in pairwise(inputs)]
    assert min(changes) > 1e-3


def test_the_prior_gives_unit_vectors(tiny):
    prior = livened(prior_module(tiny.embeddings, embedding_scale="whiten"))
    found = prior.sample(tiny.embeddings.captions(torch.tensor([0, 5])), torch.arange(2), seed=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_of_the_candidates_the_one_nearest_to_the_text_is_kept(tiny):
    prior = livened(prior_module(tiny.embeddings))
    captions = torch.arange(8).repeat(3)
    text, indices = tiny.embeddings.captions(captions), torch.arange(24)
    cond = {"text_embedding": text["text"], "tokens": text["tokens"], "token_mask": text["token_mask"]}
    cond["keep_text"] = torch.ones(24, dtype=torch.bool)
    candidates = []
    for candidate in range(4):
        noise = KeyedNoise(key(9, "prior", candidate), indices)
        with torch.no_grad():
            z = prior.sampler(prior.denoiser, torch.empty(24, 8), cond, noise)
        candidates.append(F.normalize(prior.net.scaling.inverse(z), dim=-1))
    scores = torch.stack([(c * text["text"]).sum(1) for c in candidates])
    for k in (1, 2, 4):
        found = prior.sample(text, indices, seed=9, rerank=k)
        torch.testing.assert_close((found * text["text"]).sum(1), scores[:k].amax(0))
    assert (scores.argmax(0) > 0).any()


def test_the_prior_reads_a_caption_once_for_all_candidates_and_steps(tiny):
    """And one dropped caption for all."""
    prior = livened(prior_module(tiny.embeddings, rerank=4))
    read = []
    prior.net.from_tokens.register_forward_hook(lambda net, inputs, output: read.append(len(output)))
    prior.sample(tiny.embeddings.captions(torch.arange(3)), torch.arange(3), seed=0, guidance=2.0)
    assert read == [3, 1]


def test_the_prior_is_sampled_once_a_picture_not_at_every_step_of_the_decoder(tiny):
    whole = model(tiny)
    prior_times, decoder_times = times(whole.prior), times(whole.decoder)
    whole.sample(["a solid disc", "a hollow square"], per_prompt=2)
    assert len(prior_times) == 6
    assert len(decoder_times) == 5
    assert len(decoder_times[0]) == 2 * 4  # with and without the condition, in one pass


def test_the_decoder_walks_its_own_schedule(tiny):
    """Another schedule of the prior leaves the decoder's noise levels alone."""
    other = {"prior": livened(prior_module(tiny.embeddings, schedule=Discrete(linear_betas(1000))))}
    found = []
    for changes in ({}, other):
        whole = model(tiny, **changes)
        seen = times(whole.decoder)
        whole.sample(["a solid disc"])
        found.append([t[0].item() for t in seen])
    assert found[0] == found[1] == pytest.approx((10 * make_grid(whole.decoder.schedule, 5).t[:-1]).tolist())


@pytest.mark.parametrize("function", [ddim, ddpm])
def test_a_sample_is_the_same_in_any_batch(tiny, function):
    """Noise is keyed by seed and index: how samples are batched, or sliced over devices, changes nothing."""
    prompts = ["a solid disc", "a hollow square", "a solid cross"]
    sampler = Sampler(function, steps=4, clip=1.0)
    together = model(tiny, sampler=sampler).sample(prompts, per_prompt=2, seed=4)
    apart = model(tiny, sampler=sampler, batch_size=4).sample(prompts, per_prompt=2, seed=4)
    assert (together.int() - apart.int()).abs().max() <= 1  # rounding to uint8
    other = model(tiny, sampler=sampler).sample(prompts, per_prompt=2, seed=5)
    assert (together.int() - other.int()).abs().float().mean() > 1
    assert (together[0].int() - together[1].int()).abs().float().mean() > 1  # two samples of one prompt


def test_noise_of_a_slice_is_the_slice_of_the_noise():
    x = torch.empty(6, 2, 3)
    whole, part = KeyedNoise(3, range(6)), KeyedNoise(3, torch.tensor([4, 1]))
    for _ in range(3):
        assert torch.equal(whole(x)[[4, 1]], part(x[:2]))
    with pytest.raises(ValueError, match="x has 3 rows, the noise is keyed for 2 samples"):
        part(x[:3])


def test_guidance_of_one_is_off_and_clipping_comes_after_guidance(tiny):
    decoder = livened(decoder_module(tiny.embeddings))
    seen = times(decoder)
    cond = decoder.condition(tiny.embeddings.image["train"][:3], {})
    decoder.sample(cond, torch.arange(3), 0, decoder.sampler.but(guidance=1.0))
    assert {len(t) for t in seen} == {3}
    strong = decoder.sample(cond, torch.arange(3), 0, decoder.sampler.but(guidance=50.0))
    assert strong.abs().max() <= 1 + 1e-5


def test_an_interval_of_guidance_saves_the_second_pass_outside_it(tiny):
    decoder = livened(decoder_module(tiny.embeddings))
    cond = decoder.condition(tiny.embeddings.image["train"][:3], {})
    seen, base = times(decoder), decoder.sampler.but(guidance=3.0)

    def run(sampler):
        seen.clear()
        found = decoder.sample(cond, torch.arange(3), 0, sampler)
        return found, [len(t) for t in seen]

    everywhere, off = run(base)[0], run(base.but(guidance=1.0))[0]
    grid = make_grid(decoder.schedule, 5)
    ratio = (grid.sigma / grid.alpha).tolist()
    within, passes = run(replace(base, guidance_interval=(1.01 * ratio[3], 1.01 * ratio[1])))
    assert passes == [3, 6, 6, 3, 3]
    assert (within - off).abs().max() > 1e-3
    assert (within - everywhere).abs().max() > 1e-3
    assert torch.equal(run(replace(base, guidance_interval=(1e8, 1e9)))[0], off)
    assert torch.equal(run(replace(base, guidance_interval=(0.0, math.inf)))[0], everywhere)


def test_rescaling_and_thresholding_take_back_what_strong_guidance_adds(tiny):
    """One step shows x0_hat itself: its spread falls with rescaling, and fewer pixels end at the limit."""
    decoder = livened(decoder_module(tiny.embeddings))
    cond = decoder.condition(tiny.embeddings.image["train"][:3], {})
    strong = replace(decoder.sampler, steps=1, guidance=30.0)

    def sample(**options):
        return decoder.sample(cond, torch.arange(3), 0, replace(strong, **options))

    unguided, plain = (sample(guidance=s, clip=None) for s in (1.0, 30.0))
    rescaled = sample(clip=None, guidance_rescale=1.0)
    assert plain.std() > 1.2 * unguided.std()
    torch.testing.assert_close(rescaled.flatten(1).std(1), unguided.flatten(1).std(1))
    clipped, thresholded = sample(), sample(thresholding=0.9)
    assert thresholded.abs().max() <= 1 + 1e-6
    at_the_limit = [(x.abs() > 1 - 1e-6).double().mean().item() for x in (clipped, thresholded)]
    assert at_the_limit[1] < at_the_limit[0]
    assert strong.refinements == {}
    assert replace(strong, thresholding=0.9).refinements == {"thresholding": 0.9}
    with pytest.raises(ValueError, match=r"thresholding = 0.9: needs clip"):
        replace(strong, clip=None, thresholding=0.9)


def test_prompts_and_images_change_the_picture(tiny):
    whole = model(tiny)
    disc, cross = (whole.sample([p], per_prompt=3, seed=1) for p in ("a solid disc", "a hollow cross"))
    assert not torch.equal(disc, cross)
    images = tiny.data.split("train").images[:4]
    back = whole.reconstruct(images, ["a solid disc"] * 4)
    assert back.shape == images.shape
    assert not torch.equal(back, whole.reconstruct(images.flip(0), ["a solid disc"] * 4))


def test_sampling_needs_no_embeddings_of_data(tiny):
    """A loaded model has none; training without them is refused."""
    prior: PriorModule = livened(prior_module(None))
    prior.sample(tiny.embeddings.captions(torch.tensor([0])), torch.arange(1), seed=0)
    with pytest.raises(AssertionError, match="can only sample"):
        prior.example({"index": torch.arange(1), "caption": torch.arange(1)}, "train", None)


def test_the_priors_guidance_is_u_plus_s_times_c_minus_u(tiny):
    """One step of one candidate shows the guided x0_hat itself."""
    whole = model(
        tiny, prior=livened(prior_module(tiny.embeddings, sampler=Sampler(ddim, steps=1), rerank=1))
    )
    prior, indices = whole.prior, torch.arange(3)
    text = tiny.embeddings.captions(torch.tensor([0, 3, 5]))
    cond = {"text_embedding": text["text"], "tokens": text["tokens"], "token_mask": text["token_mask"]}
    grid = make_grid(prior.schedule, 1)
    x_T = float(grid.sigma[0]) * KeyedNoise(key(4, "prior", 0), indices)(torch.empty(3, 8))
    t = grid.t[:1].expand(3)
    with torch.no_grad():
        c, u = (prior.denoiser(x_T, t, {**cond, "keep_text": torch.full((3,), k)}) for k in (True, False))
    for s in (0.0, 1.0, 2.5):
        found = replace(whole, prior_guidance=s).imagine(text, indices, seed=4)
        by_hand = F.normalize(prior.net.scaling.inverse(u + s * (c - u)), dim=1)
        torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)
    assert torch.equal(
        whole.imagine(text, indices, 4), replace(whole, prior_guidance=1.0).imagine(text, indices, 4)
    )
    assert (c - u).abs().max() > 1e-2


def test_without_a_prior_the_decoder_gets_the_text_embeddings(tiny):
    whole, prompts = model(tiny), ["a solid disc", "a hollow cross"]
    without = replace(whole, prior=None)
    text = whole.text(prompts)
    known = whole.sample(prompts, seed=3, embeddings=text["text"])
    assert torch.equal(without.sample(prompts, seed=3), known)
    assert torch.equal(without.embed(prompts, torch.tensor([1, 0]), 3), text["text"][[1, 0]])
    assert not torch.equal(whole.sample(prompts, seed=3), known)


@pytest.mark.parametrize("conditioning", ["image_embedding", "prior_sample", "text_embedding"])
def test_what_a_decoder_is_told(tiny, conditioning):
    decoder = decoder_module(tiny.embeddings, net={"conditioning": conditioning})
    text, image = tiny.embeddings.captions(torch.tensor([0, 1])), tiny.embeddings.image["train"][:2]
    told = decoder.condition(image, text)["embedding"]
    assert told is (text["text"] if conditioning == "text_embedding" else image)
