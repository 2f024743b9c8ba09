"""A checkpoint is whole at every moment; one that is not is known for what it is, and nothing in it is executed."""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.killed_at import every_change

from unclip.callbacks.checkpoint import Checkpoint, OneFile, damage
from unclip.files import write_json
from unclip.runs.store import Run


def state(step: int) -> dict[str, Any]:
    """What a training would save, as small as it may be."""
    weights = torch.full((1000,), float(step))
    return {
        "state_dict": {"net": weights},
        "optimizer_states": [],
        "loops": {},
        "callbacks": {},
        "step": step,
    }


def saver(step: int, path: Path) -> Any:
    """As much of a trainer as saving needs."""
    return SimpleNamespace(
        global_step=step,
        is_global_zero=True,
        save_checkpoint=lambda path: OneFile().save_checkpoint(state(step), path),
    )


def saved(step: int, path: Path) -> None:
    Checkpoint(1, str(path)).save(saver(step, path))


def gone_on_from(run: Run) -> int:
    """The step of what a training would go on from; 0 without."""
    whole = (path for path in run.checkpoints if damage(path) is None)
    return next((torch.load(path, weights_only=True)["step"] for path in whole), 0)


def test_killed_at_each_change_of_files_the_last_state_or_the_one_before_is_whole(tmp_path: Path) -> None:
    run, seen = Run(tmp_path), []
    for before in range(3):
        files = {path: path.read_bytes() for path in run.checkpoints}
        for number in every_change(lambda step=before + 1: saved(step, run.checkpoint)):
            assert gone_on_from(run) in (before, before + 1), f"killed at change {number}"
            seen.append(gone_on_from(run) - before)
            for path in {*tmp_path.iterdir()} - {*files}:
                path.unlink()
            for path, content in files.items():
                path.write_bytes(content)
        assert gone_on_from(run) == before + 1
    assert {0, 1} == set(seen), "before the new one has its name, and after"
    assert len(seen) > 3 * 5


def test_the_one_before_is_kept_and_all_go_when_a_run_is_finished(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (1, 2, 3):
        saved(step, run.checkpoint)
    steps = [torch.load(path, weights_only=True)["step"] for path in run.checkpoints]
    assert steps == [3, 2]
    (tmp_path / ".checkpoint.ckpt.new").write_bytes(b"half of one")
    (tmp_path / "metrics.csv").touch()
    run.drop_checkpoints()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_flipped_bit_anywhere_is_noticed_unless_it_changes_nothing(tmp_path: Path) -> None:
    path, chance = tmp_path / "checkpoint.ckpt", random.Random(0)
    saved(7, path)
    whole = path.read_bytes()
    tensor = whole.index(torch.full((1000,), 7.0).numpy().tobytes())
    bits = [8 * tensor + 8 * 4000 - 1, *(chance.randrange(8 * len(whole)) for _ in range(400))]
    noticed = 0
    for bit in bits:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        if damage(path) is None:
            found = torch.load(path, weights_only=True)
            assert found["step"] == 7
            assert torch.equal(found["state_dict"]["net"], state(7)["state_dict"]["net"])
        else:
            noticed += 1
    assert noticed > 0.9 * len(bits) * 4000 / len(whole)


def test_a_truncated_one_is_noticed_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.ckpt"
    saved(7, path)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "is not whole" in str(damage(path))
    path.write_bytes(whole)
    assert damage(path) is None
    path.unlink()
    assert "cannot be read" in str(damage(path))


class Malicious:
    """What a pickle does that is loaded without care."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_checkpoint_is_refused_and_nothing_in_it_runs(tmp_path: Path, legacy: bool) -> None:
    path, proof = tmp_path / "checkpoint.ckpt", tmp_path / "executed"
    content = {**state(7), "callbacks": {"EMA": Malicious(proof)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert damage(path) is not None
    if not legacy:
        assert damage(path) == "holds more than tensors and plain values, and is not loaded"
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "loaded without care it would have run"


def test_what_is_no_state_of_a_training_is_not_gone_on_with(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "checkpoint.ckpt")
    assert damage(tmp_path / "checkpoint.ckpt") == "is no state of a training"


def test_a_full_disk_is_named_and_leaves_the_checkpoint_that_was_there(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "checkpoint.ckpt"
    saved(1, path)

    def full(_: Any, temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    trainer = saver(2, path)
    trainer.save_checkpoint = lambda temporary: full(trainer, temporary)
    with pytest.raises(OSError, match=r"No space left on device: '.*/checkpoint\.ckpt'"):
        Checkpoint(1, str(path)).save(trainer)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.ckpt"]
    assert damage(path) is None


def test_status_is_the_old_or_the_new_one_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"state": "running", "step": 1})
    run, seen = Run(tmp_path), set()
    for _ in every_change(lambda: write_json(path, {"state": "finished", "step": 2})):
        seen.add((run.status["state"], run.status["step"]))
        write_json(path, {"state": "running", "step": 1})
    assert seen == {("running", 1), ("finished", 2)}
