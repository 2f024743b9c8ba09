"""`torchrun ... -m unclip train ...`: torchrun's processes as the ranks of one run. No torch where there is one.

The first does what `unclip train` does, upstream included; the others join it when it trains, or end when it ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from unclip.cli import DONE, FAILED
from unclip.config.problems import Problem, Problems
from unclip.runs import process

OWN = ("TORCHELASTIC_", "GROUP_", "ROLE_", "MASTER_", "RANK", "LOCAL_", "WORLD_SIZE")
LONG = timedelta(days=365)  # training what comes below a run may take as long as it takes
JOB = "unclip.runs.job"


def several() -> bool:
    """Whether this is one of several processes of torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def layout() -> dict[str, int]:
    """The trainer's settings that torchrun has decided; none without it."""
    if not several():
        return {}
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return {"devices": here, "num_nodes": everywhere // here}


def together(verb: str, arguments: list[str], lead: Callable[[], int]) -> int:
    """`lead()` on the first rank; the others wait until it becomes a run's training, and join it, or ends without.

    Raises Problems where it is no training of one run, or where torchrun has no store in which they could meet.
    """
    if verb != "train" or {"-m", "--multirun"} & set(arguments):
        why = "starts the processes of one training: torchrun ... -m unclip train; sweeps and the rest without it"
        raise Problems([Problem("torchrun", f"unclip {verb}", why)])
    store = _store()
    ranks = {name: value for name, value in os.environ.items() if name.startswith(OWN)}
    os.environ[process.RANKS] = json.dumps(ranks)
    if os.environ["RANK"] != "0":
        told = json.loads(store.get("told"))
        if told["folder"]:
            process.become(JOB, told["folder"])
        return int(told["status"])

    def tell(folder: str | None, status: int = DONE) -> None:
        word = json.dumps({"folder": folder, "status": status})
        store.compare_set("told", "", word)  # only the first word counts

    def becomes(module: str, *given: str) -> None:
        if module != JOB:
            del os.environ[process.RANKS]  # it works alone
        tell(str(Path(given[0]).absolute()) if module == JOB else None)

    process.before_becoming = becomes
    status = FAILED
    try:
        status = lead()
    finally:
        tell(None, status)
    return status


def _store() -> Any:
    """Torchrun's own, apart from what training puts there, and from earlier attempts."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        why = "has no store in which its processes could meet: --rdzv-backend=c10d, or none"
        raise Problems([Problem("torchrun", os.environ["TORCHELASTIC_RUN_ID"], why)])
    from torch.distributed import PrefixStore, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=LONG)
    return PrefixStore(f"unclip/{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
