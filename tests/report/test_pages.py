"""Pictures are placed where they belong, pages contain all they show, and text from data cannot become markup."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from unclip.data.synthetic import Synthetic
from unclip.diffusion.likelihood import Bound
from unclip.report import curves, deliver, figures, likelihood, page, sweep_curves
from unclip.report.pictures import GAP, TILE, _wrapped, grid, picture, save
from unclip.report.table import rows


def test_a_grid_holds_every_image_in_reading_order_enlarged_without_blur(tmp_path: Path) -> None:
    images = (torch.arange(6, dtype=torch.uint8) * 40).view(6, 1, 1, 1).expand(6, 1, 8, 8)
    scale = TILE // 8
    drawn = grid(images, columns=3)
    assert drawn.size == (GAP + 3 * (8 * scale + GAP), GAP + 2 * (8 * scale + GAP))
    for i in range(6):
        x, y = GAP + i % 3 * (8 * scale + GAP), GAP + i // 3 * (8 * scale + GAP)
        for dx, dy in ((0, 0), (8 * scale - 1, 8 * scale - 1)):
            assert drawn.getpixel((x + dx, y + dy)) == (40 * i,) * 3
    labelled = grid(images, columns=3, rows=["one", "another"], headings=["a", "b", "c"])
    assert labelled.width > drawn.width
    assert labelled.height > drawn.height
    save(labelled, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_a_colour_image_keeps_its_channels() -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[2] = 200
    assert picture(image).getpixel((1, 1)) == (0, 0, 200)


def test_captions_are_escaped_and_pictures_embedded(tmp_path: Path) -> None:
    save(picture(torch.zeros(1, 4, 4, dtype=torch.uint8)), tmp_path / "grid.png")
    evil = "<script>alert(1)</script>"
    page.write(
        tmp_path / "report.html",
        "results.html",
        title=evil,
        subtitle="",
        grid=tmp_path / "grid.png",
        denoising=None,
        copied=[],
        cascade=False,
        numbers=[{"name": evil, "value": "1", "how": ""}],
        per_caption={evil: 0.5},
        losses=(tmp_path / "grid.png").read_bytes(),
        runs=[],
        commands=[evil],
        provenance="",
    )
    html = (tmp_path / "report.html").read_text()
    assert "<script" not in html
    assert html.count("data:image/png;base64,") == 2


def test_curves_read_what_a_logger_wrote(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,9,0.5,\n0,19,0.25,\n0,19,,0.3\n")
    series = curves.read(tmp_path / "metrics.csv")
    assert series["train/loss"] == [(9, 0.5), (19, 0.25)]
    assert series["val/loss"] == [(19, 0.3)]
    assert curves.read(tmp_path / "none.csv") == {}
    assert curves.losses({"clip": tmp_path / "metrics.csv", "none": tmp_path / "none.csv"}).startswith(
        b"\x89PNG"
    )


def test_the_table_says_n_and_floor_with_a_distance() -> None:
    fd = {
        "value": 1.234,
        "n": 500,
        "floor": 0.5,
        "floor_n": 400,
        "reference": "first 10 training images",
        "extractor": "X",
    }
    (row,) = rows({"fd": fd})
    assert row["value"] == "1.23"
    for word in ("N = 500", "first 10 training images", "400 real test images: 0.50"):
        assert word in row["how"]


def test_a_bound_of_one_image_has_no_error() -> None:
    nll = {"value": 3.25, "n": 1, "standard_error": None, "steps": 9, "steps_drawn": 8, "dimensions": 4}
    (alone,), (several,) = rows({"nll": nll}), rows({"nll": nll | {"n": 5, "standard_error": 0.5}})
    assert "1 test image, error unknown" in alone["how"]
    assert "5 test images, +- 0.500" in several["how"]


@pytest.mark.parametrize(("n", "error"), [(1, None), (4, 0.5 * (5 / 3) ** 0.5)])
def test_the_error_of_a_bound_is_that_of_its_mean(
    n: int, error: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bits_per_dim(images: Tensor, *_: object, **__: object) -> Bound:
        zero, total = torch.zeros(len(images)), torch.arange(float(len(images)))
        return Bound(zero, total, zero)

    monkeypatch.setattr(
        likelihood, "image_features", lambda clip, images: {"image": torch.zeros(len(images))}
    )
    data = Synthetic(32)
    decoder = SimpleNamespace(
        schedule=SimpleNamespace(T=4), condition=lambda *_: {}, bits_per_dim=bits_per_dim
    )
    model = SimpleNamespace(decoder=decoder, clip=None, device="cpu", text=lambda captions: {})
    found = likelihood.nll(SimpleNamespace(model=model, data=data), n, 0, None)
    assert found["n"] == n
    assert found["standard_error"] == (error and pytest.approx(error))


def test_a_long_label_takes_several_lines_and_leaves_its_images_in_sight() -> None:
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    words = "this flower has petals that are yellow with shades of orange "
    widths = [grid(images, 2, rows=[label, "b"]).width for label in ("b", words, 20 * words, "x" * 500)]
    assert widths[0] < min(widths[1:])
    assert max(widths) < 650
    both = [_wrapped(20 * words + end, 3) for end in "ab"]
    assert both[0].endswith("…")
    assert _wrapped("  not: a bag", 3) == "  not: a bag"
    assert _wrapped("", 3) == ""


def test_minutes_and_seconds_are_those_of_the_whole_seconds() -> None:
    run = SimpleNamespace(folder=Path("r"), status={"seconds": 119.7})
    assert deliver._row("clip", run)["time"] == "2 min 00 s"  # type: ignore[arg-type]


def test_a_sweep_is_drawn_where_shares_are_and_its_intervals_beyond_are_cut() -> None:
    """Two seeds that are 0.2 apart: an interval of 2.5 around a share."""
    cells = [
        {
            "of": {"guidance": guidance, "seed": seed},
            "fd": {"value": 3.0 + seed, "floor": 1.0},
            "prompt_consistency": {"value": 0.7 + 0.2 * seed},
        }
        for guidance in (1, 2)
        for seed in (0, 1)
    ]
    figure, (axis,) = figures.panels(1, 4, 3)
    sweep_curves._panel(axis, cells, "prompt_consistency", "fd", "guidance")
    low, high = axis.get_xlim()
    assert -0.1 < low < 0.8 < high < 1.1
    assert figures.png(figure).startswith(b"\x89PNG")
