"""Training steps: what the stages learn, what they draw, what they keep."""

from __future__ import annotations

from statistics import mean
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch.nn.utils import get_total_norm

from tests.lit.conftest import clip_module, decoder_module, fit, prior_module, tiny_data
from unclip.diffusion import Discrete, Linear, linear_betas
from unclip.lit.base import keep
from unclip.nets.clip import CLIP
from unclip.randomness import BatchNoise


def losses(module, data, steps: int, **trainer) -> list[float]:
    """The training loss of every step."""
    found = []
    module.log = lambda name, value, **_: found.append(value.item()) if name == "train/loss" else None
    fit(module, data, steps, **trainer)
    return found


def test_clip_learns_one_batch_by_heart(tiny):
    found = losses(clip_module(tiny.data), tiny.data, 150)
    assert found[-1] < 0.1 * found[0]


@pytest.mark.parametrize("start", [100.0, 1000.0])
def test_a_logit_scale_at_its_limit_comes_down_again_where_the_loss_wants_it(tiny, start):
    """Of an untrained CLIP, which is wrong and should not be so sure."""
    module = clip_module(tiny.data)
    with torch.no_grad():
        module.net.log_logit_scale.fill_(start).log_()
    fit(module, tiny.data, 5)
    assert 90 < module.net.logit_scale < 99.5


def test_prior_learns_one_batch_by_heart(tiny):
    """Its 32 embeddings: the mean over ten steps' noise levels falls to a fifth."""
    found = losses(prior_module(tiny.embeddings, drop_text=0.0), tiny.data, 100)
    assert mean(found[-10:]) < 0.2 * found[0]


def test_decoder_learns_one_batch_by_heart(tiny):
    found = losses(decoder_module(tiny.embeddings, drop_embedding=0.0), tiny.data, 200)
    assert mean(found[-10:]) < 0.25 * found[0]


@pytest.mark.parametrize("stage", [prior_module, decoder_module])
def test_a_step_depends_on_the_seed_and_on_nothing_drawn_before(tiny, stage):
    torch.manual_seed(123)
    first = losses(stage(tiny.embeddings, seed=5), tiny.data, 4)
    torch.manual_seed(456)
    torch.randn(7)
    assert losses(stage(tiny.embeddings, seed=5), tiny.data, 4) == first
    assert losses(stage(tiny.embeddings, seed=6), tiny.data, 4) != first
    assert len(set(first)) == 4  # other noise at every step


