"""`unclip evaluate`: a small model, its sweep, pictures without a model; what is refused and what is kept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import SMALL
from torch import Tensor

from unclip import cli
from unclip.config import trust
from unclip.config.problems import Problems
from unclip.evaluate import catalogue
from unclip.evaluate.distances import frechet
from unclip.evaluate.extractors import RandomNetwork
from unclip.evaluate.intervals import wilson
from unclip.evaluate.judge import Settings, memorisation, pictures
from unclip.evaluate.seen import Reference, Seen
from unclip.files import write_json
from unclip.report import sweep_curves, table
from unclip.runs.evaluate import checked
from unclip.runs.store import Run


def evaluate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In this process, which has torch already; what the command leaves to the shell is put back."""
    output, errors, before = io.StringIO(), io.StringIO(), Path.cwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = cli.main(["evaluate", "extractor=random", *arguments])
    finally:
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(arguments, status, output.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a trained prior and decoder, and the arguments that name them."""
    folder = tmp_path_factory.mktemp("evaluate")
    named = []
    for stage in ("prior", "decoder"):
        command = [sys.executable, "-m", "unclip", "train", *SMALL[stage], "trainer.max_steps=2"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        named.append(f"{stage}={done.stdout.split('run: ')[-1].strip()}")
    return folder, [*named, "n=16", "batch_size=16"]


def images(count: int, seed: int, size: int = 16) -> Tensor:
    """Gradients of random direction and brightness, uint8 (count,1,size,size)."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.rand(count, 2, 1, 1, generator=generator)
    line = torch.linspace(0, 1, size)
    x = slope[:, 0] * line + slope[:, 1] * line[:, None]
    return (127 * x).unsqueeze(1).to(torch.uint8)


def folder_of(path: Path, stack: Tensor) -> Path:
    path.mkdir()
    for i, image in enumerate(stack):
        Image.fromarray(image[0].numpy()).save(path / f"{i:04d}.png")
    return path


# ---- a model ----------------------------------------------------------------------------------------------------


def test_a_model_is_measured_with_all_that_defines_each_number(model: tuple[Path, list[str]]) -> None:
    folder, named = model
    done = evaluate(folder, *named, "metrics=all", "nll_steps=3", "kid_subsets=5", "out=whole")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "whole" / "metrics.json").read_text())
    without_classifier = [
        "fd",
        "fd_infinity",
        "kid",
        "prdc",
        "memorisation",
        "brightness",
        "prior",
        "clip",
        "nll",
    ]
    assert [name for name in found if name in catalogue.METRICS] == without_classifier
    for name in ("fd", "kid", "prdc"):
        assert found[name]["extractor"] == "RandomNetwork"
        assert found[name]["n"] == 16
        assert found[name]["floor_n"] == 16
        assert "first 64 training images" in found[name]["reference"] or name == "prdc"
    assert found["prdc"]["k"] == 5
    assert (found["kid"]["subsets"], found["kid"]["subset_size"]) == (5, 8)
    assert found["nll"]["steps_drawn"] == 3
    assert 0 < found["nll"]["value"] < 1000
    assert found["sampling"]["steps"] == 4
    # every name that is printed with a value is in the table
    for row in table.rows(found):
        assert row["value"] in done.stdout
    page = (folder / "whole" / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") == 2  # samples, nearest pairs
    assert "http" not in page
    assert not [p for p in (folder / "whole").iterdir() if p.name.startswith(".")]


def test_a_sweep_measures_every_combination_once(model: tuple[Path, list[str]]) -> None:
    folder, named = model
    swept = [*named, "metrics=fd,brightness", "guidance=1,2", "out=swept"]
    first = evaluate(folder, *swept, "steps=2,3")
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("finished already") == 0
    cells = json.loads((folder / "swept" / "metrics.json").read_text())["sweep"]
    assert [cell["of"] for cell in cells] == [{"guidance": g, "steps": s} for g in (1, 2) for s in (2, 3)]
    kept = {path: path.stat().st_mtime_ns for path in (folder / "swept" / "cells").iterdir()}

    one = cells[3]  # the same as one evaluation of these settings: same noise, same real images
    alone = evaluate(folder, *named, "metrics=fd", "guidance=2", "steps=3", "out=alone")
    assert alone.returncode == 0, alone.stderr
    found = json.loads((folder / "alone" / "metrics.json").read_text())
    assert found["fd"]["value"] == pytest.approx(one["fd"]["value"], rel=1e-9)
    assert (one["sampling"]["guidance"], one["sampling"]["steps"]) == (2, 3)

    (folder / "swept" / "cells" / f"{Path(cells[0]['pictures']).stem}.json").write_text("{ torn")
    again = evaluate(folder, *swept, "steps=2,3,4")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("finished already") == 3
    more = json.loads((folder / "swept" / "metrics.json").read_text())["sweep"]
    assert [cell["fd"] for cell in more if cell["of"]["steps"] < 4] == [cell["fd"] for cell in cells]
    untouched = [path for path in kept if cells[0]["pictures"].split(".")[0] not in path.name]
    assert all(path.stat().st_mtime_ns == kept[path] for path in untouched)
    page = (folder / "swept" / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") == 2  # curves, pictures


def test_the_order_of_values_and_of_arguments_changes_no_combination(model: tuple[Path, list[str]]) -> None:
    folder, named = model
    swept = [*named, "metrics=brightness", "steps=3", "out=samplers"]
    first = evaluate(folder, *swept, "guidance=2,1", "sampler=ddim,dpmpp_2m")
    assert first.returncode == 0, first.stderr
    again = evaluate(folder, "sampler=dpmpp_2m,ddim", "guidance=1,2", *swept)
    assert again.stderr.count("finished already") == 4
    cells = json.loads((folder / "samplers" / "metrics.json").read_text())["sweep"]
    assert [cell["of"]["sampler"] for cell in cells] == ["dpmpp_2m", "dpmpp_2m", "ddim", "ddim"]
    assert len({json.dumps(cell["sampling"]) for cell in cells}) == 4


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_whole_files_and_goes_on(model: tuple[Path, list[str]]) -> None:
    folder, named = model
    swept = [*named, "metrics=brightness", "seed=0,1,2,3,4,5,6,7", "steps=40", "out=stopped"]
    command = [sys.executable, "-m", "unclip", "evaluate", "extractor=random", *swept]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cells = folder / "stopped" / "cells"
    for _ in range(600):
        if len(list(cells.glob("*.json"))) >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    there = len([path for path in cells.glob("*.json") if json.loads(path.read_text())])
    assert 2 <= there < 8
    assert not (folder / "stopped" / "metrics.json").exists()
    done = evaluate(folder, *swept)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("finished already") == there
    assert len(json.loads((folder / "stopped" / "metrics.json").read_text())["sweep"]) == 8


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["metrics=kidd"], ["metrics = kidd", "nearest: kid"]),
        (["metrics=prompt_consistency"], ["needs the verdicts of a classifier"]),
        (["steps=2000"], ["steps = 2000", "T = 1000"]),
        (["reference_n=65"], ["reference_n = 65", "64 images"]),
        (["extractor.image_channels=3", "guidance=-1,2,2"], ["guidance = -1", "has a value twice"]),
        (["images=x"], ["images = x", "is given too"]),
        (["extractor=fashion_mnist", "metrics=round_trip"], ["classifier of the data's own classes"]),
        (["metrics=upsampling"], ["metrics = upsampling: needs an upsampler, and there is none: run="]),
        (
            ["metrics=reconstruction"],
            ["metrics = reconstruction: needs an autoencoder, and there is none: run="],
        ),
        (["extractor.image_channels=4"], ["extractor = RandomNetwork", "4"]),
    ],
)
def test_a_request_that_a_model_cannot_meet(
    model: tuple[Path, list[str]], wrong: list[str], says: list[str]
) -> None:
    folder, named = model
    done = evaluate(folder, *named, *wrong, "out=refused")
    assert done.returncode == 2, done.stdout
    for words in says:
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "refused").exists()


