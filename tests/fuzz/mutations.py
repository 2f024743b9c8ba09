"""Mutations of what users type and of what files hold, each decided by a seeded `random.Random` alone. Runs nothing."""

from __future__ import annotations

import copy
import json
import random
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TEXTS = (
    *("", " ", "null", "~", "true", "0", "-1", "1.5", "1e999", "nan", "-inf", "1_000", "0x10", "9" * 30, "1e-320"),
    *("[]", "{}", "[1,", "{a:1", "[[]]", "{a:{b:{c:[1,2,{d:3}]}}}", "[null]", "{null:1}", "[1,a,2.5,true]"),
    *("${seed}", "${nope}", "${data.image_size}", "${oc.env:HOME}", "${oc.env:NO_SUCH}", "${", "${a", "${.}"),
    *("${now:%Y}", "${hydra:job.name}", "\\${seed}", "???", "a=b", "=", "'", '"', "'a", '"a b"', "a b", "a,b"),
    *("range(0,3)", "range(0,1000000000)", "range(0,1,0)", "range(a)", "choice(1,2)", "choice()", "shuffle(1,2,3)"),
    *("interval(0,1)", "glob(*)", "glob([)", "int(x)", "float(inf)", "sort(3,1)", "extend_list(1)", "tag(a,1)"),
    *("é", "漢字", "😀", "\u202e", "\ufeff", "a\nb", "a\tb", "../..", "/", "a/b/c", "~/x", "-", "--", "-m", "@", "#"),
    *("%s", "{x}", "<b>", "$(id)", "`id`", ";", "|", "*", "\\", "a" * 5000, "[" * 200, "(" * 200, "{a:" * 200),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 1e308, float("nan"), float("inf"), 10**30, 2**63, "", "x", "漢字", "\ud800"),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": 1}}, ["x", 1], "../..", "/", "9" * 400, "2026-13-45", [1] * 1000),
)  # fmt: skip
PREFIXES = ("+", "++", "~", "-", "--", "@", "hydra.", "a.", ".")


def text(rng: random.Random, of: str) -> str:
    """A text with a slip of the finger: a character left out, doubled, swapped, put in or taken for another."""
    if not of:
        return rng.choice(string.printable)
    i, new = rng.randrange(len(of)), rng.choice("abcxyz019.=_-+~@/,[]{}()$'\" é\\:")
    return rng.choice(
        (of[:i] + of[i + 1 :], of[:i] + of[i] + of[i:], of[: i - 1] + of[i : i + 1] + of[i - 1 : i] + of[i + 1 :],
         of[:i] + new + of[i:], of[:i] + new + of[i + 1 :], of[:i], of.swapcase())
    )  # fmt: skip


def request(
    rng: random.Random, lines: Sequence[str], keys: Sequence[str], groups: Sequence[str]
) -> list[str]:
    """One to three things wrong with a command line's words. keys: those there are; groups: `group=option`."""
    found = list(lines)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_OF_A_REQUEST)(rng, found, keys, groups)
    return [line.replace("\0", "") for line in found]  # no argument of a process holds it


def _of_one(change: Callable[[random.Random, str], str]) -> Callable[..., None]:
    def one(rng: random.Random, lines: list[str], keys: Sequence[str], groups: Sequence[str]) -> None:
        if lines:
            i = rng.randrange(len(lines))
            lines[i] = change(rng, lines[i])

    return one


def _value(rng: random.Random, line: str) -> str:
    return f"{line.partition('=')[0]}={rng.choice(TEXTS)}"


def _added(rng: random.Random, lines: list[str], keys: Sequence[str], groups: Sequence[str]) -> None:
    key = rng.choice(keys)
    near = rng.choice(keys).rpartition("=")[2]
    line = rng.choice(
        (f"{key}={rng.choice(TEXTS)}", f"{text(rng, key)}={near}", key, f"{rng.choice(PREFIXES)}{key}=1")
    )
    lines.insert(rng.randint(0, len(lines)), line)


def _choice(rng: random.Random, lines: list[str], keys: Sequence[str], groups: Sequence[str]) -> None:
    group, _, option = rng.choice(groups).partition("=")
    other = rng.choice(groups).partition("=")[2]
    option = rng.choice(
        (option, option, other, text(rng, option), "null", f"{option},{other}", f"[{option},{other}]")
    )
    lines.append(
        f"{rng.choice(('', '', '', '+', '~', '/', 'override '))}{group}{rng.choice(('', '', '@x'))}={option}"
    )


def _exchanged(rng: random.Random, lines: list[str], keys: Sequence[str], groups: Sequence[str]) -> None:
    if len(lines) > 1:
        (i, j), pairs = rng.sample(range(len(lines)), 2), [line.partition("=") for line in lines]
        lines[i], lines[j] = f"{pairs[i][0]}={pairs[j][2]}", f"{pairs[j][0]}={pairs[i][2]}"


