"""The pictures of a whole run are those that its numbers are about, unless it is asked for others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from unclip.evaluate.image_sets import load_images
from unclip.report import samples
from unclip.report.deliver import DECIDING, _sampling
from unclip.sampling import Sampler

UNSET = dict.fromkeys(DECIDING)


def test_pictures_are_sampled_as_what_is_measured_unless_asked_otherwise() -> None:
    measured = {**UNSET, "seed": 0, "guidance": 3.0, "steps": 7, "prior": "none"}
    found = _sampling({"sample": {**UNSET, "seed": 0, "per_prompt": 8}, "evaluate": measured})
    assert found == {**measured, "per_prompt": 8}
    found = _sampling({"sample": {**UNSET, "seed": 1, "guidance": 1.0}, "evaluate": measured})
    assert found == {**measured, "seed": 1, "guidance": 1.0}


def test_a_folder_of_samples_holds_those_of_the_last_request_alone(tmp_path: Path) -> None:
    model = SimpleNamespace(sampler=Sampler(len, steps=1), upsamplers=[])
    trained: Any = SimpleNamespace(model=model, runs={})
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "notes.txt").touch()
    for per_prompt in (5, 2):
        images = torch.randint(0, 256, (2 * per_prompt, 1, 8, 8), dtype=torch.uint8)
        samples.write(samples.Samples(images, ("a", "b"), per_prompt), trained, 0, tmp_path)
        assert torch.equal(load_images(tmp_path / "samples"), images)
        assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 2 * per_prompt
    assert (tmp_path / "samples" / "notes.txt").is_file()
