"""Panels, and a figure as PNG or SVG bytes: the one place that knows how matplotlib is set up. Draws nothing."""

from __future__ import annotations

import io
from typing import Any


def panels(count: int, width: float, height: float, **settings: Any) -> tuple[Any, Any]:
    """A figure and its axes (count,) side by side, each `width` x `height` inches."""
    figure, axes = grid(1, count, width, height, **settings)
    return figure, axes[0]


def grid(rows: int, columns: int, width: float, height: float, **settings: Any) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns), each `width` x `height` inches; no window, whatever the display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = width * columns, height * rows
    return pyplot.subplots(rows, columns, figsize=size, squeeze=False, **settings)


def png(figure: Any) -> bytes:
    """The figure drawn; it is closed."""
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    pyplot.close(figure)
    return buffer.getvalue()


def svg(figure: Any) -> bytes:
    """The figure as SVG, the same bytes whenever it is drawn; it stays open, for png to follow."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "unclip"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
