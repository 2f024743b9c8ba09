"""The generated reference has everything that there is, and says of every key what it means."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.docs.documents import ROOT, pages

from unclip.cli import VERBS
from unclip.config.compose import compose
from unclip.config.tree import groups, options


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    """scripts/reference.py as a module."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import reference  # type: ignore[import-not-found]

    yield reference
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def written(reference: ModuleType) -> dict[str, str]:
    return reference.written()  # type: ignore[no-any-return]


def test_every_key_has_a_meaning(reference: ModuleType) -> None:
    """A comment beside it in conf/, or a sentence `name: ...` in its target's docstring."""
    assert reference.unexplained() == []


def test_every_group_and_option_has_its_place(reference: ModuleType, written: dict[str, str]) -> None:
    shown = [group for _, chosen in reference.PAGES.values() for group in chosen]
    assert set(groups()) <= set(shown), "scripts/reference.py says what each group chooses"
    text = "\n".join(written.values())
    for group in groups():
        for option in options(group):
            assert f"### `{group}={option}`" in text


def test_its_rows_are_the_keys_that_compose(written: dict[str, str]) -> None:
    config = compose("train", ["stage=decoder", "model=decoder/base", "sampler=heun"]).config
    for page, group, option in (("stages", "model", "decoder/base"), ("diffusion", "sampler", "heun")):
        section = written[f"{page}.md"].split(f"### `{group}={option}`")[1].split("\n### ")[0]
        rows = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", section, re.MULTILINE))
        top = {
            key
            for key in config[group]
            if not key.startswith("_") and not isinstance(config[group][key], dict)
        }
        assert top <= {name.removeprefix(f"{group}.") for name in rows}
        assert rows.get("model.blocks", "2") == "2"


def test_every_verb_and_module_has_its_place(reference: ModuleType, written: dict[str, str]) -> None:
    for verb in VERBS:
        assert f"## `{verb}`" in written["commands.md"]
    package = ROOT / "src" / "unclip"
    for path in package.rglob("*.py"):
        if path.stem not in ("__init__", "__main__"):
            name = ".".join(["unclip", *path.relative_to(package).with_suffix("").parts])
            assert any(f"::: {name}\n" in text for text in written.values()), name


def test_pages_that_others_link_are_written(written: dict[str, str]) -> None:
    for page in pages():
        for link in re.findall(r"\]\(((?:\.\./)?reference/[^)#]+)", page.text):
            assert Path(link).as_posix().split("reference/")[1] in written, (page.name, link)


def test_prose_is_shown_as_it_stands() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    from docstrings import plain  # type: ignore[import-not-found]

    assert plain("x (B, *S) and y (B, *S), <run>") == r"x (B, \*S) and y (B, \*S), &lt;run>"
    assert plain("`a*b` stays") == "`a*b` stays"
