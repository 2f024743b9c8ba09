"""Every kind of file that is read, damaged at random, and the commands and functions that read it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from tests.fuzz import mutations
from tests.fuzz.verdict import call, command
from tests.report.left_by_runs import sweep_of_runs

import unclip.data.image_folder
import unclip.evaluate.image_sets
import unclip.evaluate.pretrained  # noqa: F401
from unclip import build  # noqa: F401
from unclip.config.compose import compose

Damage = Callable[[random.Random, Path], None]


def _bytes(rng: random.Random, path: Path) -> None:
    """Its bytes, or what stands in its place."""
    if rng.random() < 0.15:
        mutations.place(rng, path)
    else:
        path.write_bytes(mutations.content(rng, path.read_bytes()))


def _json(rng: random.Random, path: Path) -> None:
    """Half of the time its structure, the syntax as it was."""
    if rng.random() < 0.6:
        path.write_text(json.dumps(mutations.tree(rng, json.loads(path.read_text()))))
    else:
        _bytes(rng, path)


def _yaml(rng: random.Random, path: Path) -> None:
    if rng.random() < 0.6:
        path.write_text(yaml.safe_dump(mutations.tree(rng, yaml.safe_load(path.read_text()))))
    else:
        _bytes(rng, path)


# ---- what runs leave ---------------------------------------------------------------------------------------------


@cache
def _config(stage: str) -> str:
    config = compose(
        "train", [f"stage={stage}", *(["clip=random"] if stage != "clip" else []), "logger=none"]
    ).config
    return yaml.safe_dump({**config, "experiment": "demo"}, sort_keys=False)


def _left(folder: Path) -> Path:
    """A sweep's record, results folders, and runs with whole configurations."""
    os.chdir(folder)
    record = sweep_of_runs(Path("outputs"), {"a": [1.0, 2.0], "b": [3.0]}, claims=[{"metric": "fd", "claim": "a < b"}],
                           published=[{"metric": "FID", "on": "x", "grade": "S", "values": {"a": 1.0}}])  # fmt: skip
    for run in sorted(Path("outputs/demo").iterdir()):
        if run.name.startswith(("decoder", "clip")):
            stage = "clip" if run.name == "clip" else "decoder"
            (run / "config.yaml").write_text(_config(stage))
    return record


READERS = (
    "runs", "runs --json sort=step", "runs where=seed=0", "runs compare outputs/demo/decoder00 outputs/demo/decoder01",
    "runs clean", "report outputs/sweeps/sweep.json format=md,csv,tex", "report outputs/demo format=csv",
    "report outputs/demo/decoder00 outputs/demo/decoder10 format=md", "sample run=outputs/demo/run-00",
    "sample run=outputs/demo/decoder00 prior=none", "evaluate run=outputs/demo/run-00 n=2", "ablate --list",
    "manipulate variations run=outputs/demo/run-00", "train stage=prior clip=outputs/demo/clip dry_run=true",
    "report outputs/demo/run-00 format=html",
)  # fmt: skip


def _of_runs(pattern: str, damage: Damage) -> Callable[[random.Random, Path], str | None]:
    def one(rng: random.Random, folder: Path) -> str | None:
        _left(folder)
        path = rng.choice(sorted(Path("outputs").glob(pattern)))
        damage(rng, path)
        return command(rng.choice(READERS).split())

    return one


# ---- data --------------------------------------------------------------------------------------------------------


def idx(rng: random.Random, folder: Path) -> str | None:
    """Half of the time the content inside a whole gzip."""
    from unclip.data.idx import IdxFile

    content = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (5, 4, 4)) + bytes(range(80))
    path = folder / "images.gz"
    inside = rng.random() < 0.5
    path.write_bytes(gzip.compress(mutations.content(rng, content) if inside else content))
    if not inside:
        _bytes(rng, path)
    return call(lambda: IdxFile((5, 4, 4), hashlib.sha256(content).hexdigest()).read(path))


def _pictures(folder: Path, count: int = 3) -> list[Path]:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, suffix in enumerate(("png", "jpg", "png")[:count]):
        Image.new("RGB", (12, 12), (10 * i, 5, 200)).save(folder / f"{i}.{suffix}")
    return sorted(folder.glob("*.[pj][np]g"))


def image_set(rng: random.Random, folder: Path) -> str | None:
    """A folder of pictures, as `evaluate images=` reads it."""
    from unclip.evaluate.image_sets import load_images

    _bytes(rng, rng.choice(_pictures(folder / "set")))
    return call(_told(lambda: load_images(folder / "set", skip_corrupt=rng.random() < 0.3)))


