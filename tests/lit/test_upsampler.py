"""An upsampler as a stage: what a training example is, what decides it, and how samples of a cascade come about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.lit.conftest import SIZE, TOKENIZER, decoder_module, fit, optim, prior_module, tiny_data
from tests.lit.test_sampling import livened
from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.data.corruption import Degradation, GaussianBlur, Untouched
from unclip.data.images import resized, to_float
from unclip.diffusion import Discrete, V, cosine_betas
from unclip.diffusion.sample import ddim
from unclip.diffusion.weighting import uniform
from unclip.generate import UnCLIP, upsampled
from unclip.lit.upsampler import UpsamplerModule
from unclip.nets.upsampler import UpsamplerNet
from unclip.runs.references import gaps
from unclip.runs.whole import planned
from unclip.sampling import Sampler

SHAPE = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "groups": 4, "cond_width": 16}


def upsampler(size: int = SIZE, net: dict | None = None, steps: int = 4, **changes) -> UpsamplerModule:
    torch.manual_seed(4)
    settings = {
        "net": UpsamplerNet(size, 1, **{**SHAPE, **(net or {})}),
        "schedule": Discrete(cosine_betas(100)),
        "objective": V(),
        "weighting": uniform,
        "sampler": Sampler(ddim, steps=steps, clip=1.0),
        "embeddings": None,
        "optim": optim(),
        "corruption": GaussianBlur(),
        "crop": 0.5,
    }
    return UpsamplerModule(**{**settings, **changes})


def batch(data, index: list[int]) -> dict[str, torch.Tensor]:
    return {"image": data.split("train").images[index], "index": torch.tensor(index)}


def at_epoch(module: UpsamplerModule, epoch: int) -> UpsamplerModule:
    """As Lightning's trainer would have it."""
    module.trainer = type("Trainer", (), {"current_epoch": epoch, "world_size": 1})()  # type: ignore[assignment]
    return module


