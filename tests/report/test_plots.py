"""The figures of a report: nothing that they are about lies outside of them, and nothing is drawn twice."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from matplotlib.text import Text
from tests.report.left_by_runs import cell, record, results, sweep_of_runs, train_run

from unclip.report import document, plots
from unclip.report.collect import Collection, collect


def with_fd(outputs: Path, values: dict[str, list[float]], floor: float = 1.07) -> Collection:
    """Cells with these values of fd, a seed each; `floor` is what real images get."""
    run = train_run(outputs / "decoder", {"seed": 0})
    cells = []
    for name, of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            fd = {"value": value, "floor": floor}
            folder = results(outputs / f"run-{name}{seed}", {"fd": fd}, {"decoder": run})
            cells.append(cell(folder, cell=name, seed=seed))
    return collect([record(outputs, cells)])


@pytest.mark.parametrize("floor", [0.1, 1.07, 30.0])
def test_bars_begin_at_zero_and_real_images_are_inside_the_panel(tmp_path: Path, floor: float) -> None:
    (axis,) = plots.bars(with_fd(tmp_path, {"a": [3.0, 3.1, 3.2], "b": [4.0]}, floor), "fd").axes
    left, right = axis.get_xlim()
    assert left == 0
    assert right > max(4.0, floor)


def test_an_interval_that_goes_on_beyond_the_panel_ends_in_an_arrow(tmp_path: Path) -> None:
    """Two seeds that are one apart: 6.4 to either side of their mean."""
    found = with_fd(tmp_path, {"wide": [1.0, 2.0], "narrow": [1.5, 1.51]})
    (axis,) = plots.bars(found, "fd").axes
    assert axis.get_xlim()[1] < found["wide"].estimate("fd").high
    arrows = [line for line in axis.lines if line.get_marker() == ">"]
    assert [arrow.get_ydata()[0] for arrow in arrows] == [0], "the wide one is on top"


def test_a_value_that_is_not_finite_is_ranked_last_and_not_drawn(tmp_path: Path) -> None:
    found = with_fd(tmp_path, {"broken": [math.nan, 1.0], "b": [3.0], "a": [2.0]})
    assert [one.name for one in found.ranked("fd")] == ["a", "b", "broken"]
    assert [bar.get_width() for bar in plots.bars(found, "fd").axes[0].patches] == [2.0, 3.0]


def test_cells_that_share_their_training_are_one_line(tmp_path: Path) -> None:
    """As where only the sampling differs."""
    report = document.Report(with_fd(tmp_path, {"a": [1.0], "b": [2.0]}), ["fd"], None)
    figure = document.along(report, "decoder")
    assert [text.get_text() for text in figure.legends[0].texts] == ["all cells"]
    apart = document.Report(collect([sweep_of_runs(tmp_path / "o", {"a": [1.0], "b": [2.0]})]), ["fd"], None)
    figure = document.along(apart, "decoder")
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "b"]


def test_a_metric_of_one_step_is_no_curve(tmp_path: Path) -> None:
    path = sweep_of_runs(tmp_path, {"a": [1.0]})
    lines = tmp_path / "demo" / "decoder00" / "metrics.csv"
    lines.write_text("epoch,step,train/loss,val/fd_n500\n0,9,0.5,\n0,19,0.4,3.0\n")
    figure = document.along(document.Report(collect([path]), ["fd"], None), "decoder")
    assert [axis.get_ylabel() for axis in figure.axes] == ["training loss"] * 2


def test_the_wall_time_of_a_step_is_the_mean_of_the_seeds() -> None:
    """One seed twice as fast as the other: their mean is one and a half times its minutes, and no step is lost."""
    steps = {"val/loss": [(10.0, 1.0), (20.0, 0.5)]}
    fast, slow = ({"val/loss": [(m * pace, v) for m, v in ((1, 1.0), (2, 0.5))]} for pace in (1, 2))
    assert plots.over_time([(steps, fast), (steps, slow)], "val/loss") == ([1.5, 3.0], *[[1.0, 0.5]] * 3)
    assert plots.over_time([(steps, fast), (steps, {})], "val/loss")[0] == [1, 2], "one without a clock"


def test_panels_that_a_map_leaves_out_are_counted(tmp_path: Path) -> None:
    run = train_run(tmp_path / "e" / "r", metrics={"val/loss": 1.0})
    cells = [cell(run, a=a, b=b, c=c) for a in "pqrstuv" for b in "pqrstu" for c in "vwxyz"]
    figure = plots.heat(collect([record(tmp_path, cells)]), "val/loss")
    assert figure.get_suptitle().endswith(", 4 of 5 panels")


@pytest.mark.parametrize("name", ["$x_1$", r"a\b $c", r"\$", "100 %", r"\frac"])
def test_matplotlib_shows_a_name_as_it_is(name: str) -> None:
    assert Text(0, 0)._preprocess_math(plots.literal(name)) == (name, False)


def test_a_page_is_made_of_numbers_that_are_not_finite(tmp_path: Path) -> None:
    path = sweep_of_runs(tmp_path, {"a": [1.0, math.nan], "b": [2.0, 2.1]})
    assert math.isnan(json.loads((tmp_path / "demo" / "run-01" / "metrics.json").read_text())["fd"]["value"])
    page = document.deliver([path]) / "report.html"
    assert "a: fd of seed 1 is not finite" in page.read_text()
