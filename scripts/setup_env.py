"""Make or refresh the project's environment: `python scripts/setup_env.py VENV`. Standard library only.

Installs pyproject.toml's package with its `dev` extra at the versions of constraints.txt, once: a stamp in the
environment remembers what was installed, so that the next call returns at once and an interrupted one goes on.
"""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 14))  # from, below: as in pyproject.toml
EXPECTED_MB = 6000  # of the finished environment on Linux; only the progress line reads it


def main(venv: Path) -> int:
    if not PYTHONS[0] <= sys.version_info < PYTHONS[1]:
        given = ".".join(map(str, sys.version_info[:3]))
        return fail(f"Python 3.11 to 3.13 is needed, {sys.executable} is {given}: make PYTHON=python3.12 ...")
    stamp = venv / "unclip-environment"
    wanted = fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        return 0
    python = venv / "bin" / "python"
    if not (venv / "bin" / "pip").exists():  # a venv that failed before leaves a python without it
        print(f"Making the environment in {venv} ({EXPECTED_MB / 1000:.0f} GB, mostly PyTorch)")
        if subprocess.run([sys.executable, "-m", "venv", str(venv)]).returncode:
            return fail(
                "python -m venv failed: on Debian and Ubuntu, apt-get install python3-venv provides it"
            )
    else:
        print(f"Bringing the environment {venv} to what constraints.txt and pyproject.toml say")
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    command += ["-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[dev]"]
    if status := watched(command, venv):
        return fail(f"the installation failed (status {status}): {' '.join(command)}")
    check = subprocess.run([str(python), "-c", "import lightning"], capture_output=True, text=True)
    if "torchvision::nms" in check.stderr:
        return fail(
            f"torch and torchvision in {venv} are builds that do not match: remove it and type the command again"
        )
    if check.returncode:
        return fail(f"`import lightning` fails in {venv}:\n{check.stderr.strip()}")
    stamp.write_text(wanted)
    return 0


def fingerprint() -> str:
    """What was installed: the requirements' content and the checkout that the editable install points to."""
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return f"{hashlib.sha256(content).hexdigest()} {ROOT}\n"


def watched(command: list[str], venv: Path) -> int:
    """Run the command; meanwhile show how much of the environment is there and how long the rest may take."""
    start, before, shown = time.monotonic(), megabytes(venv), 0.0
    process = subprocess.Popen(command)
    live = sys.stdout.isatty()
    while process.poll() is None:
        time.sleep(0.5)
        elapsed = time.monotonic() - start
        if elapsed - shown < (2 if live else 30):
            continue
        shown, size = elapsed, megabytes(venv)
        rate = (size - before) / elapsed
        left = f", about {max(EXPECTED_MB - size, 0) / rate:.0f} s to go" if rate > 5 else ""
        line = f"  installing: {size:,.0f} of about {EXPECTED_MB:,} MB, {elapsed:.0f} s{left}"
        print(f"\r\033[K{line}" if live else line, end="" if live else "\n", flush=True)
    if live:
        print("\r\033[K", end="")
    print(f"  environment ready in {time.monotonic() - start:.0f} s" if process.returncode == 0 else "")
    return process.returncode


def megabytes(folder: Path) -> float:
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except OSError:
                continue  # pip moves files while this counts
    return total / 1e6


def fail(message: str) -> int:
    print(f"setup: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
