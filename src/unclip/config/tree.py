"""The configuration tree as files: where it is, which groups and options it has. Composes nothing, and imports no
Hydra, so that a shell's completion can ask it at every tab."""

from __future__ import annotations

import os
from pathlib import Path

import unclip
from unclip.config.problems import Problem, Problems

OWN_FOLDER = "UNCLIP_CONFIG_DIR"


def config_folder() -> Path:
    """The configuration tree: inside the installed package, else the checkout's."""
    package = Path(unclip.__file__).parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent.parent / "conf"


def own_folder() -> Path | None:
    """The user's own configuration tree beside it: --config-dir, which reaches child processes by the environment."""
    named = os.environ.get(OWN_FOLDER)
    if named and not Path(named).is_dir():
        raise Problems([Problem(OWN_FOLDER, named, "there is no such folder; it is what --config-dir says")])
    return Path(named).absolute() if named else None


def groups() -> list[str]:
    """The config groups there are, the user's own among them."""
    folders = [folder for folder in (config_folder(), own_folder()) if folder]
    return sorted({path.name for folder in folders for path in folder.iterdir() if path.is_dir()})


def options(group: str) -> list[str]:
    """The options of a config group, nested ones as a/b; needs no composition."""
    folders = [folder / group for folder in (config_folder(), own_folder()) if folder]
    found = {p.relative_to(f).with_suffix("") for f in folders for p in f.rglob("*.yaml")}
    return sorted(str(name) for name in found if not name.name.startswith("_"))  # those are parts of options


def experiments() -> list[str]:
    """The experiments that end in pictures: what `unclip run` takes."""
    return [name.removesuffix("/decoder") for name in options("experiment") if name.endswith("/decoder")]


def file_of(name: str) -> Path | None:
    """The file GROUP/OPTION or PRIMARY, the user's own where both trees have it."""
    folders = [folder for folder in (own_folder(), config_folder()) if folder]
    return next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)
