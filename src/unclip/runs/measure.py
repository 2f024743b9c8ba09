"""The final metrics that a finished run is asked for and lacks: measured on its stored weights, nothing is trained.

`python -m unclip.runs.measure FOLDER`: what is asked is in FOLDER/measure.yaml, a run's configuration with other
callbacks.fid or extractor; it becomes the run's config.yaml once its metrics are there.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from unclip.cli import DONE, FAILED, WRONG_REQUEST
from unclip.config.problems import Problems
from unclip.files import write_text
from unclip.runs.process import refused, stop_at_once_when_asked
from unclip.runs.store import Busy, Run

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

REQUEST = "measure.yaml"


def lacks(run: Run, config: dict[str, Any]) -> bool:
    """Whether this configuration asks for final metrics that its finished run does not have."""
    asked, had = ((c.get("callbacks") or {}).get("fid") or {} for c in (config, run.config))
    if not asked.get("n_final") or not config.get("extractor"):
        return False
    if config["extractor"] != run.config.get("extractor"):
        return True
    kinds = [kind for kind in ("kid", "consistency") if asked.get(kind)]
    if asked["n_final"] == had.get("n_final"):
        return any(not had.get(kind) for kind in kinds)
    metrics = run.status.get("metrics") or {}
    return any(f"val/{kind}_n{asked['n_final']}" not in metrics for kind in ("fd", *kinds))


def ask(run: Run, config: dict[str, Any]) -> None:
    """Leave the request in the run's folder."""
    write_text(run.folder / REQUEST, yaml.safe_dump(config, sort_keys=False))


def main(folder: str) -> int:
    """Measure, and put the metrics beside those of the training. Where another process holds the lock, a child of a
    sweep waits for it; a command that was typed is refused."""
    stop_at_once_when_asked()
    waited, text = False, None
    while True:
        try:
            # read once: while this one waits, another may ask for other metrics
            text = text or (Path(folder) / REQUEST).read_text(encoding="utf-8")
            return _measure(Run(Path(folder)), text, waited)
        except (ValueError, OSError, Problems) as error:  # the run stays as it was
            print(f"unclip train: {error}\nrun: {folder}", file=sys.stderr)
            return FAILED
        except Busy as busy:
            if refused(busy):
                return WRONG_REQUEST
        waited = True


def _measure(run: Run, text: str, waited: bool) -> int:
    config = yaml.safe_load(text)
    with run.lock():
        if waited and not lacks(run, config):
            print(f"measured by another process meanwhile\nrun: {run.folder}", flush=True)
            return DONE
        found, step = measured(run, config), run.status.get("step", 0)
        _append(run.folder / "metrics.csv", {"step": step, **found})
        run.mark("finished", metrics={**(run.status.get("metrics") or {}), **found})
        write_text(run.folder / "config.yaml", text)
        (run.folder / REQUEST).unlink(missing_ok=True)
    print(f"measured: {', '.join(f'{k} {v:.4g}' for k, v in sorted(found.items()))}\nrun: {run.folder}")
    return DONE


def measured(run: Run, config: dict[str, Any]) -> dict[str, float]:
    """The metrics of callbacks.fid at the end of training, from the weights that the run ended with."""
    from unclip import build
    from unclip.callbacks.fid import FID
    from unclip.runs.job import trainer_of

    alone = {**config["trainer"], "devices": 1, "num_nodes": 1, "strategy": "auto"}
    watched = {"fid": config["callbacks"]["fid"]}
    config = {**config, "trainer": alone, "callbacks": watched, "logger": None}
    source = build.data(config)
    module = build.stage(config, source)
    module.net.load_state_dict(build.weights(run)[0])
    trainer: Trainer = trainer_of(config, run, module, source)
    fid = next(c for c in trainer.callbacks if isinstance(c, FID))  # type: ignore[attr-defined]
    module.to(trainer.strategy.root_device).eval()
    module.on_fit_start()
    fid.on_fit_start(trainer, module)
    return fid.measure(trainer, module, fid.n_final)


def _append(path: Path, row: dict[str, Any]) -> None:
    rows: list[dict[str, Any]] = []
    if path.is_file():
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    names = list(dict.fromkeys(name for one in [*rows[:1], row] for name in one))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, row])
    write_text(path, text.getvalue())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
