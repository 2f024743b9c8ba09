"""A Slurm of one node on this machine, for tests: munge, controller, node, ports and state of its own, gone afterwards.

Debian's packages are installed where they are missing; that, and the daemons, need root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

PACKAGES = ("slurm-wlm", "munge")
CPUS = 2
CONF = """
ClusterName=unclip
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here; it is installed first if only that is missing."""
    if os.geteuid() != 0:
        return "needs root: munge, slurmctld and slurmd are started, and installed by apt-get where missing"
    if not all(shutil.which(name) for name in ("munged", "slurmctld", "slurmd", "sbatch")):
        if shutil.which("apt-get") is None:
            return f"needs {' and '.join(PACKAGES)}, or apt-get to install them"
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                return f"apt-get {command[0]} failed: {done.stderr.strip().splitlines()[-1:]}"
    return None


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Inside, the environment variables with which sbatch, srun, squeue and scontrol reach it."""
    folder = Path(mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, host=host, ports=free_ports(2), cpus=CPUS))
    environment = {"SLURM_CONF": str(conf)}
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(munge(folder / "munge"))
        for daemon in ("slurmctld", "slurmd"):
            (folder / "state").mkdir(exist_ok=True)
            command = [daemon, "-D", "-f", str(conf)]
            with (folder / f"{daemon}.out").open("wb") as said:
                started.append(
                    subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **environment})
                )
        wait_until_idle(environment, folder)
        yield environment
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            cancel = ["scancel", "--quiet", "--full", "--signal=KILL", "--partition=test"]
            subprocess.run(cancel, env={**os.environ, **environment}, timeout=20)
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def munge(folder: Path) -> subprocess.Popen[bytes]:
    """munged with a key of its own, as the user munge: as root it starts only with --force."""
    folder.mkdir()
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o400)
    for path in (folder, folder / "key"):
        shutil.chown(path, "munge", "munge")
    files = [f"--{name}-file={folder / name}" for name in ("key", "pid", "log", "seed")]
    command = ["munged", "--foreground", f"--socket={folder / 'socket'}", *files]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, user="munge", group="munge", extra_groups=[], stdout=quiet, stderr=quiet, umask=0o022
    )


def wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    """Raises RuntimeError with the daemons' last words where the node does not come up."""
    for _ in range(120):
        asked = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env={**os.environ, **environment}, capture_output=True, text=True
        )
        if asked.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = [path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.log"))]
    raise RuntimeError("\n".join([f"the node did not come up: {asked.stdout}{asked.stderr}", *logs]))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