# ---- pictures without a model -----------------------------------------------------------------------------------


def test_pictures_without_a_model(tmp_path: Path) -> None:
    real = images(300, 0)
    folder_of(tmp_path / "made", images(60, 1))
    np.savez(tmp_path / "real.npz", images=real.permute(0, 2, 3, 1).numpy())
    done = evaluate(tmp_path, "images=made", "reference=real.npz", "kid_subsets=5", "out=out")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    extractor = RandomNetwork()
    expected = frechet(extractor.features(images(60, 1)), extractor.features(real))
    assert found["fd"]["value"] == pytest.approx(float(expected), rel=1e-6)
    assert (found["fd"]["n"], found["fd"]["floor_n"], found["fd"]["reference_n"]) == (60, 60, 300)
    assert found["fd"]["value"] < 3 * found["fd"]["floor"] + 1e-3  # the same distribution
    assert "prompt_consistency" not in found
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") == 3  # pictures, reference, nearest pairs

    assert evaluate(tmp_path, "images=made", "reference=real.npz", "metrics=fd", "out=fd").returncode == 0
    streamed = json.loads((tmp_path / "fd" / "metrics.json").read_text())
    assert streamed["fd"]["value"] == pytest.approx(found["fd"]["value"], rel=1e-4)  # moments alone