def npz(rng: random.Random, folder: Path) -> str | None:
    """Whole archives of other arrays, or a damaged one."""
    import numpy as np

    from unclip.evaluate.image_sets import load_images

    path = folder / "set.npz"
    shape = rng.choice(((4, 8, 8, 3), (4, 3, 8, 8), (4, 8, 8), (0, 8, 8, 3), (4,), (), (2, 3, 4, 5)))
    kind = rng.choice((np.uint8, np.uint8, np.float32, np.int64, "U3", object, np.complex64))
    np.savez(path, **{rng.choice(("images", "arr_0", "x")): np.zeros(shape, kind)})
    if rng.random() < 0.6:
        _bytes(rng, path)
    return call(_told(lambda: load_images(path)))


def captions(rng: random.Random, folder: Path) -> str | None:
    """Of an image folder: a .txt, .json, .jsonl or .csv with its captions, or a picture."""
    from unclip.data.image_folder import ImageFolder

    pictures = _pictures(folder / "set")
    rows = [{"file_name": path.name, "caption": f"picture {i}"} for i, path in enumerate(pictures)]
    kind = rng.choice((".txt", ".json", ".jsonl", ".csv", "picture"))
    path = folder / "set" / f"captions{kind}"
    if kind == ".txt":
        for picture in pictures:
            picture.with_suffix(".txt").write_text("a picture")
        path = pictures[0].with_suffix(".txt")
    elif kind == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, ["file_name", "caption"])
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue())
    elif kind == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path = pictures[0] if kind == "picture" else path
        if kind == ".json":
            path.write_text(json.dumps(rows))
    (_json if kind == ".json" else _bytes)(rng, path)
    made = ImageFolder(str(folder / "kept"), str(folder / "set"), image_size=8, skip_bad=rng.random() < 0.5)
    return call(made.prepare_data)


def tensors(rng: random.Random, folder: Path) -> str | None:
    """A cache of embeddings or statistics."""

    from unclip.data.cache import load_tensors, save_tensors

    path = folder / "kept.safetensors"
    save_tensors(path, {"features": torch.arange(40.0).view(8, 5)}, {"identity": "{}"})
    _bytes(rng, path)
    return call(lambda: load_tensors(path))


def tokenizer(rng: random.Random, folder: Path) -> str | None:
    """What a BPE tokenizer saved of itself."""
    from unclip.data.bpe import BpeTokenizer

    saved = _saved_tokenizer()
    if rng.random() < 0.6:
        changed = json.dumps(mutations.tree(rng, json.loads(saved)))
    else:
        changed = mutations.content(rng, saved.encode()).decode(errors="replace")
    return call(lambda: BpeTokenizer(saved=changed).encode(["an image of a bag"]))


@cache
def _saved_tokenizer() -> str:
    from unclip.data.bpe import BpeTokenizer

    return BpeTokenizer(captions=["an image of a bag", "an image of a coat"], vocabulary=270).saved


def weights(rng: random.Random, folder: Path) -> str | None:
    """Published weights, as extractors read them: nothing but tensors."""

    from unclip.evaluate.pretrained import DinoV2

    path = folder / "weights.pth"
    torch.save({"a": torch.zeros(3), "b": torch.ones(2, 2)}, path)
    _bytes(rng, path)
    return call(lambda: DinoV2(str(path)))


def _told(read: Callable[[], Any]) -> Callable[[], Any]:
    """Of a set of images: the caller puts its key before the message, and makes it a wrong request."""
    from unclip.config.problems import Problem, Problems
    from unclip.evaluate.image_sets import ImageSetError

    def told() -> Any:
        try:
            return read()
        except ImageSetError as error:
            raise Problems([Problem("images", "here", str(error))]) from None

    return told


TARGETS: dict[str, Callable[[random.Random, Path], str | None]] = {
    "status.json": _of_runs("demo/*/status.json", _json),
    "config.yaml": _of_runs("demo/*/config.yaml", _yaml),
    "metrics.json": _of_runs("demo/*/metrics.json", _json),
    "metrics.csv": _of_runs("demo/*/metrics.csv", _bytes),
    "pipeline.json": _of_runs("demo/*/pipeline.json", _json),
    "sweep record": _of_runs("sweeps/*.json", _json),
    "samples.jsonl": _of_runs("demo/*/samples.jsonl", _bytes),
    "idx": idx,
    "image set": image_set,
    "npz": npz,
    "captions": captions,
    "safetensors": tensors,
    "tokenizer.json": tokenizer,
    "weights.pth": weights,
}
