"""The files of a report and the verb that makes them: complete, escaped, honest about what is missing, no torch."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from tests.report.left_by_runs import CAPTIONS, cell, record, results, sweep_of_runs, train_run

from unclip.config.problems import Problems
from unclip.report import curves, document, plots
from unclip.report.collect import collect
from unclip.report.gallery import gallery
from unclip.report.sheets import latex, markdown
from unclip.runs import report

VALUES = {"linear": [3.0, 3.2, 3.3], "cosine": [2.0, 2.1, 2.4], "$x_1 & 50% <script>": [9.0]}
CLAIM = {"metric": "fd", "claim": "cosine < linear", "note": "Table 2"}
PUBLISHED = {"metric": "FID", "on": "CIFAR-10", "grade": "M", "values": {"cosine": 3.19}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an ablation with a failed seed, and a cell of one seed and an evil name."""
    outputs = tmp_path_factory.mktemp("ablation") / "outputs"
    path = sweep_of_runs(outputs, VALUES, claims=[CLAIM], published=[PUBLISHED])
    content = json.loads(path.read_text())
    content["cells"].append(
        cell(None, "failed", "ValueError: <script>alert(2)</script>", cell="broken", seed=0)
    )
    path.write_text(json.dumps(content))
    return document.deliver([path])


