"""The pictures of a whole run are those that its numbers are about, unless it is asked for others."""

from __future__ import annotations

from unclip.report.deliver import DECIDING, _sampling

UNSET = dict.fromkeys(DECIDING)


def test_pictures_are_sampled_as_what_is_measured_unless_asked_otherwise() -> None:
    measured = {**UNSET, "seed": 0, "guidance": 3.0, "steps": 7, "prior": "none"}
    found = _sampling({"sample": {**UNSET, "seed": 0, "per_prompt": 8}, "evaluate": measured})
    assert found == {**measured, "per_prompt": 8}
    found = _sampling({"sample": {**UNSET, "seed": 1, "guidance": 1.0}, "evaluate": measured})
    assert found == {**measured, "seed": 1, "guidance": 1.0}
