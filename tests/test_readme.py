"""The README is short and true: its example samples its data, its table and its list name what there is. Its commands,
pictures and links are checked with those of the other documents, tests/docs/test_documents.py."""

from __future__ import annotations

import re

import torch

from tests.docs.documents import ROOT, Page
from unclip.config.tree import groups, options

README = Page(ROOT / "README.md")


def test_it_is_short_and_begins_with_a_picture() -> None:
    lines = README.text.splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("![") for line in lines[:10])


def test_the_example_samples_its_data() -> None:
    (example,) = README.programs
    assert len(example.splitlines()) <= 25
    torch.manual_seed(0)
    names: dict[str, torch.Tensor] = {}
    exec(example, names)
    at_a_corner = ((names["samples"].abs() - 1).abs() < 0.2).all(1)
    assert at_a_corner.float().mean() > 0.85


def test_its_table_names_groups_that_there_are() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", README.text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named <= set(groups())
    assert {"stage", "experiment", "data", "schedule", "objective", "sampler", "trainer"} <= named


def test_the_options_it_names_are_there() -> None:
    for group in ("stage", "trainer", "sampler"):
        row = next(line for line in README.text.splitlines() if line.startswith(f"| `{group}` |"))
        named = set(re.findall(r"\w+", row.rpartition(":")[2] if ":" in row else row.split("|")[2]))
        assert named <= set(options(group)), group


def test_files_to_read_first_are_there() -> None:
    listed = README.text[README.text.index("## Files to read first") :]
    folder = ROOT
    for name in re.findall(r"`([\w/.]+\.py|[\w/.]+\.yaml|[\w/]+/)`", listed):
        folder = (ROOT / name).parent if "/" in name else folder  # a bare name is beside the one before
        assert (folder / name.rpartition("/")[2]).exists() or (ROOT / name).exists(), name