def test_the_condition_is_the_area_downsampled_copy_enlarged_bilinearly(tiny):
    module = at_epoch(upsampler(crop=1.0, corruption=Untouched()), 0)
    x0, cond = module.example(batch(tiny.data, [3, 5]), "train", None)
    assert x0.shape == (2, 1, SIZE, SIZE)
    small = F.interpolate(x0, SIZE // 2, mode="area")
    torch.testing.assert_close(cond["low"], F.interpolate(small, SIZE, mode="bilinear"))
    assert (cond["strength"] == 0).all()  # nothing is done, so nothing is said to be


def test_a_crop_is_the_same_square_of_picture_and_condition(tiny):
    """At corners of low-resolution pixels, another square in another epoch; validation sees whole pictures."""
    module, images = at_epoch(upsampler(corruption=Untouched()), 0), to_float(tiny.data.split("train").images)
    whole = module.enlarged(module.reduced(images))
    places = []
    for epoch in range(6):
        x0, cond = at_epoch(module, epoch).example(batch(tiny.data, [3]), "train", None)
        assert x0.shape == cond["low"].shape == (1, 1, SIZE // 2, SIZE // 2)
        found = [
            (y, x)
            for y in range(0, SIZE // 2 + 1, 2)
            for x in range(0, SIZE // 2 + 1, 2)
            if torch.equal(images[3, :, y : y + 8, x : x + 8], x0[0])
            and torch.equal(whole[3, :, y : y + 8, x : x + 8], cond["low"][0])
        ]
        assert found
        places.append(found[0])
    assert len(set(places)) > 2
    assert module.example(batch(tiny.data, [3]), "validation", None)[0].shape[-1] == SIZE


@pytest.mark.parametrize("corruption", [GaussianBlur(), Degradation()], ids=lambda c: type(c).__name__)
def test_what_is_random_about_an_image_is_keyed_by_seed_epoch_and_sample(tiny, corruption):
    def drawn(index: list[int], epoch: int = 0, seed: int = 0):
        module = at_epoch(upsampler(corruption=corruption, seed=seed), epoch)
        x0, cond = module.example(batch(tiny.data, index), "train", None)
        return {"x0": x0, **cond}

    first, again = drawn([3, 5, 8]), drawn([8, 3])
    for name in first:
        torch.testing.assert_close(first[name][[2, 0]], again[name])  # in any batch
    strength = first["strength"]
    assert strength.unique().numel() == 3
    assert ((strength >= 0) & (strength <= 1)).all()
    for other in (drawn([3, 5, 8], epoch=1), drawn([3, 5, 8], seed=1)):
        assert not torch.isclose(other["strength"], strength).any()


def test_the_chosen_strength_and_the_low_resolution_picture_decide_the_sample():
    low, indices = torch.rand(2, 1, 8, 8) * 2 - 1, torch.arange(2)
    module = livened(upsampler())
    drawn = module.sample(low, indices, seed=0)
    assert drawn.shape == (2, 1, 16, 16)
    torch.testing.assert_close(drawn[1:], module.sample(low[1:], indices[1:], seed=0), rtol=1e-4, atol=1e-4)
    strong = livened(upsampler(strength=1.0)).sample(low, indices, seed=0)
    for other in (strong, module.sample(low.flip(0), indices, seed=0), module.sample(low, indices, seed=1)):
        assert (drawn - other).abs().mean() > 1e-3
    assert module.sample(torch.zeros(1, 1, 6, 10), indices[:1], seed=0).shape == (1, 1, 12, 20)  # any size


def test_a_wrong_picture_or_crop_is_refused():
    with pytest.raises(ValueError, match="of 3x8x8: this upsampler takes 1 channels"):
        upsampler().sample(torch.zeros(1, 3, 8, 8), torch.arange(1), 0)
    with pytest.raises(ValueError, match="sides that are multiples of 4"):
        upsampler(net={"multipliers": (1, 1, 2)}).sample(torch.zeros(1, 1, 7, 7), torch.arange(1), 0)
    with pytest.raises(ValueError, match=r"crop = 0.3: 5 of 16 pixels must be a multiple of the factor"):
        upsampler(crop=0.3)


def test_trained_on_quarters_it_draws_whole_pictures_that_follow_their_small_ones():
    data = tiny_data(batch_size=16)
    module = fit(upsampler(optim=optim(1e-2), corruption=Untouched()), data, 120)
    real = to_float(data.split("test").images)
    low = module.reduced(real)
    ours = module.eval().sample(low, torch.arange(len(real)), seed=0)
    assert ours.shape == real.shape
    assert (ours - real).square().mean() < 0.3 * (ours - real.roll(1, 0)).square().mean()
    assert (module.reduced(ours) - low).square().mean() < 0.1 * low.var()


def test_a_cascade_draws_through_all_its_upsamplers(tiny):
    """16 -> 32 -> 128: the decoder's pictures are those of the model without them; each upsampler enlarges the last."""
    prior, decoder = livened(prior_module(tiny.embeddings)), livened(decoder_module(tiny.embeddings))
    chain = [livened(upsampler(2 * SIZE)), livened(upsampler(8 * SIZE, {"factor": 4}, steps=2))]
    plain = UnCLIP(tiny.clip, prior, decoder, TOKENIZER)
    cascade = replace(plain, upsamplers=chain)
    assert cascade.sample(["a disc"], 2).shape == (2, 1, 8 * SIZE, 8 * SIZE)
    assert cascade.reconstruct(tiny.data.split("test").images[:2], ["a disc"] * 2).shape[-1] == 8 * SIZE
    small = plain.sample(["a disc"], 2)
    large = cascade.sample(["a disc"], 2)
    singly = replace(cascade, batch_size=1).sample(["a disc"], 2)
    torch.testing.assert_close(singly.float(), large.float(), rtol=0, atol=2)
    once = upsampled(chain[:1], small)
    torch.testing.assert_close(  # as from the decoder's own, but for their rounding to 256 levels
        once.float(), replace(plain, upsamplers=chain[:1]).sample(["a disc"], 2).float(), rtol=0, atol=8
    )


def test_wrong_settings_are_named_before_anything_runs():
    asked = ["stage=upsampler", "data.image_size=30", "model.factor=4", "guidance=2"]
    with pytest.raises(Problems, match=r"must divide data\.image_size = 30; possible: 2") as error:
        compose("train", asked)
    assert "guidance = 2: an upsampler is told nothing" in str(error.value)
    with pytest.raises(
        Problems, match=r"is 10 of 32 pixels, which must be a multiple of 4; possible: 0.125, 0.25"
    ):
        compose("train", ["stage=upsampler", "stage.crop=0.3"])
    with pytest.raises(Problems, match="stage decoder has no corruption"):
        compose("train", ["stage=decoder", "corruption=blur"])


def test_a_cascade_whose_sizes_do_not_meet_is_named_in_one_line(tmp_path: Path):
    where = f"paths.outputs={tmp_path}"
    with pytest.raises(Problems) as error:
        planned(["experiment=cascade", where, "upsampler.model.factor=4"])
    assert [str(p) for p in error.value.problems] == [
        "upsampler: enlarges pictures of 8 to 32, and the decoder draws 16: a decoder with data.image_size=8, or "
        "another upsampler"
    ]

    def config(size: int, factor: int) -> dict:
        return {"stage": {"name": "upsampler"}, "data": {"image_size": size}, "model": {"factor": factor}}

    chain = {"decoder": {"data": {"image_size": 16}}, "upsampler": config(32, 2), "upsampler2": config(64, 2)}
    assert gaps(chain) == []
    assert len(gaps({**chain, "upsampler2": config(128, 2)})) == 1
    assert "is a run of stage prior" in str(gaps({**chain, "upsampler": {"stage": {"name": "prior"}}})[0])


@pytest.mark.parametrize("name", ["paper_256", "paper_1024"])
def test_the_papers_upsamplers_compose(name):
    size = name.removeprefix("paper_")
    config = compose(
        "train", ["stage=upsampler", f"model=upsampler/{name}", f"data.image_size={size}"]
    ).config
    assert config["stage"]["crop"] == 0.25
    assert config["model"]["factor"] == 4


def test_the_reduced_copy_of_a_padded_picture(fashion_mnist):
    """resize=area is what an upsampler at twice the size is told: means of the squares of the padded picture."""
    stored = fashion_mnist.split("test").images[:8, :, 2:-2, 2:-2]
    assert stored.shape[-1] == 28
    padded = resized(stored, 32, "pad").float()
    torch.testing.assert_close(resized(stored, 16, "area").float(), F.avg_pool2d(padded, 2), rtol=0, atol=0.5)
    assert torch.equal(resized(stored, 32, "area"), resized(stored, 32, "pad"))