def _left_out(rng: random.Random, lines: list[str], keys: Sequence[str], groups: Sequence[str]) -> None:
    if lines:
        del lines[rng.randrange(len(lines))]


def _doubled(rng: random.Random, lines: list[str], keys: Sequence[str], groups: Sequence[str]) -> None:
    if lines:
        lines.append(rng.choice(lines))
        lines[-1] = rng.choice((lines[-1], _value(rng, lines[-1])))


def _flag(rng: random.Random, lines: list[str], keys: Sequence[str], groups: Sequence[str]) -> None:
    flags = (
        "-m",
        "--multirun",
        "--json",
        "--list",
        "-x",
        "--foo=1",
        "--",
        "-",
        "--config-dir=nowhere",
        "-cd",
        "--yes",
    )
    lines.insert(rng.randint(0, len(lines)), rng.choice(flags))


_OF_A_REQUEST: tuple[Callable[..., None], ...] = (
    *(_of_one(text), _of_one(text), _of_one(_value), _of_one(_value), _added, _added, _choice, _exchanged),
    *(_of_one(lambda rng, line: rng.choice(PREFIXES) + line), _of_one(lambda _, line: line.replace("=", "", 1))),
    *(_left_out, _doubled, _flag, _of_one(lambda rng, line: rng.choice(TEXTS))),
)  # fmt: skip


# ---- files ------------------------------------------------------------------------------------------------------


def content(rng: random.Random, of: bytes) -> bytes:
    """Bytes of a file with flipped bits, cut off, emptied, grown, moved about, or with huge numbers in its head."""
    kind, n = rng.randrange(9), len(of)
    at = rng.randrange(n + 1)
    if kind in (0, 1) and n:
        changed = bytearray(of)
        for _ in range(rng.choice((1, 1, 3, 20))):
            changed[rng.choice((rng.randrange(n), rng.randrange(min(n, 64))))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 2:
        return of[:at]
    if kind == 3:
        return rng.choice(
            (b"", b"\0", b"\n", b"\xff\xfe", b"null", b"[]", b"{}", b"0", b'""', rng.randbytes(100))
        )
    if kind == 4:
        return of[:at] + rng.choice((rng.randbytes(rng.randint(1, 300)), b"\0" * 5000, of)) + of[at:]
    if kind == 5:
        size = rng.choice((1, 2, 4, 8))
        at = rng.randrange(min(n, 128) + 1)
        huge = rng.choice((b"\xff" * size, b"\x7f" + b"\xff" * (size - 1), b"\0" * size, b"9" * size))
        return of[:at] + huge + of[at + size :]
    if kind == 6:
        return of.decode("utf-8", "replace").encode(
            rng.choice(("utf-16", "utf-8-sig", "utf-32", "cp037")), "replace"
        )
    if kind == 7:
        return rng.choice((b"[", b'{"a":', b"- ", b"(")) * rng.choice((50, 100_000))
    return of[at:] + of[:at]


def tree(rng: random.Random, of: Any) -> Any:
    """What a JSON or YAML file holds with one or two parts of another type, left out, renamed or put elsewhere."""
    found = json.loads(json.dumps(of))
    for _ in range(rng.choice((1, 1, 2))):
        found = _changed(rng, found)
    return found


def _any(rng: random.Random) -> Any:
    """A copy: what is put into it is of this case alone."""
    return copy.deepcopy(rng.choice(VALUES))


def _changed(rng: random.Random, node: Any) -> Any:
    if rng.random() < 0.15 or not node or not isinstance(node, dict | list):
        return rng.choice((_any(rng), _any(rng), [node], {"a": node}, str(node)))
    if isinstance(node, list):
        i = rng.randrange(len(node))
        node[i] = _changed(rng, node[i])
        return rng.choice((node, node, node, node[:i], [*node, node[i]]))
    key = rng.choice(list(node))
    how = rng.randrange(8)
    if how == 0:
        del node[key]
    elif how == 1:
        node[text(rng, str(key))] = node.pop(key)
    elif how == 2:
        node[rng.choice(("x", "", "_target_", "0", "__class__", key))] = _any(rng)
    else:
        node[key] = _changed(rng, node[key])
    return node


def place(rng: random.Random, path: Path) -> None:
    """In a file's place: nothing, a folder, a link in a circle, one to nowhere, or itself grown by a hole."""
    size = path.stat().st_size
    kind = rng.randrange(5)
    if kind == 4:
        with path.open("r+b") as file:
            file.truncate(size + 2**20)
        return
    path.unlink()
    if kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(path.name)
    elif kind == 3:
        path.symlink_to("nowhere")