class Texts(HTMLParser):
    """The tags and the rows of a page's tables as a browser would see them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.within = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.within = True

    def handle_endtag(self, tag: str) -> None:
        self.within &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.within:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def test_every_file_is_there_and_the_default_place_is_beside_the_sweeps(made: Path) -> None:
    assert made.parts[-3:] == ("outputs", "reports", "sweep")
    assert sorted(p.name for p in made.iterdir()) == [
        "plots",
        "report.html",
        "report.md",
        "table.csv",
        "table.tex",
    ]
    names = {p.stem for p in (made / "plots").iterdir()}
    assert names == {"bars-fd", "curves-decoder"}
    for name in names:
        with Image.open(made / "plots" / f"{name}.png") as image:
            image.verify()
        assert ET.parse(made / "plots" / f"{name}.svg").getroot().tag.endswith("svg")


def test_the_page_holds_all_it_shows_and_nothing_from_data_is_markup(made: Path) -> None:
    html = (made / "report.html").read_text()
    page = Texts(html)
    assert [tag for tag, _ in page.tags].count("script") == 1, "the page's own"
    assert "<script>alert" not in html
    addresses = [v for _, found in page.tags for k, v in found.items() if k in ("src", "href")]
    assert len(addresses) == 3
    assert all(str(address).startswith("data:image/png;base64,") for address in addresses)
    assert not re.search(r"https?://|@import|url\(", html)
    for word in ("prefers-color-scheme: dark", "@media print", "ValueError: &lt;script&gt;"):
        assert word in html


def test_the_page_says_means_intervals_seeds_verdicts_and_what_is_missing(made: Path) -> None:
    rows = Texts((made / "report.html").read_text()).rows
    found = {row[0]: row[1:] for row in reversed(rows) if len(row) == 4}
    assert found["cosine"] == ["3", "2.17 ± 0.52 1.65 to 2.68", "3 finished"]
    assert found["$x_1 & 50% <script>"] == ["1", "9.000 one seed", "1 finished"]
    assert found["broken"] == ["0 of 1", "–", "1 failed"]
    assert ["broken", "0", "failed", "ValueError: <script>alert(2)</script>"] in rows
    verdict = next(row for row in rows if "cosine < linear" in row)
    assert verdict[0] == "✓ reproduced"
    assert verdict[3] == "-1.00 (-1.25 to -0.75), 3 seeds"
    published = next(row for row in rows if row[:2] == ["cosine", "3.19"])
    assert published[2] == "2.17 ± 0.52"
    assert any(row[:2] == ["decoder.schedule.name", "linear"] for row in rows)
    assert any(row[:3] == ["cosine", "120", "clip 100, decoder 100"] for row in rows)


def test_csv_has_the_numbers_in_full(made: Path) -> None:
    with (made / "table.csv").open(newline="") as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    assert float(rows["cosine"]["fd mean"]) == pytest.approx(6.5 / 3, rel=1e-15)
    assert (rows["cosine"]["fd n"], rows["$x_1 & 50% <script>"]["fd low"]) == ("3", "")
    assert (rows["broken"]["finished"], rows["broken"]["fd mean"]) == ("0", "")
    assert rows["broken"]["error"] == "ValueError: <script>alert(2)</script>"


def test_latex_is_a_booktabs_table_with_every_special_letter_escaped(made: Path) -> None:
    text = (made / "table.tex").read_text()
    assert r"\$x\_1 \& 50\% \textless{}script\textgreater{} & 1 & 9.000 \\" in text
    assert r"cosine & 3 & \textbf{2.17 $\pm$ 0.52} \\" in text
    body = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {2}
    for rule in ("top", "mid", "bottom"):
        assert text.count(f"\\{rule}rule") == 1
    assert latex("[1] *a") == "{[}1{]} {*}a", "no argument of the line's end before it"
    assert latex("a\\b~^{c}#") == r"a\textbackslash{}b\textasciitilde{}\textasciicircum{}\{c\}\#"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_reads_the_table(made: Path, tmp_path: Path) -> None:
    text = (made / "table.tex").read_text()
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{text}\\end{{document}}"
    (tmp_path / "t.tex").write_text(document)
    subprocess.run(
        ["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL
    )


def test_markdown_says_the_same_and_cannot_be_broken_out_of(made: Path) -> None:
    text = (made / "report.md").read_text()
    assert "| cosine | 3 | 2.17 ± 0.52 | 3 finished |" in text
    assert "| reproduced | cosine &lt; linear | fd |" in text
    assert "9.000 (one seed)" in text
    assert "![bars-fd.png](plots/bars-fd.png)" in text
    assert "<script" not in text
    assert markdown("a | b\n# c") == r"a \| b \# c"


def test_samples_are_those_of_the_same_noise_side_by_side(tmp_path: Path) -> None:
    path = sweep_of_runs(tmp_path, {"a": [3.0], "b": [2.0]})
    found = collect([path])
    shown = gallery(found, found.cells)
    assert shown is not None
    assert f"3: {CAPTIONS[1]}" in shown.line
    assert "training seed 0; in a column the same prompt and the same noise (seed 0)" in shown.line
    run = train_run(tmp_path / "other", {"seed": 0})
    other = results(tmp_path / "noise", {"fd": 1.0}, {"decoder": run}, noise=1)
    content = [cell(tmp_path / "demo" / "run-00", cell="a"), cell(other, cell="c")]
    mixed = collect([record(tmp_path, content)])
    assert gallery(mixed, mixed.cells) is None, "from different noise nothing stands side by side"


def test_a_band_is_the_mean_and_the_range_of_seeds_as_far_as_all_go() -> None:
    xs, mean, low, high = plots.band([[(0, 0.0), (10, 10.0), (30, 30.0)], [(0, 2.0), (20, 2.0)], []])
    assert xs == [0, 10, 20]
    assert mean == [1.0, 6.0, 11.0]
    assert (low, high) == ([0.0, 2.0, 2.0], [2.0, 10.0, 20.0])


def test_wall_time_goes_on_where_a_run_was_taken_up_again() -> None:
    series: curves.Series = {
        curves.SECONDS: [(9, 60.0), (19, 120.0), (29, 60.0)],
        "val/loss": [(9, 1.0), (24, 0.5), (29, 0.4)],
    }
    assert curves.over_minutes(series, 30, 999)["val/loss"] == [(1.0, 1.0), (2.5, 0.5), (3.0, 0.4)]
    del series[curves.SECONDS]
    assert curves.over_minutes(series, 30, 180)["val/loss"] == [(1.0, 1.0), (2.5, 0.5), (3.0, 0.4)]


def test_two_axes_are_a_map_and_a_single_seed_is_pale_without_an_interval(tmp_path: Path) -> None:
    cells = []
    for i, (a, b) in enumerate((a, b) for a in "xy" for b in "pq"):
        run = train_run(tmp_path / "e" / f"r{i}", metrics={"val/loss": float(i + 1)})
        cells.append(cell(run, schedule=a, objective=b))
    found = collect(
        [record(tmp_path, [*cells[:3], cell(None, "failed", "nan", schedule="y", objective="q")])]
    )
    map_ = plots.heat(found, "val/loss")
    said = [text.get_text() for text in map_.axes[0].texts]
    assert said == ["1.000", "2.000", "3.000", "failed"] or said == ["1.000", "3.000", "2.000", "failed"]
    bars = plots.bars(found, "val/loss")
    assert [p.get_width() for p in bars.axes[0].patches] == [1.0, 2.0, 3.0], "the best on top"
    assert not bars.axes[0].containers[0].errorbar
    assert all("one seed" in text.get_text() for text in bars.axes[0].texts)


# ---- the verb ---------------------------------------------------------------------------------------------------


def test_it_answers_without_torch_from_anywhere(tmp_path: Path) -> None:
    path = sweep_of_runs(tmp_path / "outputs", VALUES)
    code = (
        "import sys; from unclip.cli import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'lightning', 'hydra'} & set(sys.modules), 'heavy'; sys.exit(status)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "report",
        str(path),
        "metric=fd",
        "format=csv,md",
        f"out={tmp_path / 'r'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 cells, 7 trials: 7 finished" in done.stdout
    assert "fd: best cosine, 2.17 ± 0.52 (3 seeds)" in done.stdout
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["report.md", "table.csv"]


def test_wrong_requests_are_one_clear_line(tmp_path: Path) -> None:
    path = str(sweep_of_runs(tmp_path / "outputs", {"a": [1.0], "b": [2.0]}))

    def problem(*arguments: str) -> str:
        with pytest.raises(Problems) as raised:
            report.main(list(arguments))
        (one,) = raised.value.problems
        return str(one)

    assert problem(path, "metric=fid").startswith("metric = fid: no cell has it; nearest: fd; possible: fd")
    assert problem(path, "baseline=c").startswith("baseline = c: is no cell")
    assert (
        problem(path, "format=pdf") == "format = pdf: no such format; possible: html, md, csv, tex, png, svg"
    )
    assert problem(path, "metrics=fd").startswith(
        "metrics = fd: no such key; nearest: metric; possible: out,"
    )
    assert problem().startswith("what is to be reported? a sweep's record")
    assert problem(path, "--pdf") == "--pdf: is no option of it: unclip report --help"
    (tmp_path / "file").touch()
    said = problem(path, f"out={tmp_path}/file/r")
    assert re.fullmatch(r"out = .*/file/r: cannot be written to: .*; out=DIR names another folder", said)


def test_a_folder_that_may_not_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sweep_of_runs(tmp_path / "outputs", {"a": [1.0]})
    monkeypatch.setattr(document.os, "access", lambda *_: False)  # as root everything may be written
    with pytest.raises(Problems, match="cannot be written to: Permission denied"):
        document.deliver([path], tmp_path / "out")


def test_a_sweep_of_which_nothing_is_finished_is_a_report_too(tmp_path: Path) -> None:
    path = record(tmp_path, [cell(None, "new", schedule="a"), cell(None, "failed", "x: y", schedule="b")])
    out = document.deliver([path], metrics=["fd"])
    text = (out / "report.md").read_text()
    assert "2 cells, 2 trials: 1 failed, 1 not run yet" in text
    assert "| b |  | failed | x: y |" in text
    assert not (out / "plots").exists()


def test_damaged_curves_are_left_out_with_a_word(tmp_path: Path) -> None:
    path = sweep_of_runs(tmp_path / "outputs", {"a": [1.0], "b": [2.0]})
    (tmp_path / "outputs" / "demo" / "decoder00" / "metrics.csv").write_text("epoch,step,train/loss\n0,x,y\n")
    out = document.deliver([path], formats=["html"])
    assert "left out of the curves: " in (out / "report.html").read_text()