def test_every_problem_with_pictures_is_named_at_once(tmp_path: Path) -> None:
    nothing = evaluate(tmp_path)
    assert nothing.returncode == 2
    assert "run=FOLDER, or images=PATH" in nothing.stderr
    done = evaluate(tmp_path, "images=here", "reference=there", "metrics=fd,prior", "guidance=2", "k=0")
    assert done.returncode == 2
    for words in ("images = here", "reference = there", "metrics = prior", "guidance", "k = 0"):
        assert words in done.stderr
    (tmp_path / "here").mkdir()
    np.savez(tmp_path / "rgb.npz", np.zeros((20, 8, 8, 3), dtype=np.uint8))
    np.savez(tmp_path / "grey.npz", np.zeros((20, 8, 8, 1), dtype=np.uint8))
    for arguments, words in (
        (["images=here", "reference=rgb.npz"], "holds no images"),
        (["images=rgb.npz", "reference=grey.npz"], "3 channels, the reference 1"),
        (["images=grey.npz", "reference=grey.npz", "n=21", "reference_n=22"], "at most the 20 images"),
        (["images=rgb.npz", "reference=rgb.npz"], "3 channels"),
    ):
        refused = evaluate(tmp_path, *arguments, "out=out")
        assert refused.returncode == 2, refused.stdout
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", ["run=[1]", "paths.outputs=3", "metrics={a:1}", "metrics=[[1]]", "reference=2"]
)
def test_what_is_judged_is_not_asked_with_values_of_another_kind(wrong: str) -> None:
    with pytest.raises(Problems) as error:
        checked(["images=.", "reference=there", wrong])
    (problem,) = error.value.problems
    assert str(problem).startswith(wrong.split("=")[0])
    assert "must be " in problem.why


def test_a_run_is_judged_by_its_own_judge_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    every = {"stage": {"name": "decoder"}, "data": {"image_size": 32}, "model": {}, "clip": None, "seed": 0}
    config = {
        **every,
        "paths": {"outputs": "outputs", "data": "data"},
        "extractor": {"_target_": "of.Training"},
    }
    run = Run(tmp_path / "outputs" / "made" / "0123456789")
    run.prepare(config, "unclip train")
    run.weights.touch()
    run.mark("finished")
    stages = {"decoder": {"folder": str(run.folder), "signature": run.signature}}
    for name, own in (("demo", {"extractor": {"_target_": "unclip.build.evaluation_clip"}}), ("older", None)):
        write_json(tmp_path / name / "pipeline.json", {"experiment": "x", "stages": stages, "evaluate": own})

    def judge(*arguments: str) -> str:
        asked = checked(list(arguments))
        assert all(cell["extractor"] == asked.config["extractor"] for _, cell in asked.cells)
        return asked.config["extractor"]["_target_"].rpartition(".")[2]

    monkeypatch.delenv(trust.ALLOW, raising=False)
    assert judge("run=demo", "guidance=1,2") == "evaluation_clip"
    trust.check({"_target_": "unclip.build.evaluation_clip"})
    assert judge(f"run={run.folder}") == judge("run=012345") == "Training"
    assert judge("run=demo", "extractor=random") == "RandomNetwork"
    assert judge("run=demo", "experiment=demo/evaluate") == "FashionMnistClassifier"
    for silent in ("run=older", "decoder=0123456789"):
        assert judge(silent) == "FashionMnistClassifier"


# ---- the numbers ------------------------------------------------------------------------------------------------


def reference(count: int, held_out: int) -> Reference:
    real, other, extractor = images(count, 0), images(held_out, 2), RandomNetwork()
    return Reference(Seen(real, extractor), Seen(other, extractor), real, "real", "others")


