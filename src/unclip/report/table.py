"""metrics.json as a person reads it: a name, a value, and how it was measured. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from unclip.report.rows import SAID, Row, short


def rows(metrics: Mapping[str, Any]) -> list[Row]:
    """Name, value and provenance of each number, as a person reads them."""
    return [row for name, say in SAID.items() if metrics.get(name) for row in say(metrics[name])]


def headline(metrics: Mapping[str, Any]) -> list[Row]:
    """The few numbers to look at first, each with what real images get."""
    found = []
    if fd := metrics.get("fd"):
        real = "" if fd["floor"] is None else f"real images: {short(fd['floor'])}"
        found.append({"name": "Frechet distance", "value": short(fd["value"]), "beside": real})
    if seen := metrics.get("prompt_consistency"):
        low, high = seen["interval"]
        beside = f"{low:.3f} to {high:.3f}; real: {seen['real_test_images']:.3f}"
        found.append({"name": "shows what was asked", "value": f"{seen['value']:.3f}", "beside": beside})
    if shown := metrics.get("attributes"):
        held_out = shown.get("held_out")
        beside = f"; held-out combinations: {held_out['value']:.3f}" if held_out else ""
        beside = f"real: {shown['real_test_images']['value']:.3f}{beside}"
        found.append({"name": "every attribute right", "value": f"{shown['value']:.3f}", "beside": beside})
    if made := metrics.get("upsampling"):
        beside = f"Frechet distance; bicubic: {short(made['bicubic'])}; real images: {short(made['floor'])}"
        found.append({"name": "upsampled real images", "value": short(made["value"]), "beside": beside})
    if back := metrics.get("reconstruction"):
        kept = f"; class kept: {back['class_kept']['value']:.3f}" if "class_kept" in back else ""
        beside = f"root mean square, in grey levels{kept}"
        found.append({"name": "lost by the autoencoder", "value": f"{back['value']:.2f}", "beside": beside})
    if prdc := metrics.get("prdc"):
        for name, meaning in (("precision", "looks real"), ("recall", "of what is real, covered")):
            real = f"; real: {prdc['floor'][name]:.3f}" if prdc["floor"] else ""
            found.append({"name": name, "value": f"{prdc[name]:.3f}", "beside": meaning + real})
    if near := metrics.get("memorisation"):
        real = "" if near["baseline"] is None else f"grey levels; held-out images: {near['baseline']:.1f}"
        found.append({"name": "to the nearest real image", "value": f"{near['value']:.1f}", "beside": real})
    return found


def show(metrics: Mapping[str, Any]) -> None:
    """The table on the terminal; of a sweep, a line per combination too."""
    console = Console()
    if found := rows(metrics):
        table = Table("metric", "value", "how it was measured", box=None, pad_edge=False, header_style="bold")
        for row in found:
            table.add_row(row["name"], row["value"], row["how"])
        console.print(table)
    if cells := metrics.get("sweep"):
        headings, lines = sweep(cells)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in headings:
            table.add_column(heading, overflow="fold", justify="right")
        for line in lines:
            table.add_row(*line)
        console.print(table)


def sweep(cells: list[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line per combination, of the metrics that all of them have. None is marked as best: that depends
    on what it is for."""
    columns = [
        (heading, read) for heading, read in _COLUMNS.items() if all(read(c) is not None for c in cells)
    ]
    axes = list(cells[0]["of"])
    lines = [
        [*(str(cell["of"][axis]) for axis in axes), *(str(read(cell)) for _, read in columns)]
        for cell in cells
    ]
    return [*axes, *(heading for heading, _ in columns)], lines


def _of(metric: str, key: str, form: str, scale: float = 1) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda cell: f"{scale * cell[metric][key]:{form}}" if cell.get(metric) else None


_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "FD": _of("fd", "value", ".2f"),
    "FD inf": _of("fd_infinity", "value", ".2f"),
    "1000 KID": _of("kid", "value", ".2f", 1000),
    "CMMD": _of("cmmd", "value", ".3f"),
    "precision": _of("prdc", "precision", ".3f"),
    "recall": _of("prdc", "recall", ".3f"),
    "prompt": _of("prompt_consistency", "value", ".3f"),
    "retrieval": _of("prompt_retrieval", "value", ".3f"),
    "attributes": _of("attributes", "value", ".3f"),
    "round trip": _of("round_trip", "value", ".3f"),
    "brightness": _of("brightness", "value", ".4f"),
    "s": lambda cell: f"{cell['seconds']:.1f}",
}
