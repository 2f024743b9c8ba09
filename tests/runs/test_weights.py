"""Final weights are whole or not there, and damaged ones are named by whoever reads them."""

from __future__ import annotations

import random
import resource
import signal
from pathlib import Path

import pytest
import torch
from tests.killed_at import every_change

from unclip import build
from unclip.data.cache import DamagedFile, load_tensors, save_tensors
from unclip.runs.store import Run

TENSORS = {"a": torch.arange(500.0), "b": torch.ones(3, 4, dtype=torch.int64)}
WORDS = {"stage": "clip", "config": '{"seed": 0}', "tokenizer": "abc"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run, as far as its weights go."""
    found = Run(tmp_path)
    found.mark("finished", command="unclip train stage=clip")
    save_tensors(found.weights, TENSORS, WORDS)
    return found


def test_what_was_written_is_read_with_what_is_said_beside_it(run: Run) -> None:
    tensors, words = build.weights(run)
    assert all(torch.equal(tensors[name], x) for name, x in TENSORS.items())
    assert words == WORDS


def test_a_flipped_bit_in_tensors_or_words_is_named_with_what_to_do(run: Run) -> None:
    whole, chance = run.weights.read_bytes(), random.Random(0)
    words = whole.index(b"abc")
    said = []
    bits = [8 * len(whole) - 1, 8 * words + 1, *(chance.randrange(64, 8 * len(whole)) for _ in range(200))]
    for bit in bits:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        run.weights.write_bytes(content)
        try:
            tensors, found = build.weights(run)
        except DamagedFile as error:
            said.append(str(error))
        else:  # in the name of the hash, or in the blanks after the header
            assert all(torch.equal(tensors[name], x) for name, x in TENSORS.items())
            assert found.items() >= WORDS.items()
    assert len(said) > 180
    assert all(line.startswith(f"{run.weights} ") and "\n" not in line for line in said)
    assert all(line.endswith("remove it, and train it again by unclip train stage=clip") for line in said)


def test_a_truncated_file_is_named(run: Run) -> None:
    whole = run.weights.read_bytes()
    for length in (0, 7, 200, len(whole) - 1):
        run.weights.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match="is not a whole safetensors file"):
            build.weights(run)


def test_killed_at_each_change_of_files_they_are_the_old_or_the_new_ones(run: Run) -> None:
    seen = set()
    for _ in every_change(lambda: save_tensors(run.weights, {"a": torch.zeros(500)}, {})):
        seen.add(float(load_tensors(run.weights)[0]["a"][-1]))
        save_tensors(run.weights, TENSORS, WORDS)
    assert seen == {499.0, 0.0}
    leftovers = list(run.folder.glob(".weights.*"))
    assert leftovers, "what a killed process was writing"
    run.drop_unfinished()
    assert not list(run.folder.glob(".weights.*"))
    assert run.weights.is_file()


def test_a_full_disk_is_named_and_leaves_the_old_ones(run: Run) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*weights\.safetensors'"):
            save_tensors(run.weights, {"a": torch.zeros(5000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert load_tensors(run.weights)[1] == WORDS
    assert sorted(p.name for p in run.folder.iterdir()) == ["status.json", "weights.safetensors"]
