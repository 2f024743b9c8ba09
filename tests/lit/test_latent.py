"""An autoencoder's training, and a decoder in its latents: what is balanced, what is frozen, what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from safetensors.torch import save_file

from tests.lit.conftest import SIZE, TOKENIZER, D, W, fit, optim, tiny_data
from unclip import build
from unclip.callbacks.checkpoint import Checkpoint
from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.data.images import to_float, to_uint8
from unclip.data.latents import Latents
from unclip.data.synthetic import Synthetic
from unclip.diffusion import Discrete, V, cosine_betas
from unclip.diffusion.sample import ddim
from unclip.diffusion.weighting import uniform
from unclip.files import earlier
from unclip.generate import UnCLIP
from unclip.lit.autoencoder import AutoencoderModule
from unclip.lit.decoder import DecoderModule
from unclip.manipulations import Manipulator
from unclip.nets.autoencoder import Autoencoder, LatentScale
from unclip.nets.decoder import DecoderNet
from unclip.nets.discriminator import PatchDiscriminator, hinge
from unclip.runs.signature import signature
from unclip.runs.store import Run
from unclip.runs.upstream import resolve
from unclip.sampling import Sampler

Z = 3


def autoencoder(**changes) -> AutoencoderModule:
    torch.manual_seed(0)
    net = Autoencoder(SIZE, 1, 4, Z, channels=8, blocks=1, groups=4, unshuffle=2)
    return AutoencoderModule(net, optim(), **changes)


def adversarial(**changes) -> AutoencoderModule:
    torch.manual_seed(1)
    return autoencoder(discriminator=PatchDiscriminator(1, channels=8, layers=1), **changes)


def trainer(steps: int, folder: Path, **more) -> lightning.Trainer:
    quiet = {**more, "logger": False, "enable_checkpointing": bool(more), "enable_progress_bar": False}
    return lightning.Trainer(
        accelerator="cpu", max_steps=steps, limit_val_batches=0, gradient_clip_val=1.0,
        enable_model_summary=False, default_root_dir=folder, **quiet,
    )  # fmt: skip


@pytest.fixture(scope="module")
def latents(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Latents:
    """Of an autoencoder that has seen some training."""
    net = fit(autoencoder(), tiny.data, 60).net.eval().requires_grad_(False)
    return Latents.load(net, tiny.data, tmp_path_factory.mktemp("cache"))


def latent_decoder(tiny: SimpleNamespace, latents: Latents, **changes) -> DecoderModule:
    torch.manual_seed(2)
    net = DecoderNet(
        SIZE // 4, Z, D, W, channels=16, multipliers=(1, 2), blocks=1, attention=(1,), heads=2, groups=4,
        dropout=0.0, cond_width=32, caption_layers=0,
    )  # fmt: skip
    net.latent_scale = LatentScale()
    settings = {
        "schedule": Discrete(cosine_betas(100)),
        "objective": V(),
        "weighting": uniform,
        "sampler": Sampler(ddim, steps=5),
        "embeddings": tiny.embeddings,
        "optim": optim(),
        "latents": latents,
    }
    return DecoderModule(**{**settings, **changes}, net=net)


# ---- the autoencoder's training ------------------------------------------------------------------------


def test_it_learns_one_batch_by_heart(tiny: SimpleNamespace) -> None:
    found: list[float] = []
    module = autoencoder()
    module.log = lambda name, value, **_: found.append(value.item()) if name == "train/loss" else None
    fit(module, tiny.data, 80)
    assert found[-1] < 0.4 * found[0]


def test_the_loss_is_per_value_of_what_the_paper_sums_over_a_picture(tiny: SimpleNamespace) -> None:
    module = autoencoder(kl_weight=0.3)
    x, y = torch.randn(2, 4, 1, SIZE, SIZE)
    posterior = module.net.encode(x)
    ours = module.likeness(x, y) + module.divergence(x, posterior)
    summed = ((x - y).abs().sum((1, 2, 3)) + 0.3 * posterior.kl()).mean()
    torch.testing.assert_close(ours * SIZE**2, summed)
    torch.testing.assert_close(autoencoder(reconstruction="l2").likeness(x, y), (x - y).square().mean())


@pytest.mark.parametrize("batch_size", [32, 12, 5])
def test_the_error_is_over_all_pictures_whatever_the_batches(tmp_path: Path, batch_size: int) -> None:
    module, data = autoencoder(), tiny_data(batch_size=batch_size)
    quiet = {"logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
    found = lightning.Trainer(accelerator="cpu", **quiet).validate(module, data, verbose=False)
    images = data.split("validation").images
    with torch.no_grad():
        again = to_uint8(module.net.decode(module.net.encode(to_float(images)).mean))
    expected = (again.double() - images.double()).square().mean().sqrt()
    assert found[0]["val/rms"] == pytest.approx(expected.item(), rel=1e-3)


def test_before_its_start_a_discriminator_changes_nothing(tiny: SimpleNamespace) -> None:
    """The same weights, bit for bit, as of the plain loss; afterwards others."""
    plain, waiting, judged = autoencoder(), adversarial(discriminator_start=5), adversarial()
    for module in (plain, waiting, judged):
        fit(module, tiny.data, 5, gradient_clip_val=1.0)
    nets = (module.net.parameters() for module in (plain, waiting, judged))
    same = list(zip(*nets, strict=True))
    assert all(torch.equal(a, b) for a, b, _ in same)
    assert not all(torch.equal(a, c) for a, _, c in same)


def test_net_and_discriminator_each_have_their_own_gradient(tiny: SimpleNamespace) -> None:
    """Of one backward pass: the verdict's reaches only the net, hinge's only the discriminator."""
    module = adversarial(adaptive_weight=False, discriminator_weight=0.7)
    module.trainer = SimpleNamespace(global_step=0, world_size=1)
    module.log_dict = lambda *_, **__: None
    x = to_float(tiny.data.split("train").images[:4])
    judge, net = module.discriminator, module.net

    def reconstruction() -> torch.Tensor:
        return net.decode(net.encode(x).mean)

    def gradients(loss: torch.Tensor, part: torch.nn.Module) -> list[torch.Tensor]:
        return list(
            torch.autograd.grad(loss, list(part.decoder.parameters() if part is net else part.parameters()))
        )

    y = reconstruction()
    both = module.adversarial(x, y, module.likeness(x, y))
    by_net = gradients(-0.7 * judge(reconstruction()).mean(), net)
    by_judge = gradients(hinge(judge(x), judge(reconstruction().detach())), judge)
    both.backward()
    for expected, part in ((by_net, net.decoder), (by_judge, judge)):
        for gradient, parameter in zip(expected, part.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_the_adaptive_weight_makes_gradients_at_the_last_layer_equal(tiny: SimpleNamespace) -> None:
    module = adversarial()
    module.trainer = SimpleNamespace(world_size=1)
    x = to_float(tiny.data.split("train").images[:4])
    y = module.net.decode(module.net.encode(x).mean)
    likeness, verdict = module.likeness(x, y), -1e3 * module.discriminator(y).mean()
    weight = module.balance(likeness, verdict)
    sizes = [
        torch.autograd.grad(loss, module.net.last.weight, retain_graph=True)[0].norm()
        for loss in (likeness, weight * verdict)
    ]
    torch.testing.assert_close(*sizes, rtol=1e-3, atol=0)


def test_a_resumed_run_with_a_discriminator_ends_with_the_same_weights(
    tiny: SimpleNamespace, tmp_path: Path
) -> None:
    """Bit for bit: its weights, and the moments of both, are in the checkpoint."""
    undisturbed, stopped = (adversarial(discriminator_start=2) for _ in range(2))
    at_six = Checkpoint(6, str(tmp_path / "at_six.ckpt"))
    trainer(10, tmp_path, callbacks=[at_six]).fit(undisturbed, tiny_data(batch_size=8))
    before = {name: x.clone() for name, x in stopped.state_dict().items()}
    torch.manual_seed(99)
    trainer(10, tmp_path).fit(
        stopped, tiny_data(batch_size=8), ckpt_path=earlier(at_six.path), weights_only=True
    )
    a, b = undisturbed.state_dict(), stopped.state_dict()
    assert {name.split(".")[0] for name in a} == {"net", "discriminator"}
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], before[name]) for name in a if name.endswith("weight"))


# ---- a decoder in its latents --------------------------------------------------------------------------


def test_x0_is_the_encoded_mean_of_unit_variance_over_the_training_set(
    tiny: SimpleNamespace, latents: Latents
) -> None:
    module, split = latent_decoder(tiny, latents), tiny.data.split("train")
    index = torch.arange(len(split))
    batch = {"index": index, "image": split.images, "caption": split.caption_ids}
    x0, cond = module.example(batch, "train", None)
    assert x0.shape == (len(split), Z, SIZE // 4, SIZE // 4)
    assert float(x0.std()) == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(x0, module.encoded(to_float(split.images)))
    torch.testing.assert_close(cond["embedding"], tiny.embeddings.image["train"])
    torch.testing.assert_close(module.pixels(x0), latents.autoencoder.decode(latents.autoencoder.encode(
        to_float(split.images)).mean), atol=1e-4, rtol=1e-4)  # fmt: skip


def test_a_sampled_x0_is_keyed_and_spread_as_the_encoder_says(
    tiny: SimpleNamespace, latents: Latents
) -> None:
    wide = Latents(latents.autoencoder, latents.encodings, latents.spread)
    for found in wide.encodings.values():
        found.log_var.fill_(-1.0)
    module, split = latent_decoder(tiny, wide, latent="sample"), tiny.data.split("train")
    batch = {"index": torch.arange(32), "image": split.images[:32], "caption": split.caption_ids[:32]}
    x0 = module.originals(batch, "train", training=True)
    assert torch.equal(x0, module.originals(batch, "train", training=True))
    part = {name: x[5:9] for name, x in batch.items()}
    torch.testing.assert_close(module.originals(part, "train", training=True), x0[5:9])
    assert not torch.equal(x0, module.originals(batch, "train", training=False))
    spread = (module.latent_scale.inverse(x0) - wide.encodings["train"].mean[:32]).std()
    assert float(spread) == pytest.approx(0.6065, rel=0.1)


def test_augmented_pictures_are_encoded_as_they_come(tmp_path: Path, latents: Latents, tiny) -> None:
    data = tiny_data(flip=1.0)
    augmented = Latents.load(latents.autoencoder, data, tmp_path)
    assert augmented.encodings.keys() == {"validation"}
    assert augmented.spread == pytest.approx(latents.spread)
    batch = next(iter(data.train_dataloader()))
    x0 = latent_decoder(tiny, augmented).originals(batch, "train", training=True)
    stored = latent_decoder(tiny, latents).originals(batch, "train", training=True)
    assert not torch.allclose(x0, stored, atol=0.1)


def test_the_frozen_autoencoder_is_outside_of_what_is_trained_and_saved(
    tiny: SimpleNamespace, latents: Latents
) -> None:
    before = {name: x.clone() for name, x in latents.autoencoder.state_dict().items()}
    module = fit(latent_decoder(tiny, latents), tiny.data, 3)
    assert not any(isinstance(part, Autoencoder) for part in module.modules())
    assert {name.split(".")[0] for name in module.state_dict()} == {"net"}
    assert float(module.state_dict()["net.latent_scale.factor"]) == pytest.approx(1 / latents.spread)
    assert all(torch.equal(x, before[name]) for name, x in latents.autoencoder.state_dict().items())


def test_it_samples_and_changes_pictures_by_way_of_latents(tiny: SimpleNamespace, latents: Latents) -> None:
    module = fit(latent_decoder(tiny, latents), tiny.data, 60).eval()
    model = UnCLIP(tiny.clip, None, module, TOKENIZER, sampler=module.sampler)
    drawn = model.sample(tiny.data.captions[:2], 2)
    assert drawn.shape == (4, 1, SIZE, SIZE)
    assert torch.equal(model.sample(tiny.data.captions[:2], 2), drawn)
    split = tiny.data.split("validation").head(3)
    prompts, errors = [split.captions[i] for i in split.caption_ids.tolist()], []
    through = to_uint8(module.pixels(module.encoded(to_float(split.images))))  # what the autoencoder keeps
    for steps in (5, 80):
        by = Manipulator(model, steps)
        again = by.decode(by.latents(split.images, prompts))
        errors.append((again.float() - through.float()).abs().mean())
    assert errors[1] < errors[0]
    assert errors[1] < 6
    mask = torch.ones(SIZE, SIZE, dtype=torch.bool)
    mask[:, 9:] = False  # through the middle of a column of latents
    painted = Manipulator(model, 5).inpainted(split.images, mask, prompts, 2, resample=1)
    assert (painted[..., :9] == split.images[:, None, :, :, :9]).all()
    assert not (painted[..., 9:] == split.images[:, None, :, :, 9:]).all()
    with pytest.raises(ValueError, match=r"border = 2 makes pictures of 20 pixels, .* multiples of 8"):
        Manipulator(model, 5).outpainted(split.images, 2, prompts, 1)
    with pytest.raises(ValueError, match="works in an autoencoder's latent space"):
        module.bits_per_dim(split.images, {}, torch.arange(3), 0)


# ---- references ----------------------------------------------------------------------------------------


SMALL = ["data=synthetic", "data.image_size=16", "logger=none"]


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    """An autoencoder's run, of grey pictures of 16 pixels."""
    lines = ["stage=autoencoder", *SMALL, "model.channels=8", f"paths.outputs={tmp_path}"]
    config = resolve(compose("train", lines))[0]
    run = Run.of(config, "default")
    run.prepare(config, "unclip train")
    net = build.net(config, Synthetic(size=32, image_size=16))
    save_file({name: x.contiguous() for name, x in net.state_dict().items()}, run.weights)
    run.mark("finished")
    return run


