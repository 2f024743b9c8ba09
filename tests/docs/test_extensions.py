"""docs/how-to/extend.md is true: its parts are ten lines each, do what they say, and train."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.docs.documents import DOCS, Page

from unclip.build import part
from unclip.config.compose import compose
from unclip.config.problems import Problems
from unclip.config.tree import OWN_FOLDER
from unclip.diffusion import Discrete, Shifted, add_noise, cosine_betas, ddpm, log_snr, make_grid
from unclip.diffusion.analytic import Gaussian

PAGE = Page(DOCS / "how-to" / "extend.md")
LINES = 11  # of a class or function, without its docstring and blank lines


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files, found by Python and by --config-dir."""
    before = set(sys.modules)
    PAGE.written(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(OWN_FOLDER, str(tmp_path / "mine"))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def test_each_is_ten_lines() -> None:
    for name, text in PAGE.files.items():
        if not name.endswith(".py"):
            continue
        node = next(n for n in ast.parse(text).body if isinstance(n, ast.ClassDef | ast.FunctionDef))
        lines = [line for line in text.splitlines()[node.lineno - 1 :] if line.strip() and '"""' not in line]
        assert len(lines) <= LINES, name


def test_the_schedule_is_one(mine: Path) -> None:
    chosen = compose("train", ["stage=decoder", "schedule=power", "schedule.p=3"]).config["schedule"]
    schedule = part(chosen)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    level = log_snr(schedule, t)
    assert (level.diff() < 0).all()
    torch.testing.assert_close(schedule.t_at(level), t)
    torch.testing.assert_close(schedule(t)[0].square(), 1 - t**3)
    for one in (schedule, Shifted(schedule, 64, 32)):
        assert make_grid(one, 20).alpha.isfinite().all()
    with pytest.raises(Problems, match=r"schedule\.q"):
        compose("train", ["stage=decoder", "schedule=power", "+schedule.q=3"])
    with pytest.raises(Problems, match="must satisfy p > 0"):
        compose("train", ["stage=decoder", "schedule=power", "schedule.p=-1"])


def test_the_sampler_is_ddpm_at_temperature_one(mine: Path) -> None:
    schedule = Discrete(cosine_betas(1000))
    start, denoise, grid = torch.randn(8, 2), Gaussian(schedule, 0.5, 0.3), make_grid(schedule, 10)

    def walked(sampler, **options):  # type: ignore[no-untyped-def]
        draw = torch.Generator().manual_seed(0)
        return sampler(denoise, start, grid, noise=lambda x: torch.randn(x.shape, generator=draw), **options)

    lines = ["stage=decoder", "sampler=cooled"]
    function = part(compose("train", lines).config["sampler"]).function
    torch.testing.assert_close(walked(function, temperature=1.0), walked(ddpm))
    assert walked(function, temperature=0.5).std() < walked(ddpm).std()
    with pytest.raises(Problems, match="temperature >= 0"):
        compose("train", [*lines, "sampler.function.temperature=-1"])


def test_the_objective_is_inverted_exactly(mine: Path) -> None:
    objective = part(compose("train", ["stage=decoder", "objective=halfway"]).config["objective"])
    alpha, sigma = Discrete(cosine_betas(1000))(torch.arange(0.0, 1000.0, 50))
    x0, eps = torch.randn(2, len(alpha), 3, dtype=torch.float64)
    alpha, sigma = alpha.double(), sigma.double()
    out = objective.target(x0, eps, alpha, sigma)
    torch.testing.assert_close(objective.to_x0(add_noise(x0, eps, alpha, sigma), out, alpha, sigma), x0)
    torch.testing.assert_close(objective.c_eps(alpha, sigma), objective.c_out(alpha, sigma) * alpha / sigma)


def test_an_objective_of_another_stage_is_still_refused(mine: Path) -> None:
    with pytest.raises(Problems, match="is not an objective of stage decoder"):
        compose("train", ["stage=decoder", "objective=infonce"])


def test_the_stage_composes_and_a_typo_in_it_is_found(mine: Path) -> None:
    assert compose("train", ["stage=upside_down"]).config["stage"]["_target_"] == "my_stages.UpsideDown"
    with pytest.raises(Problems, match=r"schedule.*stage upside_down has no schedule"):
        compose("train", ["stage=upside_down", "schedule=linear"])


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in PAGE.lines if "data=synthetic" in line])
def test_they_run(line: str, mine: Path) -> None:
    """As typed, but for the program's place and smaller data."""
    words = line.split()[1:]
    assert words[0] == "unclip"
    less = ["data.size=128", "data.batch_size=32"] if "train" in words else []
    less += ["callbacks.fid.n=8", "callbacks.fid.n_final=8"] if "stage=decoder" in words else []
    env = {**os.environ, "PYTHONPATH": "."}
    command = [sys.executable, "-m", *words, *less]
    done = subprocess.run(command, cwd=mine, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
