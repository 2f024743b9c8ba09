"""metrics.json as a person reads it: a name, a value, and how it was measured. Imports no torch."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def rows(metrics: dict[str, Any]) -> list[dict[str, str]]:
    """Name, value and provenance of each number, as a person reads them."""
    found = []
    if consistency := metrics.get("prompt_consistency"):
        real = f"of real test images it gets {consistency['real_test_images']:.3f}"
        how = f"{consistency['n']} samples, {consistency['classifier']}; {real}"
        found.append({"name": "prompt consistency", "value": f"{consistency['value']:.3f}", "how": how})
        shares = consistency["per_caption"]
        lowest = min(shares, key=shares.get)
        found.append(
            {"name": "  of its worst caption", "value": f"{shares[lowest]:.3f}", "how": f'"{lowest}"'}
        )
    if back := metrics.get("round_trip"):
        how = f"{back['n']} test images: class kept through image, CLIP embedding, image"
        found.append({"name": "round trip", "value": f"{back['value']:.3f}", "how": how})
    if fd := metrics.get("fd"):
        how = (
            f"N = {fd['n']} against the {fd['reference']}, {fd['extractor']} features; "
            f"{fd['floor_n']} real test images: {fd['floor']:.2f}"
        )
        found.append({"name": "Frechet distance", "value": f"{fd['value']:.2f}", "how": how})
    if prior := metrics.get("prior"):
        how = (
            f"to the true embeddings of {prior['n']} test images; "
            f"another image of the caption {prior['same_caption_image']:.3f}, "
            f"a shuffled caption {prior['shuffled_caption']:.3f}"
        )
        found.append({"name": "prior's cosine", "value": f"{prior['value']:.3f}", "how": how})
    return found


def show(metrics: dict[str, Any]) -> None:
    """The table on the terminal."""
    table = Table("metric", "value", "how it was measured", box=None, pad_edge=False, header_style="bold")
    for row in rows(metrics):
        table.add_row(row["name"], row["value"], row["how"])
    Console().print(table)
