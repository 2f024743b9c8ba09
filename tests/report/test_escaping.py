"""Captions, names of files and whatever else comes from data are shown on a page, and are never a part of it."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
from tests.report.left_by_runs import cell, record, results, train_run

from unclip.report import document, evaluation, page

TEMPLATES = sorted((Path(page.__file__).parent / "templates").glob("*.html"))
EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>.png"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_lets_a_text_out_of_its_place(template: Path) -> None:
    """Every value is escaped, stands in a text or in a quoted attribute, and in no script or style of its own."""
    text = template.read_text()
    assert "|safe" not in text.replace(" ", "")
    assert "autoescape" not in text
    tags = re.findall(r"<[a-z][^>]*>", re.sub(r"{%.*?%}", "", text))
    for tag in tags:
        outside = re.sub(r'"[^"]*"', "", re.sub(r"{{.*?}}", "{{}}", tag))
        assert "{{" not in outside, tag
    for script in re.findall(r"<script>.*?</script>", text, re.DOTALL):
        assert "{{" not in script


def test_nobody_marks_a_text_as_safe() -> None:
    sources = Path(page.__file__).parents[1].rglob("*.py")
    assert not [
        path for path in sources if "Markup" in path.read_text() or "autoescape=False" in path.read_text()
    ]
    assert jinja2.Environment(autoescape=True).from_string("{{ x }}").render(x=EVIL).count("<") == 0


def shown_as_text(html: str) -> None:
    assert "alert(1)" in html, "it is shown"
    assert "<script>alert" not in html
    assert "<img src=x" not in html


def test_an_evaluation_shows_captions_and_classes_as_text(tmp_path: Path) -> None:
    consistency = {
        "value": 0.5,
        "n": 4,
        "interval": [0.1, 0.9],
        "classifier": EVIL,
        "real_test_images": 0.9,
        "per_caption": {EVIL: 0.5, "b": 0.5},
        "per_caption_interval": {EVIL: [0.1, 0.9], "b": [0.1, 0.9]},
        "real_per_caption": {EVIL: 0.9, "b": None},
        "classes": [EVIL, "b"],
        "confusion": [[1, 1], [0, 2]],
        "real_confusion": [[999, 1], [0, 0]],
    }
    measured = {"prompt_consistency": consistency, "sampling": {"prompt": EVIL}, "seed": 0}
    evaluation.write(tmp_path / "evaluation.html", EVIL, measured, [], [(EVIL, EVIL, b"png")])
    page = (tmp_path / "evaluation.html").read_text()
    shown_as_text(page)
    assert page.count('class="real"') == 1, "of the class that real images have"
    assert "&lt;1</td>" in page, "a rare mistake is not rounded to none"


def test_a_report_shows_names_errors_and_settings_as_text_on_its_page_and_in_its_files(
    tmp_path: Path,
) -> None:
    clip = train_run(tmp_path / "demo" / "clip", {"stage": {"name": "clip"}, "seed": 0})
    cells = []
    for number, name in enumerate((EVIL, "plain")):
        run = train_run(
            tmp_path / "demo" / f"decoder{number}", {"seed": 0, "schedule": {"name": name}, "clip": "clip"}
        )
        folder = results(
            tmp_path / "demo" / f"run-{number}", {"fd": 1.0 + number}, {"clip": clip, "decoder": run}
        )
        cells.append(cell(folder, cell=name, seed=0))
    cells.append(cell(None, "failed", f"it broke at {EVIL}", cell="broken", seed=0))
    path = record(tmp_path, cells, {"name": "x", "title": EVIL, "paper": EVIL, "metrics": ["fd"]})
    out = document.write(document.build([path]), tmp_path / "out")
    shown_as_text((tmp_path / "out" / "report.html").read_text())
    shown_as_text((tmp_path / "out" / "report.md").read_text())
    assert out
