"""The page of a report in a real browser: headless Chromium draws its parts, light and dark, and its script sorts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageStat
from tests.report.left_by_runs import cell, record, sweep_of_runs, train_run

from unclip.report import document

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: apt-get install chromium"),
]
SIZE = (1180, 3600)


def chromium(page: Path, *arguments: str) -> str:
    """What headless Chromium says of a page, without a network and with a profile of its own."""
    command = [
        str(CHROMIUM),
        "--headless",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={page.parent}/profile",
    ]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=2000",
        *arguments,
        f"file://{page}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def screenshot(page: Path, name: str, *arguments: str) -> Image.Image:
    path = page.parent / name
    chromium(page, f"--screenshot={path}", f"--window-size={SIZE[0]},{SIZE[1]}", *arguments)
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    claims = [{"metric": "fd", "claim": "cosine < linear"}, {"metric": "fd", "claim": "linear < cosine"}]
    published = [{"metric": "FID", "on": "CIFAR-10", "grade": "S", "values": {"cosine": 3.19}}]
    outputs = tmp_path_factory.mktemp("browser") / "outputs"
    values = {"linear": [12.0, 12.2, 12.1], "cosine": [2.0, 2.1, 2.3], "one seed": [5.0]}
    return (
        document.deliver([sweep_of_runs(outputs, values, claims=claims, published=published)]) / "report.html"
    )


def probed(page: Path, script: str) -> str:
    """What a script finds in the page after its own has run."""
    probe = page.with_name("probe.html")
    end = f"<pre id=found></pre><script>found.textContent = JSON.stringify((() => {{{script}}})())</script></body>"
    probe.write_text(page.read_text().replace("</body>", end))
    found = re.search(r'<pre id="found">(.*?)</pre>', chromium(probe, "--dump-dom"), re.DOTALL)
    assert found is not None
    return found[1].replace("&quot;", '"').replace("&lt;", "<")


def test_its_parts_are_laid_out_one_below_the_other_and_its_pictures_load(page: Path) -> None:
    tops = probed(
        page,
        "return ['#claims', '#results', 'img[alt^=bars]', 'img[alt^=curves]', 'img[alt^=samples]', '#settings', "
        "'#cost', '#published'].map(s => Math.round(document.querySelector(s).getBoundingClientRect().top))",
    )
    places = [int(top) for top in tops.strip("[]").split(",")]
    assert places == sorted(places)
    assert places[0] > 50
    assert (
        probed(page, "return [...document.images].every(i => i.complete && i.naturalWidth > 100)") == "true"
    )
    assert probed(page, "return document.documentElement.scrollWidth <= innerWidth") == "true"


def test_a_click_on_a_heading_sorts_by_number_and_a_second_one_turns_it(page: Path) -> None:
    script = (
        "const t = document.querySelector('#results'); const head = t.querySelectorAll('th')[2]; const seen = [];"
        "for (let i = 0; i < 2; i++) { head.click(); "
        "seen.push([...t.tBodies[0].rows].map(r => r.cells[0].innerText).join()); }"
        "return seen.join(' | ')"
    )
    assert probed(page, script) == '"cosine,one seed,linear | linear,one seed,cosine"', "2 before 5 before 12"


def test_screenshots_show_it_light_and_dark(page: Path) -> None:
    light, dark = (
        screenshot(page, "light.png"),
        screenshot(page, "dark.png", "--blink-settings=preferredColorScheme=0"),
    )
    assert light.size == dark.size == SIZE
    assert light.getpixel((3, 3)) == (255, 255, 255)
    assert max(dark.getpixel((3, 3))) < 60
    for shot in (light, dark):
        colours = shot.getcolors(1 << 20)
        assert colours is not None
        assert {(59, 110, 165)} & {colour for count, colour in colours if count > 2000}, (
            "the bars of the plots"
        )
        for top in range(0, 3000, 600):
            assert max(ImageStat.Stat(shot.crop((0, top, SIZE[0], top + 600))).stddev) > 3, (
                f"nothing at {top}"
            )


def test_names_from_data_run_nothing(tmp_path: Path) -> None:
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    run = train_run(tmp_path / "e" / "r", metrics={"val/loss": 1.0, evil: 2.0}, error=evil)
    cells = [cell(run, cell=evil, seed=0), cell(None, "failed", evil, cell="b", seed=0)]
    made = document.deliver([record(tmp_path, cells, name="x", ablation={"title": evil})]) / "report.html"
    assert "owned" not in probed(made, "return document.title.replace(/<[^]*/, '')")
    assert probed(made, "return document.querySelectorAll('img[src=x]').length") == "0"
