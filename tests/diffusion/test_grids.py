"""What samplers walk: published grids, both ends, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unclip.diffusion import (
    Cosine,
    Discrete,
    Grid,
    Linear,
    cosine_betas,
    jsd_betas,
    linear_betas,
    log_snr,
    make_grid,
)
from unclip.diffusion.schedule import Edm, Flow

SPACINGS = ["trailing", "leading", "linspace", "karras", "log_snr"]
TABLE = Discrete(linear_betas(1000))
SCHEDULES = [TABLE, Discrete(cosine_betas(1000)), Discrete(jsd_betas(100)), Linear(), Cosine(), Flow(), Edm()]


def test_karras_is_the_papers():
    grid = make_grid(Edm(0.002, 80), 5, "karras")
    paper = [80, 17.52783, 2.515219, 0.1697528, 0.002, 0]
    torch.testing.assert_close(grid.sigma, torch.tensor(paper).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [7, 10, 27, 50, 64, 250, 1000])
def test_tables_are_divided_as_in_table_2_of_lin_et_al(steps):
    T = 1000
    published = {
        "trailing": np.round(np.arange(T, 0, -T / steps)) - 1,
        "leading": (np.arange(steps) * (T // steps))[::-1],
        "linspace": np.linspace(0, T - 1, steps).round()[::-1],
    }
    for spacing, t in published.items():
        assert make_grid(TABLE, steps, spacing).t[:-1].tolist() == t.tolist()


def test_the_default_visits_the_noisiest_level_and_leading_does_not():
    assert make_grid(TABLE, 50).t[0] == 999
    assert make_grid(TABLE, 1).t[0] == 999
    assert make_grid(TABLE, 50, "leading").t[0] < 999
    assert make_grid(Linear(), 50).t[0] == 1
    assert make_grid(Linear(), 50, "leading").t[0] < 1


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 17, 100])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_every_grid_is_the_schedules_own_levels_and_then_the_clean_end(schedule, steps, spacing):
    grid = make_grid(schedule, steps, spacing)
    assert grid.steps == steps
    for column in (grid.t, grid.alpha, grid.sigma):
        assert (column.shape, column.dtype, column.device.type) == ((steps + 1,), torch.float64, "cpu")
        assert column.isfinite().all()
    alpha, sigma = schedule(grid.t[:-1])
    assert torch.equal(grid.alpha[:-1], alpha)
    assert torch.equal(grid.sigma[:-1], sigma)
    assert (grid.alpha[-1].item(), grid.sigma[-1].item()) == (1.0, 0.0)
    noise = grid.sigma / grid.alpha
    assert (noise.diff() < 0).all()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_continuous_grids_never_visit_alpha_0_or_sigma_0(spacing):
    level = log_snr(Cosine(), make_grid(Cosine(), 20, spacing).t[:-1])
    assert level.abs().max() <= 20 + 1e-6
    if spacing in ("leading", "linspace"):
        assert make_grid(Cosine(), 20, spacing).t[-2].item() == pytest.approx(1e-3)


def test_log_snr_spacing_is_even_in_log_snr():
    grid = make_grid(Cosine(), 9, "log_snr")
    level = log_snr(Cosine(), grid.t[:-1])
    torch.testing.assert_close(level, torch.linspace(-20, 20, 9, dtype=torch.float64), rtol=1e-9, atol=1e-6)


def test_an_explicit_list_is_used_as_it_is():
    for spacing in ([900.0, 400.5, 3], torch.tensor([900.0, 400.5, 3.0])):
        for steps in (3, None):
            assert make_grid(TABLE, steps, spacing).t[:-1].tolist() == [900.0, 400.5, 3.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_grid(TABLE, 0), "steps = 0: must satisfy steps >= 1"),
        (lambda: make_grid(TABLE, 1001), "steps = 1001: a table of T = 1000 entries has at most 1000"),
        (lambda: make_grid(TABLE, 10, "cosine"), "spacing = 'cosine': leading, trailing, linspace"),
        (lambda: make_grid(TABLE, None), "needs a number of steps"),
        (lambda: make_grid(TABLE, None, [1.0, 5.0, 3.0]), "must decrease, within 999 ... 0"),
        (lambda: make_grid(TABLE, None, [5.0, 5.0]), "must decrease"),
        (lambda: make_grid(TABLE, None, [1000.0, 5.0]), "within 999 ... 0"),
        (lambda: make_grid(TABLE, None, [5.0, -1.0]), "within 999 ... 0"),
        (lambda: make_grid(TABLE, None, []), "must decrease"),
        (lambda: make_grid(Cosine(), None, [2.0, 0.5]), "within 1 ... 0"),
        (lambda: make_grid(Cosine(), None, [0.5, 0.0]), "the clean end is added by itself"),
        (lambda: make_grid(TABLE, 3, [5.0, 1.0]), "steps = 3 with a list of 2"),
        (
            lambda: Grid(t=torch.arange(3), alpha=torch.ones(3), sigma=torch.ones(2)),
            r"\(3\), \(3\)|\(3,\), \(3,\)",
        ),
        (lambda: Grid(t=[0.1, 0.2], alpha=[0.9, 0.8], sigma=[0.1, 0.2]), "noise must decrease"),
    ],
)
def test_impossible_grids_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
