"""The house numbers find what they are for, and nothing in the project itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "house.py"


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("house", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_house_is_in_order(house):
    assert house.findings(house.SOURCE) == []


LONG = "def long():\n    '''Long.'''\n" + "    x = 1\n" * 51
DEEP = """def deep(x):
    '''Deep.'''
    for a in x:
        for b in a:
            if b:
                with b:
"""
BROKEN = {
    "no word about itself": ("a.py", "x = 1\n", "a.py:1: the file says nothing about itself"),
    "too long a file": ("a.py", '"""A."""\n' + "x = 1\n" * 300, "a.py: 301 lines; at most 300"),
    "too long a function": ("a.py", f'"""A."""\n{LONG}', "a.py:2: long has 51 lines; at most 50"),
    "nested too deep": (
        "a.py",
        f'"""A."""\n{DEEP}                    while b:\n                        pass\n',
        "a.py:2: deep is nested 5 levels deep; at most 4",
    ),
    "a public name without a word": (
        "a.py",
        '"""A."""\n\n\nclass A:\n    x = 1\n',
        "a.py:4: A is public and has no docstring",
    ),
    "diffusion that needs the rest": (
        "unclip/diffusion/a.py",
        '"""A."""\nfrom unclip.files import put\n',
        "unclip/diffusion/a.py: imports unclip.files.put; diffusion/ stands on its own",
    ),
}


@pytest.mark.parametrize(("name", "text", "line"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named(house, tmp_path: Path, name: str, text: str, line: str):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert house.findings(tmp_path) == [line]


def test_a_circle_of_imports_is_named_and_one_of_types_is_none(house, tmp_path: Path):
    (tmp_path / "a.py").write_text('"""A."""\nfrom b import y\n')
    (tmp_path / "b.py").write_text('"""B."""\nimport a\n')
    assert len(house.findings(tmp_path)) == 1
    assert "imports in a circle" in house.findings(tmp_path)[0]
    (tmp_path / "b.py").write_text(
        '"""B."""\nif TYPE_CHECKING:\n    import a\n\n\ndef f():\n    """F."""\n    import a\n'
    )
    assert house.findings(tmp_path) == []


def test_exactly_at_the_limits_is_in_order(house, tmp_path: Path):
    (tmp_path / "a.py").write_text(f'"""A."""\n{DEEP}                    pass\n' + "x = 1\n" * 292)
    assert house.findings(tmp_path) == []
