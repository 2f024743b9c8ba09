"""What a training says where output is no terminal."""

from __future__ import annotations

import pytest

from unclip import progress


def test_a_line_now_and_then_with_the_time_to_go_at_the_latest_pace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Ten steps in 30 s; then the machine sleeps for an hour; then ten steps in 30 s again."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.Bar("training", 40) as bar:
        for done, clock[0] in ((5, 15.0), (10, 30.0), (11, 3630.0), (21, 3660.0), (40, 3661.0)):
            bar.update(done, "a note")
    assert capsys.readouterr().out.splitlines() == [
        "  training: 10/40  a note  30 s, ETA 90 s",
        "  training: 11/40  a note  3630 s, ETA 104400 s",
        "  training: 21/40  a note  3660 s, ETA 57 s",
        "  training: 40/40  a note  3661 s, ETA 0 s",
    ]
