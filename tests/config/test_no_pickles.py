"""Nothing that is read runs anything.

Named exceptions, none of which reads what others wrote: the jobs that submitit and joblib hand to one's own processes,
what ranks tell one another, torch.compile's cache, and the state of CMA-ES in a search's own journal, which optuna
keeps as a pickle: a stranger's journal is not to be gone on with by suggest=cmaes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import unclip
from unclip.evaluate.image_sets import load_images
from unclip.evaluate.pretrained import DinoV2, WeightsUnavailable

SOURCES = sorted(Path(unclip.__file__).parent.rglob("*.py"))
READERS = ("pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "pandas")


def calls(path: Path) -> Iterator[tuple[str, dict[str, object], int]]:
    """Each call's dotted name, its constant keywords and its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            words = {k.arg: getattr(k.value, "value", ...) for k in node.keywords if k.arg}
            yield ast.unparse(node.func), words, node.lineno


def test_no_source_loads_a_pickle() -> None:
    wrong = []
    for path in SOURCES:
        for name, words, line in calls(path):
            first, _, last = name.partition(".")
            loads = first in READERS and last in ("load", "loads", "read_pickle", "Unpickler", "open")
            unsafe = name == "torch.load" and words.get("weights_only") not in (True, ...)
            unsafe |= name == "torch.load" and "weights_only" not in words
            unsafe |= name in ("np.load", "numpy.load") and words.get("allow_pickle") is not False
            unsafe |= (
                name.endswith("get_state_dict") and first.startswith("VGG") and "weights_only" not in words
            )
            unsafe |= name == "trainer.fit" and "ckpt_path" in words and words.get("weights_only") is not True
            unsafe |= name in ("yaml.load_all", "yaml.unsafe_load", "yaml.full_load")
            if loads or unsafe:
                wrong.append(f"{path}:{line}: {name}")
    assert not wrong


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.proof,)


def test_malicious_weights_and_pictures_are_refused_and_run_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    torch.save({"cls_token": Malicious(proof)}, tmp_path / "dinov2.pth")
    with pytest.raises(WeightsUnavailable, match="not a whole file of weights"):
        DinoV2(str(tmp_path / "dinov2.pth"))
    np.savez(tmp_path / "pictures.npz", np.array([Malicious(proof)], dtype=object))
    with pytest.raises(ValueError):
        load_images(tmp_path / "pictures.npz")
    assert not proof.exists()
    torch.load(tmp_path / "dinov2.pth", weights_only=False)
    assert proof.exists(), "loaded without care it would have run"
