"""Where the files of a public data set may be found, tried in order until a folder is complete and verified.
Knows no data set: that says which files it needs, how each is checked, and which places to try."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

from unclip.config.problems import Failure
from unclip.data.cache import DamagedFile, locked, say
from unclip.files import write_atomic


class DataUnavailable(Failure):
    """No place had what is needed; the message lists each place with the reason and says what to do."""


class PlaceUnavailable(Exception):
    """This place cannot be had; the message says why, without naming the place."""


class Place(Protocol):
    """`str(place)` is how it is named to users."""

    def fetch(self, names: Sequence[str], workspace: Path) -> Path:
        """Make the files `names` readable in the folder returned, `workspace` being an empty one to use; some
        may be missing there. Raises PlaceUnavailable."""
        ...


class CheckedFile(Protocol):
    """A published file that can be told from any other, by its checksum say."""

    def read(self, path: Path) -> Any:
        """Content of the file at `path`. Raises FileNotFoundError, or DamagedFile where it is not the
        published one."""
        ...


def complete(
    title: str, folder: Path, files: Mapping[str, CheckedFile], places: Sequence[Place], command: str
) -> None:
    """Fill `folder` with what is missing or damaged of `files` (by name), from the first places that have it.

    Files that are already there and good are not touched; what is written is verified first, and written
    atomically. `command` is what the error tells the user to run. Raises DataUnavailable. Quiet where there
    is nothing to do, and then the folder may be read-only.
    """
    if not _problems(files, folder):
        return
    with locked(folder):
        wanted = _problems(files, folder)  # again: whoever held the lock may have filled the folder
        if wanted:
            nothing = len(wanted) == len(files)
            say(f"{title}: {f'nothing in {folder} yet' if nothing else '; '.join(wanted.values())}")
        failures: list[str] = []
        for place in places:
            if not wanted:
                return
            say(f"{title}: trying {place}")
            started = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="unclip-data-") as workspace:
                try:
                    source = place.fetch(list(wanted), Path(workspace))
                except PlaceUnavailable as reason:
                    failures.append(f"{place}: {reason}")
                    say(f"{title}: not there ({reason})")
                    continue
                bad = _problems({name: files[name] for name in wanted}, source)
                good = wanted.keys() - bad.keys()
                for name in good:
                    _copy(source / name, folder / name)
            failures += [f"{place}: {problem}" for problem in bad.values()]
            wanted = {name: problem for name, problem in wanted.items() if name in bad}
            if good:
                seconds = time.monotonic() - started
                say(f"{title}: {len(good)} file(s) from {place}, verified, into {folder} ({seconds:.1f} s)")
    if wanted:
        raise DataUnavailable(
            f"{title} is not complete in {folder}: {', '.join(wanted)}\n"
            + "".join(f"  {failure}\n" for failure in failures)
            + f"Put the file(s) there by hand or, where there is a network, run: {command}"
        )


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, such as one that a system package fills."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def fetch(self, names: Sequence[str], workspace: Path) -> Path:
        if not self.path.is_dir():
            raise PlaceUnavailable("no such folder")
        return self.path


@dataclass(frozen=True)
class Download:
    """Files under one address; the first one that fails gives the address up, so that a dead network costs
    one time-out."""

    address: str
    timeout: float = 10.0  # seconds without a byte
    limit: float = 300.0  # seconds a file

    def __str__(self) -> str:
        return self.address

    def fetch(self, names: Sequence[str], workspace: Path) -> Path:
        for name in names:
            try:
                self._download(name, workspace / name)
            except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
                raise PlaceUnavailable(f"{name}: {error}") from error
        return workspace

    def _download(self, name: str, path: Path) -> None:
        deadline = time.monotonic() + self.limit
        with (
            urllib.request.urlopen(f"{self.address}/{name}", timeout=self.timeout) as response,
            path.open("wb") as file,
        ):
            while block := response.read(1 << 20):
                file.write(block)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not finished after {self.limit:.0f} s")
            say(f"  {name}: {file.tell() / 1e6:.1f} MB")


@dataclass(frozen=True)
class DebianPackage:
    """A package of the machine's own Debian or Ubuntu sources, downloaded and unpacked, not installed.

    Works without root and on machines whose package lists are empty: apt's state and cache are private ones.
    """

    package: str
    folder: str  # in the package
    timeout: float = 300.0

    def __str__(self) -> str:
        return f"Debian package {self.package}"

    def fetch(self, names: Sequence[str], workspace: Path) -> Path:
        if missing := [program for program in ("apt-get", "dpkg") if shutil.which(program) is None]:
            raise PlaceUnavailable(f"this machine has no {' and no '.join(missing)}")
        state, cache, root = workspace / "state", workspace / "cache", workspace / "root"
        for folder in (state / "lists" / "partial", cache / "archives" / "partial", root):
            folder.mkdir(parents=True)
        (status := workspace / "status").touch()
        settings = {
            "Dir::State": state,
            "Dir::State::status": status,
            "Dir::Cache": cache,
            "APT::Sandbox::User": "root",  # when run as root: the user _apt could not enter the workspace
            "Acquire::Languages": "none",
            "Acquire::Retries": "1",
            "Acquire::http::Timeout": "15",
            "Acquire::https::Timeout": "15",
        }
        apt = [
            "apt-get",
            "-q",
            *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")),
        ]
        # a source that fails need not be the one that matters
        updated = _run([*apt, "update"], workspace, self.timeout)
        downloaded = _run([*apt, "download", self.package], workspace, self.timeout)
        packages = list(workspace.glob("*.deb"))
        if not packages:
            raise PlaceUnavailable(_complaint(downloaded) or _complaint(updated) or "nothing was downloaded")
        unpacked = _run(["dpkg", "-x", str(packages[0]), str(root)], workspace, self.timeout)
        if unpacked.returncode:
            raise PlaceUnavailable(f"cannot be unpacked: {_complaint(unpacked)}")
        return root / self.folder


@dataclass(frozen=True)
class Npm:
    """Packages of the npm registry that npm is configured with, as the archives `<package>-<version>.tgz`."""

    timeout: float = 600.0

    def __str__(self) -> str:
        return "npm"

    def fetch(self, names: Sequence[str], workspace: Path) -> Path:
        if shutil.which("npm") is None:
            raise PlaceUnavailable("this machine has no npm, which comes with Node.js")
        packages = ["@".join(name.removesuffix(".tgz").rsplit("-", 1)) for name in names]
        packed = _run(["npm", "pack", "--loglevel=error", *packages], workspace, self.timeout)
        if packed.returncode:
            said = [line for line in packed.stderr.splitlines() if line.startswith("npm error")]
            raise PlaceUnavailable((said or [f"npm pack ended with status {packed.returncode}"])[0])
        return workspace


def _run(command: list[str], folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Raises PlaceUnavailable where it cannot be started or takes longer."""
    try:
        return subprocess.run(
            command, cwd=folder, timeout=timeout, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlaceUnavailable(str(error)) from error


def _problems(files: Mapping[str, CheckedFile], folder: Path) -> dict[str, str]:
    """What is wrong with which of the files in a folder."""
    problems = {}
    for name, file in files.items():
        try:
            file.read(folder / name)
        except FileNotFoundError:
            problems[name] = f"{name} is missing"
        except (DamagedFile, OSError) as error:
            problems[name] = str(error)
    return problems


def _copy(source: Path, target: Path) -> None:
    write_atomic(target, lambda temporary: shutil.copyfile(source, temporary))


def _complaint(process: subprocess.CompletedProcess[str]) -> str:
    """The last line in which a program says what went wrong."""
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "dpkg"))]
    return (errors or lines or [""])[-1]
