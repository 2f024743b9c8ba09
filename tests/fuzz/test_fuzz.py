"""Random mutations of requests and of every kind of file that is read: each ends well or in one clear message.

A slice of them here; `make fuzz` takes ten thousand, `make fuzz CASES=100000` more, and `make fuzz CASES=train:17` that
one again: a case is decided by its name.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.fuzz import files, requests

from unclip.config.compose import many

SLICE = 80  # cases in the ordinary suite
CHUNK = 25  # cases of one target in a test
Target = Callable[[random.Random, Path], str | None]

TARGETS: dict[str, tuple[Target, int]] = {  # by name what carries out a case, and its share of a thousand
    **{
        verb: (
            lambda rng, folder, verb=verb: requests.one(rng, verb, folder),
            5 * requests.SHARES.get(verb, 2),
        )  # type: ignore[misc]
        for verb in requests.VALID
    },
    "own files": (requests.own_files, 60),
    **{name: (target, 50) for name, target in files.TARGETS.items()},
}


def _chunks() -> Iterator[tuple[str, range]]:
    asked = os.environ.get("CASES", str(SLICE))
    if not asked.isdecimal():
        name, _, number = asked.rpartition(":")
        yield name, range(int(number), int(number) + 1)
        return
    whole = sum(share for _, share in TARGETS.values())
    for name, (_, share) in TARGETS.items():
        count = max(int(asked) * share // whole, 1)
        for first in range(0, count, CHUNK):
            yield name, range(first, min(first + CHUNK, count))


@pytest.mark.parametrize(
    ("name", "numbers"), list(_chunks()), ids=lambda x: f"{x[0]}-" if isinstance(x, range) else x
)
def test_every_case_ends_well_or_in_one_clear_message(
    name: str, numbers: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target, _ = TARGETS[name]
    wrong = []
    with ExitStack() as kept:
        if name in requests.COMPOSED:
            kept.enter_context(many(requests.COMPOSED[name]))
        for number in numbers:
            folder = tmp_path / str(number)
            folder.mkdir()
            if why := target(random.Random(f"{name}:{number}"), folder):
                wrong.append(f"{name}:{number} (make fuzz CASES='{name}:{number}')\n{why}")
    assert not wrong, "\n\n".join(wrong)
