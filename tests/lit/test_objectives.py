"""What the diffusion stages train on: which noise levels, with which loss, and that a stop changes neither."""

from __future__ import annotations

import lightning
import pytest
import torch

from tests.lit.conftest import decoder_module, fit, prior_module, tiny_data
from tests.lit.test_sampling import livened
from tests.lit.test_training import losses
from unclip.callbacks.checkpoint import Checkpoint
from unclip.diffusion import Cosine, Discrete, cosine_betas, variational_loss
from unclip.diffusion.sample import ddpm
from unclip.diffusion.times import Importance, LogitNormal, LogNormal, Uniform
from unclip.randomness import BatchNoise
from unclip.sampling import LearnedVarianceSampler, Sampler

SHORT = Discrete(cosine_betas(4))  # a table that importance knows all of after one batch


def hybrid(tiny, **changes):
    settings = {
        "net": {"learned_variance": True},
        "loss": "hybrid",
        "sampler": LearnedVarianceSampler(ddpm, 5, clip=1.0),
    }
    return decoder_module(tiny.embeddings, **{**settings, **changes})


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("times", [Uniform(True), LogNormal(), LogitNormal(), Importance(stratified=True)])
def test_ranks_visit_together_what_one_process_visits(ranks, times):
    """Stratified draws are of the global batch: each rank's own would repeat the others' strata."""
    whole = times(BatchNoise(3, 16).uniform(times.spread), SHORT).t
    parts = [
        times(BatchNoise(3, 16 // ranks, rank, ranks).uniform(times.spread), SHORT).t for rank in range(ranks)
    ]
    assert torch.equal(torch.cat(parts), whole)
    if times.stratified:
        assert torch.bincount(whole.long()).tolist() == [4, 4, 4, 4]


def weights(module):
    return {name: x.clone() for name, x in module.net.state_dict().items()}


def test_importance_survives_a_stop_bit_for_bit(tiny, tmp_path):
    saved, data = tmp_path / "checkpoint.previous.ckpt", tiny_data(batch_size=16)

    def trained(**resume):
        module = prior_module(tiny.embeddings, schedule=SHORT, times=Importance(history=2))
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        callbacks = (
            [] if resume else [Checkpoint(5, str(tmp_path / "checkpoint.ckpt"))]
        )  # in the third epoch of two
        quiet |= {"limit_val_batches": 0, "enable_checkpointing": bool(callbacks)}
        trainer = lightning.Trainer(max_steps=8, accelerator="cpu", callbacks=callbacks, **quiet)
        trainer.fit(module, data, **resume)
        return module

    undisturbed = trained()
    resumed = trained(ckpt_path=saved, weights_only=True)
    expected = weights(undisturbed)
    assert all(torch.equal(x, expected[name]) for name, x in weights(resumed).items())
    assert torch.equal(resumed.times.losses, undisturbed.times.losses)
    p = undisturbed.times.probabilities()
    assert p.max() > p.min() > 0

    # and it is the state that does it
    state = torch.load(saved, weights_only=True)
    assert state["times"]["counts"].sum() == 5 * 16
    del state["times"]
    torch.save(state, tmp_path / "forgotten.ckpt")
    forgetful = trained(ckpt_path=tmp_path / "forgotten.ckpt", weights_only=True)
    assert not all(torch.equal(x, expected[name]) for name, x in weights(forgetful).items())


def test_validation_visits_the_same_levels_whatever_training_does(tiny):
    """So that runs with different `times` can be compared."""
    found = []
    split = tiny.data.split("validation")
    batch = {"index": torch.arange(8), "image": split.images[:8], "caption": split.caption_ids[:8]}
    for times in (Uniform(), Uniform(True), LogNormal(), LogitNormal(), Importance()):
        module = decoder_module(tiny.embeddings, times=times)
        module.log_validation = lambda means, _: found.append(means["val/loss"].item())
        with torch.no_grad():
            module.validation_step(batch, 0)
    assert len(set(found)) == 1


def test_each_choice_of_times_trains_on_other_levels(tiny):
    found = []
    for times in (Uniform(), Uniform(True), LogNormal(), LogitNormal()):
        found.append(losses(decoder_module(tiny.embeddings, times=times, seed=5), tiny.data, 2)[0])
    assert len(set(found)) == 4


# ---- hybrid --------------------------------------------------------------------------------------------


def test_hybrid_learns_the_variance_and_samples_with_it(tiny):
    module = hybrid(tiny)
    split = tiny.data.split("train")
    batch = {"index": torch.arange(32), "image": split.images, "caption": split.caption_ids}

    def variances():
        x0, cond = module.example(batch, "train", None)
        return module.denoiser.outputs(x0, torch.full((32,), 50.0), cond)[1]

    with torch.no_grad():
        assert (variances() == 0.5).all()  # the last layer starts at zero: half-way
    fit(module, tiny.data, 30)
    with torch.no_grad():
        after = variances()
    assert (after - 0.5).abs().mean() > 1e-3
    cond = module.condition(tiny.embeddings.image["train"][:3], {})
    images = module.sample(cond, torch.arange(3), 0, module.sampler.but(guidance=2.0))
    assert images.shape == (3, 1, 16, 16)
    fixed = module.sample(cond, torch.arange(3), 0, Sampler(ddpm, 5, guidance=2.0, clip=1.0))
    assert not torch.equal(images, fixed)  # the same noise, scaled otherwise


def bound(module, tiny):
    """L_vlb of the training data in bits per dimension: every fifth entry of the table, one draw of noise."""
    split = tiny.data.split("train")
    batch = {"index": torch.arange(32), "image": split.images, "caption": split.caption_ids}
    x0, cond = module.example(batch, "train", None)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        at = [
            variational_loss(module.denoiser, x0, torch.full((32,), float(t)), eps, cond)
            for t in range(0, 100, 5)
        ]
    return torch.stack(at).mean().item()


@pytest.mark.parametrize("settings", [{"loss": "hybrid"}, {"loss": "vlb"}, {"loss": "vlb", "net": {}}])
def test_training_lowers_the_bound(tiny, settings):
    """With both losses; and by the second alone a net that predicts no variance."""
    module = hybrid(tiny, drop_embedding=0.0, **settings)
    before = bound(module, tiny)
    fit(module, tiny.data, 40)
    assert bound(module, tiny) < before - 0.5


def test_a_learned_variance_leaves_the_rest_of_the_net_as_it_was(tiny):
    """L_simple of both nets is the same to the bit at the start: same initial weights, same draws."""
    plain, learned = decoder_module(tiny.embeddings), hybrid(tiny, loss="simple")
    for module in (plain, learned):
        livened(module)
    a, b = plain.net.unet.last[-1], learned.net.unet.last[-1]
    with torch.no_grad():
        b.weight[: len(a.weight)], b.bias[: len(a.bias)] = a.weight, a.bias
        for name, x in plain.net.named_parameters():
            if not name.startswith("unet.last.2"):
                learned.net.get_parameter(name).copy_(x)
    assert losses(learned, tiny.data, 1) == losses(plain, tiny.data, 1)


@pytest.mark.parametrize(
    "settings", [{}, {"net": {}, "loss": "simple"}, {"net": {}, "loss": "simple", "schedule": Cosine()}]
)
def test_bits_per_dimension_are_the_images_own_in_any_batch(tiny, settings):
    """Of learned and fixed variances, of tables and continuous time; noise is keyed by the image's index."""
    module = livened(hybrid(tiny, **settings))
    index, images = torch.tensor([3, 9, 17]), tiny.data.split("train").images[[3, 9, 17]]

    def bits(rows):
        cond = module.condition(tiny.embeddings.image["train"][index[rows]], {})
        return module.bits_per_dim(images[rows], cond, index[rows], seed=0, steps=20).total

    whole = bits([0, 1, 2])
    torch.testing.assert_close(torch.cat([bits([2]), bits([0, 1])]), whole[[2, 0, 1]], rtol=1e-4, atol=0)
    assert whole.isfinite().all()
    assert (whole > 0).all()
