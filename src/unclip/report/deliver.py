"""What `unclip run` ends with: `python -m unclip.report.deliver FOLDER` samples, evaluates and writes the report.

FOLDER/request.json says of which runs and how; FOLDER/pipeline.json, the same, is written when all is there.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from unclip.cli import DONE, FAILED
from unclip.config.problems import Problems, cause
from unclip.files import write_json, write_text
from unclip.report import copies, curves, metrics, page, samples, table
from unclip.runs import endings
from unclip.runs.pipeline import next_commands
from unclip.runs.process import stop_at_once_when_asked
from unclip.runs.store import Run, provenance
from unclip.runs.trained import Trained, load

# what samples depend on
DECIDING = ("seed", "sampler", "guidance", "steps", "rerank", "prior", "prior_guidance")


def main(folder: str) -> int:
    """Sample, evaluate, report; a failure is said in one line, and stands in status.json. A full disk and
    the like interrupt, as they do a training."""
    stop_at_once_when_asked()
    out = Path(folder)
    try:
        _deliver(out)
    except Problems as problems:
        return _ended(out, "failed", "; ".join(map(str, problems.problems)))
    except Exception as error:
        if why := endings.outside(cause(error), out):
            return _ended(out, "interrupted", why)
        with suppress(OSError):
            write_text(out / "error.txt", traceback.format_exc())
        words = (str(error).strip().splitlines() or ["no message"])[0]
        return _ended(out, "failed", f"{type(error).__name__}: {words} (traceback in {out / 'error.txt'})")
    return DONE


def _ended(out: Path, state: str, why: str) -> int:
    print(f"unclip run: {why}", file=sys.stderr)
    with suppress(OSError):  # on a full disk it is taken for interrupted, which it is
        Run(out).mark(state, error=why if state == "failed" else None)
    return FAILED


def _deliver(out: Path) -> None:
    record = json.loads((out / "request.json").read_text(encoding="utf-8"))
    sampling, evaluating = _sampling(record), record["evaluate"]
    trained = load({**sampling, "run": str(out)})
    prompts = sampling["prompts"] or trained.prompts(samples.PROMPTS)
    drawn = samples.draw(trained, prompts, sampling["per_prompt"], sampling["seed"])
    samples.write(drawn, trained, sampling["seed"], out)
    if sampling["denoising"]:
        samples.write_denoising(
            trained, prompts[: sampling["denoising"]], sampling["seed"], out / "denoising.png"
        )
    same = all(sampling.get(k) == evaluating.get(k) for k in DECIDING)
    judged = trained if same else load({**evaluating, "run": str(out)})
    measured = metrics.measure(judged, evaluating, drawn if same else None)
    write_json(out / "metrics.json", measured)
    _page(out, record, trained, measured)
    write_json(out / "pipeline.json", record)
    (out / "request.json").unlink()


def _sampling(record: dict[str, Any]) -> dict[str, Any]:
    """The settings of the pictures: the request's own, else those of the evaluation."""
    sampling, evaluating = record["sample"], record["evaluate"]
    return {**sampling, **{k: evaluating.get(k) for k in DECIDING if sampling.get(k) is None}}


def _page(out: Path, record: dict[str, Any], trained: Trained, measured: dict[str, Any]) -> None:
    denoising = out / "denoising.png"
    made = provenance()
    experiment = record["experiment"]
    page.write(
        out / "report.html",
        "results.html",
        title=f"unclip: {experiment}",
        subtitle=f"{_stages(trained)} on {type(trained.data).__name__}; seed {measured['seed']}",
        grid=out / "grid.png",
        denoising=denoising if denoising.is_file() else None,
        copied=copies.pictures(trained.copiers, measured, measured["seed"]),
        cascade=bool(trained.model.upsamplers),
        numbers=table.rows(measured),
        per_caption=measured.get("prompt_consistency", {}).get("per_caption", {}),
        losses=curves.losses({stage: run.folder / "metrics.csv" for stage, run in trained.runs.items()}),
        runs=[_row(stage, run) for stage, run in trained.runs.items()],
        commands=next_commands(out, experiment),
        provenance=", ".join(f"{name} {version}" for name, version in made["versions"].items())
        + time.strftime("; %Y-%m-%d"),
    )


def _stages(trained: Trained) -> str:
    """`CLIP, prior and decoder`."""
    *others, last = ("CLIP" if stage == "clip" else stage for stage in trained.runs)
    return f"{', '.join(others)} and {last}" if others else last


def _row(stage: str, run: Run) -> dict[str, str]:
    status = run.status
    minutes, seconds = divmod(round(status.get("seconds", 0)), 60)
    return {
        "stage": stage,
        "folder": str(run.folder),
        "parameters": f"{status.get('parameters', 0) / 1e6:.2f}M",
        "steps": str(status.get("step", "")),
        "time": f"{minutes} min {seconds:02} s",
        "metrics": ", ".join(f"{k} {v:.4g}" for k, v in sorted(status.get("metrics", {}).items())),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
