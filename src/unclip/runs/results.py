"""The results folder of a whole run: what identifies it, and what state it is in. Imports no torch.

<outputs>/<experiment>/run-<signature>/ holds status.json, request.json while it is made, and pipeline.json, the same,
once samples, metrics and report are there. What is in the record is planned in whole.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unclip.config import schema, targets
from unclip.reading import DamagedFile, read_json
from unclip.runs import shapes
from unclip.runs.evaluate import WHERE
from unclip.runs.signature import LENGTH, without_defaults
from unclip.runs.store import RECORD, Run, State

SCHEMAS = {"sample": schema.Generate, "evaluate": schema.Evaluate}
NOT_THE_RESULT = (*WHERE, "run")


@dataclass(frozen=True)
class Results(Run):
    """A results folder, asked for what `request` is the digest of: another request may have filled it."""

    request: str

    @property
    def signature(self) -> str:
        return self.request

    @property
    def product(self) -> Path:
        return self.folder / RECORD

    @property
    def state_unlocked(self) -> State:
        """As of a training run; new where the folder holds another request's."""
        status = self.status
        if delivered(self.folder) == self.request:
            return "finished"
        if status.get("signature") != self.request:
            return "new"
        return "failed" if status.get("state") == "failed" else "interrupted"

    @property
    def anothers(self) -> str | None:
        """The command that made what the folder holds, where that is whole and of another request; else None."""
        if (made := delivered(self.folder)) in (None, self.request):
            return None
        status = self.status
        return status.get("command", "") if status.get("signature") == made else ""

    def note(self, **fields: Any) -> None:
        """Set fields of status.json, and leave the state."""
        self.mark(self.status.get("state", "running"), **fields)


def digest(record: Mapping[str, Any]) -> str:
    """The signature of a whole run: its stages' and what is asked of sampling and evaluation, without places and
    without defaults, so that a later option does not move it."""
    deciding: dict[str, Any] = {stage: one["signature"] for stage, one in record["stages"].items()}
    for verb, of in SCHEMAS.items():
        asked = {k: v for k, v in record[verb].items() if k not in NOT_THE_RESULT}
        deciding[verb] = without_defaults(asked, targets.parameters(f"{schema.__name__}.{of.__name__}") or {})
    text = json.dumps(deciding, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def delivered(folder: Path) -> str | None:
    """The digest of what the folder holds, if it holds anything whole: its record is written last."""
    try:
        return digest(read_json(folder / RECORD, f"{shapes.__name__}.Record"))
    except (OSError, DamagedFile, KeyError, AttributeError):
        return None
