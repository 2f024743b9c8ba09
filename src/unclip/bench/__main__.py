"""The process that measures: `python -m unclip.bench NAME REQUEST RESULT`, both files JSON. What is asked for and
shown is runs/bench.py's."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from unclip.cli import DONE, FAILED


def main(name: str, request: str, result: str) -> int:
    """Measure what the file asks for."""
    from unclip.data.places import DataUnavailable
    from unclip.runs.job import quieten
    from unclip.runs.process import stop_at_once_when_asked

    quieten()
    stop_at_once_when_asked("interrupted: nothing was written")
    try:
        measured = import_module(f"unclip.bench.{name}").measure(json.loads(Path(request).read_text()))
    except (DataUnavailable, ValueError) as error:
        print(f"unclip bench: {error}", file=sys.stderr)
        return FAILED
    Path(result).write_text(json.dumps(measured))
    return DONE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
