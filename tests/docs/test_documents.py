"""What the documents say is so: every line can be typed, every program runs, every picture and page is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.docs.documents import DOCS, ROOT, Page, check, pages

from unclip.config.compose import many
from unclip.config.problems import Problems

PAGES = pages()
OFTEN = ("README.md", "CONTRIBUTING.md", "docs/how-to/extend.md")  # the others with the slow tests
QUICK = [page for page in PAGES if page.name in OFTEN]
# many requests in one line: seconds
MANY = re.compile(r"unclip (ablate|search|run -m)|compare=all|guidance=[\d.]+,")
# the README's own program: tests/test_readme.py
PROGRAMS = [page for page in PAGES if page.programs and page.name != "README.md"]


def typed(page: Page, lines: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with the files that the page shows."""
    monkeypatch.chdir(page.written(folder))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("UNCLIP_CONFIG_DIR", str(folder / "mine") if (folder / "mine").is_dir() else "")
    with many("train"):
        for line in lines:
            check(line, monkeypatch)


@pytest.mark.parametrize("page", QUICK, ids=lambda page: page.name)
def test_its_lines_can_be_typed(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(page, [line for line in page.lines if not MANY.search(line)], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.lines], ids=lambda page: page.name)
def test_every_line_can_be_typed(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(page, page.lines, tmp_path, monkeypatch)


def test_a_line_that_cannot_be_typed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in (
        "unclip train stage=decoder schedul=linear",
        "unclip evaluate run=outputs/demo guidance=1,x",
        "unclip runs where='stage='",
        "make dmeo",
        'pip install "unclip-lab[serch]"',
        "rm -r outputs",
    ):
        with pytest.raises((AssertionError, ValueError, Problems)):
            check(line, monkeypatch)


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.name)
def test_the_programs_run_one_after_the_other(page: Page) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for program in page.programs:
        exec(program, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_and_pages_that_are_linked_are_there(page: Page) -> None:
    """Those under reference/ are made by scripts/reference.py: tests/docs/test_reference.py."""
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.text):
        if "://" not in link and "reference/" not in link:
            assert (page.path.parent / link).exists(), link


def test_every_page_is_in_the_navigation_and_only_those() -> None:
    def leaves(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [
            leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in leaves(child)
        ]

    nav = leaves(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"])
    shown = {name for name in nav if not name.startswith("reference/")}
    written = {p.path.relative_to(DOCS).as_posix() for p in PAGES if DOCS in p.path.parents}
    assert shown == written
    assert len(nav) == len(set(nav))
