"""Every ablation from its command to its report, at the budget that is minutes on a CPU."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from pathlib import Path

import pytest

from unclip.config.compose import options


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all of them, as the CLIP and the prior of most are the same."""
    return tmp_path_factory.mktemp("ablations")


@pytest.mark.slow
@pytest.mark.parametrize("name", options("ablation"))
def test_it_runs_and_is_reported(name: str, folder: Path) -> None:
    command = [sys.executable, "-m", "unclip", "ablate", name, "budget=smoke", "n_jobs=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    record = json.loads((folder / "outputs" / "sweeps" / f"{name}-smoke.json").read_text())
    assert record["cells"]
    measured: dict[str, set[str]] = {}
    for cell in record["cells"]:
        assert cell["state"] == "finished", cell
        metrics = json.loads((Path(folder) / cell["folder"] / "metrics.json").read_text())
        for head in {metric.partition(".")[0] for metric in record["ablation"]["metrics"]}:
            assert head in metrics
        shown = [
            {k: v for k, v in metrics[name].items() if k != "sampling"} for name in ("fd",) if name in metrics
        ]
        measured.setdefault(cell["values"]["cell"], set()).add(
            json.dumps([shown, metrics["sampling"]["runs"]])
        )
    assert all(len(values) == 2 for values in measured.values()), "two seeds, two results"
    report = (folder / "outputs" / "reports" / f"{name}-smoke" / "report.html").read_text()
    assert record["ablation"]["title"] in html.unescape(report)
