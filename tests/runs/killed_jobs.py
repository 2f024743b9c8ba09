"""Trainings disturbed at random moments and gone on with, as forks of one process: a fork costs nothing where an
interpreter with torch costs seconds. Not a test itself.

python -m tests.runs.killed_jobs '{"overrides": [...], "times": 50, "seed": 0, "by": "KILL"}' prints as JSON
what became of it. The working directory is an empty one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from unclip import build
from unclip.config.compose import compose
from unclip.runs import export, job, train
from unclip.runs.store import Run
from unclip.runs.upstream import resolve

PATIENCE = 60  # seconds: what takes longer hangs
MOST_ATTEMPTS = 20  # for each disturbance
DATA = ["data=synthetic", "data.size=64", "data.image_size=16", "data.batch_size=16", "logger=csv"]
EVERY_STAGE = {
    "clip": ["stage=clip", "model.width=32", "model.image_layers=1", "model.text_layers=1"],
    "prior": ["stage=prior", "clip=random", "model.width=32", "model.layers=1", "times=importance"],
    "autoregressive prior": ["stage=prior", "prior=autoregressive", "clip=random", "model.width=32"],
    "decoder": [
        *["stage=decoder", "clip=random", "model.channels=8", "model.cond_width=16", "model.blocks=1"],
        *["model.dropout=0.1", "sampler.steps=3", "extractor=random", "callbacks.fid.n_final=8"],
    ],
    "upsampler": [
        "stage=upsampler",
        "model.channels=8",
        "model.blocks=1",
        "model.cond_width=16",
        "stage.crop=0.5",
    ],
    "autoencoder": [
        *["stage=autoencoder", "model.channels=8", "model.unshuffle=2", "discriminator=patch"],
        *["discriminator.channels=8", "discriminator.layers=1", "stage.discriminator_start=5"],
    ],
    "classifier": ["stage=classifier", "model.widths=[8,16]", "data.flip=0.5"],
}


@dataclass
class Attempts:
    """What was tried on one run."""

    config: dict[str, Any]
    run: Run
    ended: Counter[str] = field(
        default_factory=Counter
    )  # exit statuses and states of those that were disturbed
    resumed: int = 0
    longest: float = 0.0  # seconds from a disturbance to the end of all processes

    def start(self) -> int:
        """`unclip train`, as a fork; its number."""
        child = os.fork()
        if child:
            return child
        try:
            with open("log.txt", "ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            status = train.start(self.run, self.config, "unclip train")
            sys.stdout.flush()
            os._exit(status)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(99)

    def to_its_end(self) -> float:
        """Undisturbed; the seconds that it took."""
        began = time.monotonic()
        status = self._waited_for(self.start())
        assert status == 0, (status, Path("log.txt").read_text()[-3000:])
        assert self.run.state == "finished"
        assert not list(self.run.folder.glob("*checkpoint*")), "what served to go on is gone"
        return time.monotonic() - began

    def disturbed(self, after: float, number: signal.Signals) -> bool:
        """Whether the signal came before the end."""
        child = self.start()
        time.sleep(after)
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        self.resumed += bool(self.run.checkpoints)
        os.kill(child, number)
        began = time.monotonic()
        status = self._waited_for(child)
        self.longest = max(self.longest, time.monotonic() - began)
        self.ended[f"{status} {self.run.state}"] += 1
        return True

    def _waited_for(self, child: int) -> int:
        end = time.monotonic() + PATIENCE
        while True:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                raise TimeoutError(f"hangs: {Path('log.txt').read_text()[-3000:]}")
            time.sleep(0.005)

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        metrics = self.run.status["metrics"]
        return load_file(self.run.weights), metrics


def same(a: Any, b: Any) -> bool:
    """The same weights, bit for bit, and the same final metrics."""
    weights, others = a[0], b[0]
    equal = weights.keys() == others.keys() and all(
        torch.equal(x, others[name]) for name, x in weights.items()
    )
    return bool(equal and a[1] == b[1])


def disturb(overrides: list[str], times: int, seed: int, by: str) -> dict[str, Any]:
    """Start, disturb at a random moment, start again, ...; whenever it is finished all the same, compare and begin
    another one."""
    composed = compose("train", overrides)
    config, _ = resolve(composed)
    attempts = Attempts(config, Run.of(config, composed.experiment))
    _prepared(config)
    attempts.to_its_end()  # whatever is cached is cached now
    shutil.rmtree(attempts.run.folder)
    whole = attempts.to_its_end()
    expected, chance, done, finished = attempts.result(), random.Random(seed), 0, 0

    def compared() -> None:
        nonlocal finished
        assert same(attempts.result(), expected), f"another result after {done} disturbances"
        finished += 1
        shutil.rmtree(attempts.run.folder)

    shutil.rmtree(attempts.run.folder)
    for _ in range(MOST_ATTEMPTS * times):
        number = getattr(signal, f"SIG{chance.choice(by.split())}")
        done += attempts.disturbed(chance.uniform(0, whole), number)
        if attempts.run.state == "finished":
            compared()
        if done == times:
            break
    if attempts.run.state != "finished":
        attempts.to_its_end()
    compared()
    return {
        "disturbed": done,
        "finished": finished,
        "ended": dict(attempts.ended),
        "with_checkpoint": attempts.resumed,
        "longest": attempts.longest,
        "whole": whole,
    }


def _prepared(config: dict[str, Any]) -> None:
    """Import here what every child would import."""
    from lightning.pytorch import Trainer  # noqa: F401
    from lightning.pytorch.loggers import CSVLogger  # noqa: F401

    from unclip.callbacks import checkpoint, ema, fid, progress, samples  # noqa: F401

    assert export
    build.stage(config, build.data(config))


def _in_this_process(module: str, folder: str) -> None:
    assert module == "unclip.runs.job"
    status = job.main(folder)
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train.process.become = _in_this_process  # type: ignore[assignment]
    print(json.dumps(disturb(**json.loads(sys.argv[1]))))
