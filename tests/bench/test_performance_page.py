"""docs/performance.md says what was measured."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "performance.py"


def test_the_page_shows_the_results_beside_it():
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "run `python scripts/performance.py`"


def test_a_block_is_what_its_result_says_and_nothing_else_changes(tmp_path):
    rendered = runpy.run_path(str(SCRIPT))["rendered"]
    row = {"name": "ours", "rate": 2.0, "low": 1.0, "high": 3.0, "times": 1.0, "seconds": [1.0]}
    versions = {
        "device": "cpu",
        "cores": 2,
        "processor": "P",
        "threads": 2,
        "load": 0.1,
        "python": "3",
        "versions": {},
    }
    table = {"title": "A thing", "unit": "images/s", "rows": [row]}
    result = {"command": "unclip bench thing", "machine": versions, "tables": [table]}
    (tmp_path / "thing.json").write_text(json.dumps(result))
    page = "Before.\n<!-- bench thing -->\nold\n<!-- end -->\nAfter.\n"
    once = rendered(page, tmp_path)
    assert "| ours | 2.00 (1.00 - 3.00) | 1.00 |" in once
    assert "old" not in once
    assert once.startswith("Before.\n<!-- bench thing -->\n")
    assert once.endswith("<!-- end -->\nAfter.\n")
    assert rendered(once, tmp_path) == once
    with pytest.raises(FileNotFoundError):
        rendered(page.replace("thing", "nothing"), tmp_path)
