"""The error bar of a share. Means over seeds have theirs in report/statistics.py."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # the normal distribution's 97.5% point


def wilson(share: float, n: int) -> list[float]:
    """The 95% interval of a share seen in n independent trials (Wilson 1927); unlike the normal one it stays in [0, 1]
    and has a width at 0 and 1."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    return [max(centre - half, 0.0), min(centre + half, 1.0)]
