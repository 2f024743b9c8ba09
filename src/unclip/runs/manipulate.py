"""`unclip manipulate KIND`: variations, interpolations, text diffs and what else unCLIP does with a picture. Checks the
request and hands it on; pictures are made in manipulations.py, laid out in report/manipulations.py and strips.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unclip.cli import DONE
from unclip.config.compose import compose, options
from unclip.config.problems import Problem, Problems
from unclip.runs.references import runs_of
from unclip.runs.sample import folder_of

GROUP = "manipulation"


def main(arguments: list[str]) -> int:
    """Check the request, make the pictures, write them."""
    kind, request = checked(arguments)
    out = folder_of(request, kind)

    from unclip.report import strips
    from unclip.runs.process import stop_at_once_when_asked

    stop_at_once_when_asked("interrupted")
    strips.deliver(kind, request, out)
    return DONE


def checked(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """What is to be done and the request. The first word is an option of the group; a key of it needs no prefix:
    `eta=0.5` is `manipulation.eta=0.5`. Raises Problems, all at once."""
    kind, *rest = arguments or [""]
    if kind not in (possible := options(GROUP)):
        why = "is no manipulation" if kind else "give one KIND"
        raise Problems([Problem(kind, None, f"{why}; possible: {', '.join(possible)}")])
    lines = overrides(kind, rest)
    request, found = {}, []
    try:
        request = compose("manipulate", lines).config
        if not (decoder := runs_of(request)["decoder"]).config.get("clip"):
            why = (
                f"decoder {decoder.signature} is unconditional: its pictures have no embedding to be changed"
            )
            found.append(Problem("run", request.get("run"), why))
    except Problems as problems:
        request, found = request or problems.config or {}, [_unprefixed(p) for p in problems.problems]
    found += _wrong_pictures(request.get("images"))
    if any(not p.strip() for p in request.get("prompts") or []):
        found.append(Problem("prompts", request["prompts"], "holds an empty caption"))
    if found:
        raise Problems(found)
    return kind, request


def _wrong_pictures(images: Any) -> list[Problem]:
    """What can be said of images= before anything is loaded: whether there are so many test images is said later."""
    if not isinstance(images, str):
        return []  # said already
    name, _, numbers = images.partition(":")
    if name == "test":
        listed = numbers.split(",") if numbers else []
        if all(n.strip().isdecimal() for n in listed):
            return []
        return [Problem("images", images, "must be numbers from 0, as in test:3,17")]
    if Path(images).expanduser().exists():
        return []
    return [
        Problem("images", images, "is not there; possible: test, test:3,17, a folder of images, or an .npz")
    ]


def _unprefixed(problem: Problem) -> Problem:
    """Its key as it may be typed."""
    return Problem(problem.key.removeprefix(f"{GROUP}."), problem.given, problem.why)


def overrides(kind: str, arguments: list[str]) -> list[str]:
    """As Hydra is to read them."""
    try:
        own = compose("manipulate", [f"{GROUP}={kind}"]).config[GROUP]
    except Problems as problems:  # of what has to be given
        own = (problems.config or {})[GROUP]
    keyed = [f"{GROUP}.{a}" if a.partition("=")[0] in own else _quoted(a) for a in arguments]
    return [f"{GROUP}={kind}", *keyed]


def _quoted(argument: str) -> str:
    """images=test:3,17 is one value to Hydra, not two."""
    key, _, value = argument.partition("=")
    return f"images='{value}'" if key == "images" and value[:1] not in "'\"" else argument
