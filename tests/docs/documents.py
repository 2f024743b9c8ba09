"""What the documents say to type: their blocks, and a check of each line without carrying it out. A line that nothing
here knows is an error, so that none is left unchecked."""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from unclip.cli import VERBS
from unclip.completion import SCRIPTS
from unclip.config.compose import check_sweep, compose
from unclip.config.schema import SCHEMAS
from unclip.config.tree import OWN_FOLDER
from unclip.runs import ablate, manipulate, multirun, report, search, where
from unclip.runs.runs import KEYS
from unclip.runs.schedules import checked, listed
from unclip.runs.whole import planned

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
ELSEWHERE = ("wandb sync 'outputs/", "wandb sweep docs/wandb_sweep.yaml", "wandb agent ", "git ", "cd ")
FLAGS = {"-m", "--cfg", "--list", "--json"}


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE)

    @property
    def files(self) -> dict[str, str]:
        """Blocks that begin with a file's name: it is to be written."""
        named = [re.match(r"(?:# @package _global_\n)?# (\S+\.(?:py|yaml))\b", b) for b in self._code]
        return {m[1]: block for m, block in zip(named, self._code, strict=True) if m}

    @property
    def programs(self) -> list[str]:
        """Python blocks that are no files, to be run one after the other."""
        return [block for block in self.blocks("python") if block not in self.files.values()]

    @property
    def lines(self) -> list[str]:
        """What is typed into a shell, without comments."""
        joined = "".join(self.blocks("bash")).replace("\\\n", " ")
        return [line for one in joined.splitlines() if (line := _without_comment(one))]

    @property
    def _code(self) -> list[str]:
        return [*self.blocks("python"), *self.blocks("yaml")]

    def written(self, folder: Path) -> Path:
        """The page's files, in a folder."""
        for name, text in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder


def pages() -> list[Page]:
    """Everything that is read: README and its siblings, and what is under docs/, but for what is generated."""
    found = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    return [Page(path) for path in sorted(found) if DOCS / "reference" not in path.parents]


def _without_comment(line: str) -> str:
    if "<(" in line:  # no word of shlex
        return line.partition("#")[0].strip()
    return shlex.join(shlex.split(line, comments=True))


# --- lines of a shell ------------------------------------------------------------------------------------------


def check(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises where a line could not be carried out as typed. Composes what is a command of unclip, in this folder."""
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    program, *arguments = words
    if program == "unclip":
        unclip(arguments, monkeypatch)
    elif program in OTHERS:
        OTHERS[program](arguments)
    else:
        assert line.startswith(ELSEWHERE), line


def _make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in arguments if "=" not in word]
    assert set(targets) <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)), targets


def _pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    action, wanted = arguments
    found = re.fullmatch(r"unclip-lab\[(\w+)\]", wanted)
    assert action == "install"
    assert found
    assert found[1] in extras


def _source(arguments: list[str]) -> None:
    words = " ".join(arguments)
    shell = re.fullmatch(r"<\(unclip completion (\w+)\)", words)
    assert words == ".venv/bin/activate" or (shell and shell[1] in SCRIPTS), words


def _python(arguments: list[str]) -> None:
    assert (ROOT / arguments[0]).is_file(), arguments


OTHERS: dict[str, Callable[[list[str]], object]] = {
    "make": _make,
    "pip": _pip,
    "source": _source,
    "python": _python,
}


def unclip(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command as far as it can be checked without carrying it out: it composes, and its files are there."""
    monkeypatch.setattr("unclip.config.rules.gpus", lambda: 1)
    verb, *rest = arguments
    assert verb in VERBS, verb
    own = [word.partition("=")[2] for word in rest if word.startswith("--config-dir=")]
    if own:
        monkeypatch.setenv(OWN_FOLDER, str(Path(own[0]).absolute()))
    flags = {word for word in rest if word.startswith("-") and not word.startswith("--config-dir=")}
    assert flags <= FLAGS, flags
    overrides = [word for word in rest if not word.startswith("-") and word != "job"]
    if "--list" in flags:
        assert verb in ("ablate", "search")
    elif "-m" in flags:
        swept(verb, overrides)
    else:
        CHECKS.get(verb, lambda words: compose(verb, words))(overrides)


def swept(verb: str, overrides: list[str]) -> None:
    if verb == "run":
        multirun.checked([o for o in overrides if not o.startswith("hydra")])
    else:
        check_sweep(verb, overrides)


def _evaluate(overrides: list[str]) -> None:
    """Of a swept setting each value."""
    pairs = (o.split("=", 1) for o in overrides)
    lists = {"metrics"}
    settings = [[f"{k}=[{v}]"] if k in lists else [f"{k}={one}" for one in v.split(",")] for k, v in pairs]
    for request in itertools.product(*settings):
        compose("evaluate", list(request))


def _ablate(overrides: list[str]) -> None:
    own = [ablate._bracketed(o) for o in overrides[1:] if o.split("=")[0].split(".")[0] in ablate.OWN]
    ablate.asked(overrides[0], own, [o for o in overrides[1:] if ablate._bracketed(o) not in own])


def _report(overrides: list[str]) -> None:
    paths, given = report.request(overrides)
    assert paths
    assert given.keys() <= set(report.KEYS)


def _runs(overrides: list[str]) -> None:
    action = overrides[0] if overrides and overrides[0] in KEYS else "list"
    given = dict(o.split("=", 1) for o in overrides if "=" in o)
    assert given.keys() <= set(KEYS[action])
    if "where" in given:
        where.parse(given["where"])


def _data(overrides: list[str]) -> None:
    action, name, *rest = overrides
    assert action in ("fetch", "info")
    compose("train", ["stage=classifier", f"data={name}", *rest])


def _bench(overrides: list[str]) -> None:
    name, *rest = overrides
    own = SCHEMAS[f"bench_{name}"].__dataclass_fields__
    compose(f"bench_{name}", [o for o in rest if o.split("=")[0].split(".")[0] in own])


def _completion(overrides: list[str]) -> None:
    assert set(overrides) <= set(SCRIPTS)


CHECKS: dict[str, Callable[[list[str]], object]] = {
    "run": planned,
    "ablate": _ablate,
    "schedules": lambda words: checked([listed(word) for word in words]),
    "evaluate": _evaluate,
    "manipulate": lambda words: compose("manipulate", manipulate.overrides(words[0], words[1:])),
    "search": lambda words: search.request(words[0], words[1:]),
    "report": _report,
    "runs": _runs,
    "data": _data,
    "bench": _bench,
    "completion": _completion,
}
