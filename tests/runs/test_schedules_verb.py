"""`unclip schedules`: the page and its numbers, wrong requests, trained models by noise level."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import SMALL

from unclip.diffusion import Cosine, Discrete, Eps, Linear, V, cosine_betas, linear_betas
from unclip.diffusion.learned import Learned
from unclip.diffusion.objective import Flow as FlowObjective
from unclip.diffusion.schedule import Flow
from unclip.diffusion.weighting import min_snr, uniform, vlb
from unclip.report import schedules
from unclip.report.schedules import effective_weight, row

Command = Callable[..., subprocess.CompletedProcess[str]]
SYNTHETIC = ["data=synthetic", "data.size=64", "data.image_size=16"]


def test_one_page_and_its_pictures_from_a_list_of_names(unclip: Command, tmp_path: Path) -> None:
    done = unclip("schedules", "compare=cosine,linear,flow", *SYNTHETIC, "out=page", "weightings=uniform")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page" / "schedules.html").read_text(encoding="utf-8")
    assert all(f"<td>{name}</td>" in page for name in ("cosine", "linear", "flow"))
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in page  # self-contained
    names = {path.name for path in (tmp_path / "page").glob("*.png")}
    assert names == {"alpha_sigma.png", "log_snr.png", "noised.png", "weights.png", "grids.png"}


def test_trained_models_are_measured_by_noise_level(unclip: Command, tmp_path: Path) -> None:
    trained = unclip("train", *SMALL["prior"], "trainer.max_steps=2")
    assert trained.returncode == 0, trained.stderr
    folder = trained.stdout.split("run: ")[-1].strip()
    done = unclip("schedules", "compare=cosine", *SYNTHETIC, f"run={folder}", "n=20", "out=page")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "loss.png").stat().st_size > 5_000
    refused = unclip("schedules", "run=nowhere", *SYNTHETIC)
    assert refused.returncode == 2
    assert "nowhere" in refused.stderr


def test_a_learned_schedule_is_trained_saved_with_the_net_and_drawn(unclip: Command, tmp_path: Path) -> None:
    chosen = ["schedule=learned", "schedule.hidden=16", "weighting=vlb", "stage.time=log_snr"]
    trained = unclip("train", *SMALL["prior"], *chosen, "trainer.max_steps=3", "optim.lr=0.01")
    assert trained.returncode == 0, trained.stderr
    folder = tmp_path / trained.stdout.split("run: ")[-1].strip()
    weights = load_file(folder / "weights.safetensors")
    learned = {name: x for name, x in weights.items() if name.startswith("schedule.")}
    fresh = {f"schedule.{name}": x for name, x in Learned(hidden=16).state_dict().items()}
    assert learned.keys() == fresh.keys()
    moved = {name for name, x in learned.items() if not torch.equal(x, fresh[name])}
    assert moved == fresh.keys() - {"schedule.gamma_min", "schedule.width"}
    done = unclip("schedules", "compare=cosine", *SYNTHETIC, f"run={folder}", "n=20", "out=page")
    assert done.returncode == 0, done.stderr


def test_every_problem_is_named_at_once(unclip: Command) -> None:
    done = unclip("schedules", "compare=cosin,linear", "weightings=vbl", "steps=0", "spacings=leeding")
    assert done.returncode == 2
    for named in ("compare = cosin", "nearest: cosine", "weightings = vbl", "steps = 0", "leeding"):
        assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "schedule", [Cosine(), Linear(), Discrete(cosine_betas(1000)), Discrete(linear_betas(1000))]
)
@pytest.mark.parametrize("objective", [Eps(), V(), FlowObjective()])
def test_the_bound_weighs_every_noise_level_alike(schedule: Cosine, objective: Eps) -> None:
    """The variational bound in continuous time does not depend on the schedule (Kingma et al. 2021, section 5.1)."""
    level, weight = effective_weight(schedule, vlb(), objective)
    inside = level.abs() < 6
    assert (weight[inside] / weight[inside].mean() - 1).abs().max() < 0.02


def test_uniform_weight_of_v_is_that_of_eps_times_the_conversion() -> None:
    """|v error| = |eps error| / alpha where variance is preserved; of eps, min-SNR is min(1, gamma / SNR)."""
    level, eps = effective_weight(Cosine(), uniform(), Eps())
    same, v = effective_weight(Cosine(), uniform(), V())
    assert torch.equal(level, same)
    ratio = v / eps * level.sigmoid()
    assert (ratio / ratio.mean() - 1).abs().max() < 1e-9
    _, capped = effective_weight(Cosine(), min_snr(gamma=5.0), Eps())
    fall = capped / eps
    beyond = level > math.log(5) + 0.1
    assert torch.allclose(fall[beyond] * level[beyond].exp(), (fall[beyond] * level[beyond].exp())[:1])
    assert torch.allclose(fall[~beyond][:50], fall[:1])


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), Discrete(cosine_betas(1000))])
def test_weights_do_not_depend_on_how_many_points_a_curve_has(
    schedule: Cosine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have mean 1 over the range of the schedule, not over what a few draws happen to see of it."""

    def at_one_level() -> float:
        level, weight = effective_weight(schedule, uniform(), Eps())
        return float(weight[(level - 1).abs().argmin()])

    few = at_one_level()
    monkeypatch.setattr(schedules, "POINTS", 10 * schedules.POINTS)
    assert at_one_level() == pytest.approx(few, rel=0.02)


def test_a_row_gives_the_ends() -> None:
    assert row("flow", Flow())["data_end"] == "inf"
    assert row("flow", Flow())["signal"] == "0"
    table = row("linear", Discrete(linear_betas(1000)))
    assert (table["time"], table["signal"]) == ("T = 1000", "0.0064")
    assert table["data_end"] == f"{math.log(0.9999 / 0.0001):.1f}"
