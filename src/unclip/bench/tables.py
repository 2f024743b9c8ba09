"""What a benchmark measured, as text: for a terminal and as markdown. Imports no torch and knows no benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unclip.runs.cells import aligned

Table = dict[str, Any]
Row = dict[str, Any]

COLUMNS: list[tuple[str, str, Callable[[Row], str]]] = [  # key of a row, heading, text
    ("times", "ours is x times", lambda row: f"{figure(row['times'])}"),
    ("flop", "GFLOP each", lambda row: figure(row["flop"] / 1e9)),
    ("flops", "GFLOP/s", lambda row: figure(row["flops"] / 1e9)),
    ("share", "of the peak", lambda row: f"{100 * row['share']:.0f}%"),
    ("times_per_flop", "x times per FLOP", lambda row: figure(row["times_per_flop"])),
    ("held_bytes", "MB held", lambda row: figure(row["held_bytes"] / 1e6)),
    ("step_bytes", "MB more in a step", lambda row: figure(row["step_bytes"] / 1e6)),
    ("parameters", "M parameters", lambda row: f"{row['parameters'] / 1e6:.2f}"),
]


def figure(x: float) -> str:
    """Three significant digits, thousands separated."""
    if abs(x) >= 1000:
        digits = len(f"{abs(x):.0f}") - 3
        return f"{round(x, -digits):,.0f}"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:#.3g}".rstrip(".") if x else "0"


def cells(table: Table) -> list[list[str]]:
    """Headings, then a row for each way that was measured; columns that no way has are left out. A table that was made
    otherwise has its `cells` already."""
    if "cells" in table:
        return [[str(text) for text in line] for line in table["cells"]]
    rows = [row for row in table["rows"] if "absent" not in row]
    shown = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows)]
    shown = shown[1:] if table.get("alone") else shown  # these are not ways of doing the same
    unit = f"{table['unit']} (least - most)"
    lines = [["", unit, *(heading for _, heading, _ in shown)]]
    for row in rows:
        values = [text(row) if row.get(key) is not None else "" for key, _, text in shown]
        rate = [row["rate"], row["low"], row["high"]]
        if table["unit"] == "s":  # of one, instead of how many a second
            rate = [1 / row["rate"], 1 / row["high"], 1 / row["low"]]
        median, least, most = map(figure, rate)
        lines.append([named(row), f"{median} ({least} - {most})", *values])
    return lines


def named(row: Row) -> str:
    """What it is called, with what is particular about it."""
    return f"{row['name']} ({row['note']})" if row.get("note") else str(row["name"])


def remarks(table: Table) -> list[str]:
    """What is to be said below it: what it was measured against, and what is missing."""
    rounds = max((len(row.get("seconds", [])) for row in table.get("rows", [])), default=0)
    lines = [f"Medians of {rounds} rounds, taken in turns."] if rounds else []
    if "peak" in table:
        product, copy = table["peak"]["product"], table["peak"]["copy"]
        lines.append(
            f"The machine's peak in the same run: {figure(product['flops'] / 1e9)} GFLOP/s in a large "
            f"{product['dtype']} matrix product, {figure(copy['bandwidth'] / 1e9)} GB/s in a large copy."
        )
    lines += table.get("remarks", [])
    return [*lines, *(f"{row['name']}: {row['absent']}" for row in table.get("rows", []) if "absent" in row)]


def plain(result: dict[str, Any]) -> str:
    """For a terminal."""
    parts = [on(result["machine"])]
    for table in result["tables"]:
        parts += ["", table["title"], "", aligned(cells(table)), "", *remarks(table)]
    return "\n".join(parts)


def markdown(result: dict[str, Any]) -> str:
    """For a document."""
    parts = [f"`{result['command']}`, on {on(result['machine'])}."]
    for table in result["tables"]:
        head, *rows = [[text.replace("|", "\\|") for text in line] for line in cells(table)]
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        parts += ["", f"**{table['title']}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""]
        parts += [" ".join(remarks(table))]
    return "\n".join(parts) + "\n"


def on(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    gpu = f"{machine['device']}, " if machine["device"] != "cpu" else ""
    cores = f"{machine['cores']} cores of {machine['processor']}"
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return f"{gpu}{cores}, {threads}, load {machine['load']}; Python {machine['python']}, {versions}"