def resolved(run: Run, *lines: str) -> dict:
    outputs = f"paths.outputs={run.folder.parent.parent}"
    small = ["stage=decoder", "clip=random", *SMALL, "model.multipliers=[1,2]", "model.unshuffle=1"]
    return resolve(compose("train", [*small, outputs, *lines]))[0]


def test_one_override_puts_a_decoder_into_latent_space(finished: Run) -> None:
    """By name or as its own experiment's: the same run, unclipped; and a prior's run knows no such key."""
    named, own = (resolved(finished, f"autoencoder={word}") for word in (finished.signature, "auto"))
    assert named["autoencoder"] == finished.signature
    assert (named["clip_x0"], named["sampler"]["clip"]) == (None, None)
    pixels = resolved(finished)
    assert (pixels["autoencoder"], pixels["sampler"]["clip"]) == (None, 1.0)
    assert len({signature(c) for c in (named, own, pixels)}) == 3  # `auto` is one of the usual width
    latents = build.latents(named, source := Synthetic(size=32, image_size=16))
    assert latents is not None
    net = build.net(named, source, build.upstream_clip(named, source))
    assert (net.image_size, net.image_channels) == (4, 4)
    assert "latent_scale.factor" in net.state_dict()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["data.image_size=32"], "was trained with data.image_size = 16, this run has 32"),
        (["model.multipliers=[1,2,2,2]"], "makes 4x4 latents of 16 pixels, and the U-Net halves it 3 times"),
        (["clip_x0=2"], "is a range of pixels"),
        (["discriminator=patch"], "is a part of stage=autoencoder"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(finished: Run, lines: list[str], why: str) -> None:
    with pytest.raises(Problems) as problems:
        resolved(finished, f"autoencoder={finished.signature}", *lines)
    assert [p for p in problems.value.problems if why in str(p)]


def test_pictures_of_other_channels_are_refused(finished: Run) -> None:
    config = resolved(finished, f"autoencoder={finished.signature}")
    why = "was trained on pictures of 1 channels, these data have 3"
    with pytest.raises(ValueError, match=f"autoencoder = {finished.signature}: {why}"):
        build.latents(config, Synthetic(size=32, image_size=16, channels=3))


def test_random_is_no_autoencoder(finished: Run) -> None:
    with pytest.raises(Problems, match="has learned nothing that pictures could be made of"):
        resolved(finished, "autoencoder=random")


@pytest.mark.slow
def test_commands_go_through_the_autoencoder_that_a_decoder_names(unclip, tmp_path: Path) -> None:
    """By name or folder; FID, samples, evaluation and manipulations then find it by themselves."""
    small = [*SMALL, "data.size=64", "data.batch_size=16", "trainer.max_steps=4", "trainer=cpu"]
    parts = ["discriminator=patch", "stage.discriminator_start=2", "model.channels=8"]
    below = unclip("train", "stage=autoencoder", *small, *parts)
    assert below.returncode == 0, below.stderr
    folder = below.stdout.strip().splitlines()[-1].removeprefix("run: ")
    assert {"val/rms", "val/kl"} <= Run(tmp_path / folder).status["metrics"].keys()
    shape = ["model.channels=8", "model.cond_width=16", "model.multipliers=[1,2]", "model.unshuffle=1"]
    watched = ["extractor=random", "callbacks.fid.n=8", "callbacks.fid.n_final=8", "callbacks.samples.rows=1"]
    trained = unclip(
        "train", "stage=decoder", "clip=random", f"autoencoder={folder}", *small, *shape, *watched
    )
    assert trained.returncode == 0, trained.stderr
    run = Run(tmp_path / trained.stdout.strip().splitlines()[-1].removeprefix("run: "))
    assert "val/fd_n8" in run.status["metrics"]
    asked = [f"run={run.folder}", "prior=none"]
    sampled = unclip("sample", *asked, "steps=2", "out=drawn", "denoising=1")
    assert sampled.returncode == 0, sampled.stderr
    line = json.loads((tmp_path / "drawn" / "samples.jsonl").read_text().splitlines()[0])
    assert line["weights"].keys() >= {"autoencoder", "decoder"}
    few = ["n=16", "extractor=random", "out=measured", "steps=2"]
    measured = unclip("evaluate", *asked, *few, "metrics=fd,nll")
    assert measured.returncode == 2
    assert "nll: is a bound for pixels" in measured.stderr
    changed = unclip("manipulate", "variations", *asked, "steps=3", "extractor=random", "out=varied")
    assert changed.returncode == 0, changed.stderr
    assert (tmp_path / "varied" / "variations.png").is_file()
