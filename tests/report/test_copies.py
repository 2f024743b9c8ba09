"""Real images made small and enlarged again, or through an autoencoder: what is known of it, by known copiers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from unclip import build, cli
from unclip.config.compose import compose
from unclip.data.images import to_float
from unclip.data.latents import Latents
from unclip.data.synthetic import Synthetic
from unclip.evaluate import stages
from unclip.evaluate.extractors import RandomNetwork
from unclip.nets.autoencoder import Gaussian
from unclip.report import copies, table
from unclip.report.judges import for_copiers
from unclip.runs.store import Run
from unclip.runs.trained import Copiers
from unclip.runs.upstream import resolve
from unclip.sampling import Sampler

SIZE, N = 16, 48
DATA = Synthetic(size=400, image_size=SIZE)
REAL = DATA.split("test").head(N).images


class Enlarges:
    """An upsampler to `size` that draws `of(low, indices)`."""

    def __init__(self, size: int, of: Any) -> None:
        self.of, self.net = of, SimpleNamespace(image_size=size, factor=2)
        self.sampler, self.corruption, self.strength = Sampler(len, steps=1), None, 0.0

    def sample(self, low: Tensor, indices: Tensor, seed: int) -> Tensor:
        assert low.shape[-1] == self.net.image_size // 2
        return self.of(low, indices)


class Keeps(nn.Module):
    """An autoencoder whose latents are the pictures, doubled; what it gives back is brighter by `more`."""

    latent_shape = (1, SIZE, SIZE)

    def __init__(self, more: float = 0.0) -> None:
        super().__init__()
        self.more, self.anything = more, nn.Parameter(torch.zeros(()))

    def encode(self, x: Tensor) -> Gaussian:
        return Gaussian(2 * x, torch.zeros_like(x))

    def decode(self, z: Tensor) -> Tensor:
        return z / 2 + self.more


def knows(_: Tensor, indices: Tensor) -> Tensor:
    return to_float(REAL[indices])


def interpolates(how: str) -> Any:
    return lambda low, _: F.interpolate(low, scale_factor=2.0, mode=how)


def measured(tmp_path: Path, upsamplers: list[Enlarges] | None = None, latents: Any = None) -> dict[str, Any]:
    of = Copiers(upsamplers or [], latents, DATA, DATA, torch.device("cpu"), batch_size=20)
    names = ["upsampling"] if upsamplers else ["reconstruction"]
    request = compose("evaluate", ["extractor=random", f"n={N}", f"paths.outputs={tmp_path}"]).config
    found = copies.numbers(of, names, for_copiers(of, names, request), request)
    return found[names[0]]


def test_a_perfect_upsampler_has_the_distance_of_real_images_and_bicubic_enlargement_bicubics(
    tmp_path: Path,
) -> None:
    perfect = measured(tmp_path, [Enlarges(SIZE, knows)])
    assert (perfect["n"], perfect["floor_n"], perfect["from"], perfect["to"]) == (N, N, 8, 16)
    assert perfect["value"] == pytest.approx(perfect["floor"], rel=1e-9)
    assert (perfect["rms"], perfect["feature_cosine"]) == (0, pytest.approx(1))
    bicubic = measured(tmp_path, [Enlarges(SIZE, interpolates("bicubic"))])
    assert bicubic["value"] == pytest.approx(bicubic["bicubic"], rel=0.01)  # but for rounding on the way
    assert bicubic["rms"] == pytest.approx(bicubic["bicubic_rms"], rel=0.01)
    assert bicubic["feature_cosine"] == pytest.approx(bicubic["bicubic_feature_cosine"], abs=1e-3)
    assert bicubic["bicubic"] == perfect["bicubic"] > perfect["floor"]
    repeated = measured(tmp_path, [Enlarges(SIZE, interpolates("nearest"))])
    assert repeated["value"] > 1.2 * perfect["floor"]
    assert repeated["rms"] > 5


def test_a_chain_starts_as_small_as_its_first_upsampler_takes_pictures(tmp_path: Path) -> None:
    chain = [Enlarges(SIZE // 2, interpolates("bicubic")), Enlarges(SIZE, knows)]
    found = measured(tmp_path, chain)
    assert (found["from"], [u["size"] for u in found["upsamplers"]]) == (4, [8, 16])
    assert found["value"] == pytest.approx(found["floor"], rel=1e-9)
    assert found["bicubic_rms"] > measured(tmp_path, chain[1:])["bicubic_rms"]


def test_an_autoencoder_that_keeps_all_is_off_by_nothing_and_a_brighter_one_by_what_it_adds(
    tmp_path: Path,
) -> None:
    kept = measured(tmp_path, latents=Latents(Keeps()))
    assert (kept["value"], kept["psnr"], kept["n"]) == (0, None, N)
    assert kept["fd"]["value"] == pytest.approx(kept["fd"]["floor"], rel=1e-9)
    assert "class_kept" not in kept  # a random network knows no classes
    json.dumps(kept, allow_nan=False)
    brighter = measured(tmp_path, latents=Latents(Keeps(more=4 / 127.5)))
    off = (REAL.int() + 4).clamp(max=255) - REAL.int()
    assert brighter["value"] == pytest.approx(off.double().square().mean().sqrt().item(), rel=1e-6)
    assert brighter["psnr"] == pytest.approx(20 * math.log10(255 / brighter["value"]))
    assert brighter["fd"]["value"] > kept["fd"]["value"]


def test_the_class_that_an_autoencoder_keeps(tmp_path: Path) -> None:
    """By a classifier that sees how bright a picture is: copies turned dark are of another class."""

    class Brightness(RandomNetwork):
        def logits(self, images: Tensor) -> Tensor:
            bright = images.double().mean((1, 2, 3))
            return torch.stack([bright, torch.full_like(bright, 20.0)], dim=1)

    of = Copiers([], Latents(Keeps()), DATA, DATA, torch.device("cpu"), batch_size=20)
    request = compose("evaluate", ["extractor=random", f"n={N}", f"paths.outputs={tmp_path}"]).config
    reference = for_copiers(of, ["reconstruction"], request).reference
    for part in (reference.real, reference.held_out):
        part.extractor = Brightness()
    copy = REAL.clone()
    bright = (REAL.double().mean((1, 2, 3)) > 20).nonzero().flatten()
    copy[bright[:6]] = 0
    kept = stages.reconstruction(copy, reference, classes=True)["class_kept"]
    assert len(bright) > 6
    assert kept["value"] == pytest.approx(1 - 6 / N)
    assert kept["interval"][0] < kept["value"] < kept["interval"][1]
    with pytest.raises(ValueError, match="one is needed of each"):
        stages.reconstruction(copy[:3], reference, classes=True)


# ---- `unclip evaluate run=` -----------------------------------------------------------------------------


def finished(folder: Path, *lines: str) -> Run:
    """A run as if it had been trained."""
    small = ["data=synthetic", "data.size=200", f"data.image_size={SIZE}", "logger=none", "model.channels=8"]
    config = resolve(compose("train", [*lines, *small, f"paths.outputs={folder / 'outputs'}"]))[0]
    run = Run.of(config, "default")
    run.prepare(config, "unclip train")
    net = build.net(config, build.data(config))
    save_file({name: x.contiguous() for name, x in net.state_dict().items()}, run.weights)
    run.mark("finished")
    return run


def evaluate(capsys: pytest.CaptureFixture[str], run: Run, *arguments: str) -> tuple[int, str]:
    """The exit status, and all that is said."""
    outputs = run.folder.parent.parent
    asked = [f"run={run.folder}", "n=24", "extractor=random", f"paths.outputs={outputs}"]
    status = cli.main(["evaluate", *asked, f"out={outputs / 'out'}", *arguments])
    said = capsys.readouterr()
    return status, said.out + said.err


@pytest.mark.parametrize(
    ("lines", "metric", "rows"),
    [
        (
            ["stage=upsampler", "model.multipliers=[1,2]", "stage.crop=0.5", "sampler.steps=2", "corruption=bsr"],
            "upsampling",
            ["16 -> 8 -> 16 pixels", "to 16 by 2 steps of ddim, its input not corrupted", "bicubic"],
        ),
        (["stage=autoencoder"], "reconstruction", ["1x16x16 pixels as 4x4x4 latents", "dB"]),
    ],
)  # fmt: skip
def test_an_upsamplers_and_an_autoencoders_run_are_judged_by_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], metric: str, rows: list[str]
) -> None:
    run = finished(tmp_path, *lines)
    status, said = evaluate(capsys, run)
    assert status == 0, said
    found = json.loads((tmp_path / "outputs" / "out" / "metrics.json").read_text())
    assert [name for name in found if name not in ("seed", "sampling")] == [metric]
    assert found["sampling"]["runs"] == {lines[0].removeprefix("stage="): run.signature}
    spoken = " ".join(row["how"] + row["value"] for row in table.rows(found))
    assert all(words in spoken for words in rows), spoken
    assert "24 test images" in spoken
    page = (tmp_path / "outputs" / "out" / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") == 1

    stage = lines[0].removeprefix("stage=")
    for wrong, words in (
        (["metrics=fd"], f"metrics = fd: is of a decoder's pictures, and run= is of stage {stage}; possible: {metric}"),
        (["guidance=2"], f"is a choice for a decoder's samples, and run= is of stage {stage}"),
        (["seed=0,1"], "is a choice for a decoder's samples"),
        (["prior=abc"], f"prior = abc: is given too, and run= is of stage {stage}"),
    ):  # fmt: skip
        status, said = evaluate(capsys, run, *wrong)
        assert status == 2, said
        assert words in said
        assert len(said.strip().splitlines()) <= 2, said
