"""Every notebook runs top to bottom, with small numbers, and is kept without outputs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


OF_A_MODEL = "manipulations"  # shows what a finished run can do


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem != OF_A_MODEL], ids=lambda path: path.stem)
@pytest.mark.usefixtures("fashion_mnist")
def test_it_runs_top_to_bottom(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNCLIP_QUICK", "1")
    _run(path, path.parent)


@pytest.mark.slow
def test_it_shows_what_a_finished_run_can_do(
    unclip: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unclip("run", "experiment=smoke", "logger=none", "results=outputs/demo").returncode == 0
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("UNCLIP_QUICK", "1")
    _run(ROOT / "notebooks" / f"{OF_A_MODEL}.ipynb", tmp_path / "notebooks")


def _run(path: Path, folder: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        draws = any(line.startswith(("show(", "plt.show(")) for line in cell.source.splitlines())
        assert ("image/png" in kinds) or not draws, cell.source
        assert not [o["text"] for o in cell.get("outputs", []) if o.get("name") == "stderr"], cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
