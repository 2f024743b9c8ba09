"""Error bars of single numbers: a share's, and a mean's over seeds. No tests of hypotheses."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # the normal distribution's 97.5% point
# Student's t at 97.5% by degrees of freedom
T95 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)


def wilson(share: float, n: int) -> list[float]:
    """The 95% interval of a share seen in n independent trials (Wilson 1927); unlike the normal one it stays in [0, 1]
    and has a width at 0 and 1."""
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    return [max(centre - half, 0.0), min(centre + half, 1.0)]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95% t-interval; NaN for one value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    t = T95[n - 2] if n - 2 < len(T95) else Z95
    return mean, t * math.sqrt(variance / n)
