"""A plan as text: what each stage takes, what a process would hold, and every assumption. Imports no torch."""

from __future__ import annotations

from typing import Any

from unclip.bench.tables import figure
from unclip.runs.cells import aligned

Result = dict[str, Any]
Row = dict[str, Any]
DAY = 86400
NOT_ASSUMED = ("stages", "out", "calibrate")
TIME = [
    "", "M parameters", "GFLOP a sample", "batch", "steps", "ms a step", "computing", "exchanging", "of it waited for",
    "loading", "days", "GPU days",
]  # fmt: skip
MEMORY = ["", "by", "pieces", "blocks again", "all", "weights to averages", "whole batch", "activations"]
NETWORK = [
    "", "GB a step and GPU", "GB/s a GPU", "pairs/s", "reads GB/s", "data TB", "checkpoint GB", "s to write it",
]  # fmt: skip


def plain(result: Result) -> str:
    """For a terminal."""
    parts = [heading(result)]
    for title, rows in tables(result).items():
        parts += ["", title, "", aligned(rows)]
    parts += ["", "Because of the data", "", *held(result)]
    return "\n".join([*parts, "", "Assumptions", "", aligned(assumptions(result))])


def markdown(result: Result) -> str:
    """For a document."""
    parts = [f"`{result['command']}`: {heading(result)}."]
    for title, rows in tables(result).items():
        parts += ["", f"**{title}**", "", *_table(rows)]
    parts += ["", "**Because of the data**", "", *(f"- {line}" for line in held(result))]
    rows = [["key", "value", ""], *assumptions(result)]
    return "\n".join([*parts, "", "**Assumptions**", "", *_table(rows)]) + "\n"


def heading(result: Result) -> str:
    """GPUs, nodes and pairs in a line."""
    request = result["assumed"]
    nodes = -(-request["gpus"] // request["gpus_per_node"])
    return f"{request['gpus']} GPUs on {nodes} nodes, {request['pairs']:,.0f} pairs"


def tables(result: Result) -> dict[str, list[list[str]]]:
    """By title: headings, then a row a stage."""
    stages: dict[str, Row] = result["stages"]
    days = sum(row["seconds"] for row in stages.values()) / DAY
    total = ["all", *[""] * 9, figure(days), figure(days * result["assumed"]["gpus"])]
    return {
        "Time": [TIME, *([name, *_time(row)] for name, row in stages.items()), total],
        "Memory of a GPU, GB": [MEMORY, *([name, *_memory(row)] for name, row in stages.items())],
        "Network and storage": [NETWORK, *([name, *_network(row)] for name, row in stages.items())],
    }


def _time(row: Row) -> list[str]:
    parts = (row[key] * 1e3 for key in ("step", "compute", "travel", "exposed", "loading"))
    days = row["seconds"] / DAY
    counted = [figure(row["parameters"] / 1e6), figure(row["flop"] / 1e9), f"{row['batch']:,}"]
    each = [f"{row['steps']:,.0f}", *map(figure, parts)]
    return [*counted, *each, figure(days), figure(days * row["gpus"])]


def _memory(row: Row) -> list[str]:
    fits = str(row["pieces"]) if row["pieces"] else "does not fit"
    sizes = (row[key] / 1e9 for key in ("memory", "state_bytes", "fixed_bytes", "activation_bytes"))
    how = "FSDP" if row["sharded"] else "DDP"
    return [how, fits, "yes" if row["recomputed"] else "no", *map(figure, sizes)]


def _network(row: Row) -> list[str]:
    moved, read = row["moved_bytes"] / 1e9, row["read_bytes"] / 1e9
    rates = [figure(moved), figure(moved / row["step"]), figure(row["rate"]), figure(read)]
    kept = [figure(row["stored_bytes"] / 1e12), figure(row["checkpoint_bytes"] / 1e9)]
    return [*rates, *kept, figure(row["checkpoint_seconds"])]


def held(result: Result) -> list[str]:
    """What stands in the way of so many pairs: what each process keeps in memory, beside what a node has."""
    request, pairs, lines = result["assumed"], dict(result["pairs"]), []
    seconds = pairs.pop("embedding_seconds", None)
    ranks = min(request["gpus"], request["gpus_per_node"])
    for name, size in pairs.items():
        here, node = (f"{figure(x / 1e12)} TB" for x in (size, size * ranks))
        over = (
            f", more than its {figure(request['host'] / 1e12)} TB" if size * ranks > request["host"] else ""
        )
        lines.append(f"{name}: {here} in each process, {node} on a node{over}")
    if seconds is not None:
        lines.append(f"making the embeddings: {figure(seconds / 3600)} hours on all GPUs, computing alone")
    return lines


def assumptions(result: Result) -> list[list[str]]:
    """Every key, its value, and where that is from."""
    typed = {word.partition("=")[0] for word in result["command"].split()}
    rows = []
    for key, value in result["assumed"].items():
        if key in NOT_ASSUMED:
            continue
        source = f"measured: {result['sources'][key]}" if key in result["sources"] else ""
        number = f"{value:.6g}" if isinstance(value, float) else str(value)
        rows.append([key, number, source or ("given" if key in typed else "assumed")])
    return rows


def _table(rows: list[list[str]]) -> list[str]:
    head, *rest = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rest]
    return [f"| {' | '.join(line)} |" for line in lines]