def test_what_is_logged_with_a_step_is_of_that_step(tiny):
    """Every fifth step's loss and norm, whatever epoch it is in."""
    written, steps = [], []

    class Written(DummyLogger):
        def log_metrics(self, metrics, step=None):
            written.append((step, metrics["train/loss"], metrics["train/grad_norm"]))

    class Seen(lightning.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            norm = get_total_norm([p.grad for p in module.parameters()])
            steps.append((trainer.global_step, trainer.callback_metrics["train/loss"].item(), norm.item()))

    data = tiny_data(batch_size=16)
    fit(prior_module(tiny.embeddings), data, 12, logger=Written(), log_every_n_steps=5, callbacks=[Seen()])
    assert written == [pytest.approx(steps[4]), pytest.approx(steps[9])]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_draw_together_what_one_process_draws(ranks):
    """The same global batch, cut: so no rank repeats another's noise, and gradients average to the same."""
    x = torch.empty(8, 1, 4, 4)
    one = BatchNoise(3, 8)
    parts = [BatchNoise(3, 8 // ranks, rank, ranks) for rank in range(ranks)]
    for draw in (lambda noise, part: noise(part), lambda noise, part: noise.uniform()) * 2:
        whole = draw(one, x)
        cut = [draw(noise, x[: 8 // ranks]) for noise in parts]
        assert torch.equal(torch.cat(cut), whole)
        assert not torch.equal(cut[0], cut[1])


def test_training_noise_is_gaussian():
    """Not uniform: half of it would lie in [-.67, .67], and its fourth moment is 3."""
    x = BatchNoise(0, 1000)(torch.empty(1000, 100))
    assert x.mean().abs() < 0.02
    assert x.var().item() == pytest.approx(1, abs=0.02)
    assert x.pow(4).mean().item() == pytest.approx(3, abs=0.1)


def test_the_batch_decides_the_noise_not_only_the_seed(tiny):
    module = prior_module(tiny.embeddings)
    settings = {"world_size": 1, "global_rank": 0, "strategy": None, "accumulate_grad_batches": 1}
    module.trainer = SimpleNamespace(current_epoch=0, **settings)
    batch, x = {"index": torch.arange(4)}, torch.empty(4, 3)
    first = module.training_noise(batch, 0)(x)
    assert torch.equal(module.training_noise(batch, 0)(x), first)
    assert not torch.equal(module.training_noise(batch, 1)(x), first)
    module.trainer.current_epoch = 1
    assert not torch.equal(module.training_noise(batch, 0)(x), first)


def test_dropout_of_conditions_has_its_rate_and_is_independent(tiny):
    """Embedding and caption are dropped apart: together as often as the product says."""
    module = decoder_module(tiny.embeddings, net={"caption_layers": 1}, drop_embedding=0.2, drop_caption=0.5)
    text = tiny.embeddings.captions(torch.zeros(20_000, dtype=torch.long))
    cond = module.condition(torch.zeros(20_000, 8), text, BatchNoise(0, 20_000).uniform)
    embedding, caption = ~cond["keep_embedding"], ~cond["keep_tokens"]
    assert embedding.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert caption.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (embedding & caption).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert keep(0.9, None, torch.empty(5)).all()  # evaluation drops nothing


def test_the_prior_trains_on_scaled_embeddings_and_the_texts_own_features(tiny):
    """The text tower's token features of the sample's caption, not its ids."""
    module, index = prior_module(tiny.embeddings, embedding_scale="paper"), torch.tensor([3, 11])
    caption = tiny.data.split("train").caption_ids[index]
    x0, cond = module.example({"index": index, "caption": caption}, "train", None)
    torch.testing.assert_close(x0, 17.2 * tiny.embeddings.image["train"][index])
    features = tiny.clip.encode_text(module_ids(tiny, caption))
    torch.testing.assert_close(cond["tokens"], features.tokens)
    torch.testing.assert_close(cond["text_embedding"], features.embedding)
    assert torch.equal(cond["token_mask"], features.mask)


def module_ids(tiny, caption):
    return clip_module(tiny.data).token_ids[caption]


def test_the_decoder_trains_on_the_true_images_embedding_and_on_images_in_range(tiny):
    index = torch.tensor([3, 11])
    images = tiny.data.split("train").images[index]
    batch = {"index": index, "image": images, "caption": tiny.data.split("train").caption_ids[index]}
    x0, cond = decoder_module(tiny.embeddings).example(batch, "train", None)
    torch.testing.assert_close(cond["embedding"], tiny.clip.encode_image(x0))
    assert x0.min() == -1  # black is -1: nothing is lost when samples are clipped to [-1, 1]
    torch.testing.assert_close((x0 + 1) * 127.5, images.float())
    text = decoder_module(tiny.embeddings, net={"conditioning": "text_embedding"}).example(
        batch, "train", None
    )[1]
    torch.testing.assert_close(text["embedding"], tiny.embeddings.text[batch["caption"]])


@pytest.mark.parametrize("stage", [prior_module, decoder_module])
def test_only_the_trained_net_is_saved(tiny, stage):
    """The frozen CLIP stays out of checkpoints, and out of training: its embeddings are there instead."""
    module = stage(tiny.embeddings)
    assert {name.split(".")[0] for name in module.state_dict()} == {"net"}
    assert not any(isinstance(part, CLIP) for part in module.modules())
    assert set(clip_module(tiny.data).state_dict()) == {
        f"net.{n}" for n in clip_module(tiny.data).net.state_dict()
    }


def test_the_net_reads_time_on_one_scale_whatever_the_schedule(tiny):
    """Tables of any length and continuous time: 0 to 1000; or the log-SNR if that was asked for."""
    seen = []
    for settings in (
        {"schedule": Discrete(linear_betas(50))},
        {"schedule": Linear()},
        {"schedule": Linear(), "time": "log_snr"},
    ):
        module = prior_module(tiny.embeddings, **settings)
        module.net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[1]))
        x, cond = module.example({"index": torch.arange(2), "caption": torch.zeros(2).long()}, "train", None)
        module.denoiser(x, module.schedule.from_uniform(torch.tensor([0.0, 0.98])), cond)
    assert seen[0].tolist() == pytest.approx([0, 980])
    assert seen[1].tolist() == pytest.approx([0, 980])
    assert seen[2][0] > 4
    assert seen[2][1] < -4


def test_validation_draws_the_same_in_any_batches_and_at_any_time(tiny):
    module, found = decoder_module(tiny.embeddings), []
    module.log_validation = lambda means, count: found.append(float(means["val/loss"]) * count)
    split = tiny.data.split("validation")
    batch = {"index": torch.arange(8), "image": split.images, "caption": split.caption_ids}
    module.eval()
    with torch.no_grad():
        module.validation_step(batch, 0)
        torch.manual_seed(99)
        for part in torch.arange(8).split(3):
            module.validation_step({name: x[part] for name, x in batch.items()}, 7)
    assert sum(found[1:]) == pytest.approx(found[0], rel=1e-5)
