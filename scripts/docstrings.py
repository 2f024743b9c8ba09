"""Prose as Markdown shows it: what stands in docstrings and comments is text, in which * and < mean themselves. For
reference.py, and as an extension of griffe for the pages that mkdocstrings makes. Code blocks and tables stay."""

from __future__ import annotations

import re

import griffe


def plain(text: str) -> str:
    """Text in which Markdown finds nothing to interpret but what is in backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        p if p.startswith("`") else re.sub(r"([*_\[\]\\])", r"\\\1", p).replace("<", "&lt;") for p in parts
    )


class PlainDocstrings(griffe.Extension):
    """Every docstring's prose made plain; lines that are indented (formulas) or begin with | (tables) stay."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is None:
            return
        lines = obj.docstring.value.splitlines()
        obj.docstring.value = "\n".join(
            line if line.startswith(("    ", "|")) else plain(line) for line in lines
        )
