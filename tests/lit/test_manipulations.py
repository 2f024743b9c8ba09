"""What a manipulation must leave as it is, and what it must arrive at: identities at the ends of every way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests.lit.conftest import TOKENIZER, decoder_module, fit, prior_module
from unclip.data.embeddings import image_features
from unclip.generate import UnCLIP
from unclip.manipulations import Manipulator
from unclip.nets.pca import PCA, components_for


@pytest.fixture(scope="module")
def model(tiny: SimpleNamespace) -> UnCLIP:
    """A decoder that has seen some training: an untrained one answers nothing to its condition."""
    prior = fit(prior_module(tiny.embeddings), tiny.data, 20).eval()
    decoder = fit(decoder_module(tiny.embeddings), tiny.data, 60).eval()
    return UnCLIP(tiny.clip, prior, decoder, TOKENIZER, sampler=decoder.sampler)


@pytest.fixture(scope="module")
def given(tiny: SimpleNamespace) -> SimpleNamespace:
    split = tiny.data.split("validation").head(3)
    return SimpleNamespace(
        images=split.images, prompts=[split.captions[i] for i in split.caption_ids.tolist()]
    )


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.double() - b.double()).abs().mean().item()


def test_inversion_leads_back_the_better_the_more_steps(model: UnCLIP, given: SimpleNamespace) -> None:
    errors = []
    for steps in (5, 20, 80):
        by = Manipulator(model, steps)
        errors.append(error(by.decode(by.latents(given.images, given.prompts)), given.images))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 6


def test_variations_without_noise_are_the_reconstruction(model: UnCLIP, given: SimpleNamespace) -> None:
    by = Manipulator(model, 10)
    latents = by.latents(given.images, given.prompts)
    same, varied = by.variations(latents, 2, eta=0.0), by.variations(latents, 2, eta=1.0)
    assert torch.equal(same[:, 0], same[:, 1])
    assert torch.equal(same[:, 0], by.decode(latents))
    assert not torch.equal(varied[:, 0], varied[:, 1])


def test_an_interpolation_ends_in_both_pictures(model: UnCLIP, given: SimpleNamespace) -> None:
    by = Manipulator(model, 10)
    a, b = (by.latents(given.images[[i]], given.prompts[i : i + 1]) for i in (0, 1))
    pictures, embeddings = by.interpolated(a, b, [0.0, 0.5, 1.0])
    assert torch.equal(pictures[:, 0], by.decode(a))
    assert torch.equal(pictures[:, 2], by.decode(b))
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(1, 3))
    halfway = F.normalize(a.embedding + b.embedding, dim=-1)
    torch.testing.assert_close(embeddings[:, 1], halfway)


def test_a_text_diff_turns_from_the_picture_to_the_difference(model: UnCLIP, given: SimpleNamespace) -> None:
    by = Manipulator(model, 10)
    latents = by.latents(given.images, given.prompts)
    source, target = model_captions(model, given)
    pictures, embeddings = by.text_diffs(latents, source, target, [0.0, 0.3, 1.0])
    text = model.text([source, target])["text"]
    difference = F.normalize(text[1] - text[0], dim=-1)
    assert torch.equal(pictures[:, 0], by.decode(latents))
    torch.testing.assert_close(embeddings[:, 2], difference.expand(3, -1))
    nearness = embeddings @ difference
    assert (nearness.diff(dim=1) > 0).all()


def test_a_picture_that_shows_the_target_already_stays(model: UnCLIP, given: SimpleNamespace) -> None:
    """The difference of a caption from itself has no direction."""
    by = Manipulator(model, 4)
    latents = by.latents(given.images, given.prompts)
    pictures, embeddings = by.text_diffs(latents, given.prompts[0], given.prompts[0], [0.0, 0.5])
    assert torch.equal(pictures[:, 1], by.decode(latents))
    torch.testing.assert_close(embeddings, latents.embedding[:, None].expand(-1, 2, -1))


def model_captions(model: UnCLIP, given: SimpleNamespace) -> tuple[str, str]:
    return given.prompts[0], next(p for p in [*given.prompts, "an image of a cross"] if p != given.prompts[0])


def test_principal_components_lose_less_and_less(tiny: SimpleNamespace) -> None:
    train = tiny.embeddings.image["train"]
    basis = PCA.fitted(train)
    dim = train.shape[1]
    errors = [(basis.project(train, k) - train).square().sum(1).mean().item() for k in range(dim + 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10
    # what is lost is just the variance of the components left out
    tails = [basis.variance[k:].sum().item() * (len(train) - 1) / len(train) for k in range(dim + 1)]
    torch.testing.assert_close(torch.tensor(errors), torch.tensor(tails), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(basis.directions @ basis.directions.T, torch.eye(dim), atol=1e-5, rtol=0)
    share = basis.variance.cumsum(0) / basis.variance.sum()
    for k in range(1, dim + 1):
        assert components_for(basis.variance, float(share[k - 1]) - 1e-6) == k
    with pytest.raises(ValueError, match="components = 9: possible are 0 to 8"):
        basis.project(train, 9)


def test_all_principal_components_draw_the_picture_of_the_embedding(
    tiny: SimpleNamespace, model: UnCLIP, given: SimpleNamespace
) -> None:
    by = Manipulator(model, 6)
    basis, own = PCA.fitted(tiny.embeddings.image["train"]), image_features(model.clip, given.images)["image"]
    pictures, kept = by.pca(own, given.prompts, basis, [1, 8])
    torch.testing.assert_close(kept[:, 1], own, atol=1e-5, rtol=0)
    assert not torch.equal(pictures[:, 0], pictures[:, 1])  # fewer draw another, from the same noise


@pytest.mark.parametrize("resample", [1, 2])
def test_inpainting_keeps_what_is_kept(model: UnCLIP, given: SimpleNamespace, resample: int) -> None:
    by = Manipulator(model, 6)
    kept = torch.zeros(16, 16, dtype=torch.bool)
    kept[:8] = True
    drawn = by.inpainted(given.images, kept, given.prompts, 2, resample)
    assert torch.equal(drawn[:, 0, :, :8], given.images[:, :, :8])
    assert not torch.equal(drawn[:, 0, :, 8:], given.images[:, :, 8:])
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_outpainting_keeps_the_picture_in_the_middle(model: UnCLIP, given: SimpleNamespace) -> None:
    by = Manipulator(model, 4)
    drawn = by.outpainted(given.images, 4, given.prompts, 1, resample=1)
    assert drawn.shape == (3, 1, 1, 24, 24)
    assert torch.equal(drawn[:, 0, :, 4:-4, 4:-4], given.images)
    with pytest.raises(ValueError, match=r"border = 3 makes pictures of 22 pixels.* multiples of 4.*2, 4, 6"):
        by.outpainted(given.images, 3, given.prompts, 1)


def test_a_negative_prompt_acts_by_guidance_alone(model: UnCLIP, given: SimpleNamespace) -> None:
    prompts, negative = given.prompts[:1], "an image of a cross"
    plain, away = Manipulator(model, 6, guidance=1.0).steered(prompts, negative, 2)
    assert torch.equal(plain, away)
    plain, away = Manipulator(model, 6, guidance=3.0).steered(prompts, negative, 2)
    assert not torch.equal(plain, away)


def test_prior_samples_are_laid_out_from_the_nearest_to_the_text(model: UnCLIP) -> None:
    prompts = ["an image of a cross", "an image of a square"]
    pictures, embeddings = Manipulator(model, 4).prior_samples(prompts, 4)
    assert pictures.shape[:2] == (2, 4)
    scores = torch.einsum("n m d, n d -> n m", embeddings, model.text(prompts)["text"])
    assert (scores.diff(dim=1) <= 0).all()
    assert scores.unique().numel() > 4