def test_copies_are_found_and_held_out_images_are_the_measure() -> None:
    real = reference(200, 100)
    fresh = images(100, 3)
    honest = memorisation(fresh, real)
    assert honest["share_closer"] < 0.1
    copied = fresh.clone()
    copied[7], copied[40] = real.everything[11], real.everything[150]
    found = memorisation(copied, real)
    assert {(pair["sample"], pair["training"]) for pair in found["closest"][:2]} == {(7, 11), (40, 150)}
    assert found["closest"][0]["distance"] == 0
    flat = torch.arange(0, 200, 20, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16)
    far = Reference(real.real, real.held_out, flat, "real", "others")
    off = memorisation(
        flat + 4, far
    )  # four grey levels off: the root mean square is 4, and no other is nearer
    assert [pair["distance"] for pair in off["closest"]] == pytest.approx([4] * 10)
    assert {pair["sample"] == pair["training"] for pair in off["closest"]} == {True}
    assert off["value"] == pytest.approx(4)


def test_more_noise_is_farther_by_every_distance_and_batches_change_nothing() -> None:
    real = reference(400, 200)
    names, settings = ["fd", "kid", "prdc", "brightness"], Settings(k=3, kid_subsets=10)
    generator = torch.Generator().manual_seed(0)
    clean = images(200, 3)
    noise = torch.randint(0, 120, clean.shape, generator=generator)
    found = [
        pictures(
            names,
            Seen((clean + part * noise).clamp(max=255).to(torch.uint8), RandomNetwork()),
            real,
            settings,
        )
        for part in (0.0, 0.3, 1.0)
    ]
    for name in ("fd", "kid", "brightness"):
        values = [measured[name]["value"] for measured in found]
        assert values == sorted(values), name
        assert values[0] < values[2] / 5 + abs(found[0][name]["floor"])
    assert found[0]["prdc"]["coverage"] > found[2]["prdc"]["coverage"]
    streamed = pictures(["fd"], Seen(clean, RandomNetwork(), keep=False), real, settings)
    assert streamed["fd"]["value"] == pytest.approx(found[0]["fd"]["value"], rel=1e-6)


def test_metrics_are_chosen_by_what_there_is() -> None:
    everything = {"logits", "text", "captions", "checks", "model", "upsampler", "autoencoder"}
    assert catalogue.chosen(["all"], everything) == list(catalogue.METRICS)
    default = catalogue.chosen(None, everything)
    assert set(catalogue.METRICS) - set(default) == {"fd_infinity", "nll"}
    assert catalogue.chosen(None, set()) == ["fd", "kid", "prdc", "memorisation", "brightness"]
    assert catalogue.chosen(["nll", "fd"], everything) == ["fd", "nll"]
    assert catalogue.lacking("cmmd", {"logits"}) is not None
    assert catalogue.lacking("kid", set()) is None


def test_intervals() -> None:
    """Wilson's as tabulated (Brown, Cai & DasGupta 2001): never outside [0,1], wide at the ends."""
    low, high = wilson(1.0, 10)
    assert (low, high) == pytest.approx((0.7225, 1.0), abs=1e-4)
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.40383, 0.59617), abs=1e-5)


def test_curves_put_points_in_order_and_seeds_together() -> None:
    def cell(steps: int, guidance: float, seed: int) -> dict[str, Any]:
        value = 10 / steps + guidance + 0.1 * seed
        of = {"guidance": guidance, "steps": steps, "seed": seed}
        return {"of": of, "fd": {"value": value}, "prompt_consistency": {"value": guidance / 4}}

    cells = [cell(steps, g, seed) for steps in (20, 5, 10) for g in (2.0, 1.0) for seed in (0, 1)]
    by_steps = sweep_curves.lines(cells, None, "fd", "steps")
    assert list(by_steps) == ["guidance 2", "guidance 1"]
    assert [(at, len(ys)) for at, ys, _ in by_steps["guidance 1"]] == [(5, 2), (10, 2), (20, 2)]
    assert by_steps["guidance 1"][0][1] == pytest.approx([3.0, 3.1])
    traded = sweep_curves.lines(cells, "prompt_consistency", "fd", "guidance")
    assert [at for at, _, _ in traded["steps 5"]] == [1.0, 2.0]
    assert traded["steps 5"][0][2] == [0.25, 0.25]
    drawn = sweep_curves.draw(cells)
    assert drawn is not None
    assert drawn.startswith(b"\x89PNG")
    assert sweep_curves.draw([{"of": {"seed": 0}, "fd": {"value": 1.0}}]) is None
