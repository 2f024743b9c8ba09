"""The site as it is built: strictly, whole, and readable without a network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.documents import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does, in a copy."""
    folder = tmp_path_factory.mktemp("documents")
    for name in ("docs", "scripts", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "reference"))
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    subprocess.run([sys.executable, "scripts/reference.py"], cwd=folder, check=True)
    build = [str(Path(sys.executable).parent / "zensical"), "build", "--strict", "--clean"]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_picture_and_page_of_the_site_is_there(site: Path) -> None:
    found = list(site.rglob("*.html"))
    assert len(found) > 30
    for page in found:
        if page.name == "404.html":
            continue
        html = page.read_text(encoding="utf-8")
        for link in re.findall(r'(?:src|href)="([^"#?:]+)["#?]', html):
            assert (page.parent / link).exists(), (
                page.name,
                link,
            )


def test_nothing_is_fetched_to_read_it(site: Path) -> None:
    """No script, style, font or picture of another host; links out are only followed."""
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]+)"', html)
        loaded += [tag for tag in re.findall(r"<link[^>]+>", html) if 'rel="canonical"' not in tag]
        assert not [one for one in loaded if re.search(r"(?:https?:)?//", one)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_search_finds_a_noun(site: Path) -> None:
    assert "trailing" in next(site.rglob("search.js*")).read_text(encoding="utf-8")
