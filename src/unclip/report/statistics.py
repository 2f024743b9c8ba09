"""What seeds allow one to say: means with t-intervals, paired differences, claims judged with Holm's correction.

Plain Python on plain numbers; reads no files, and imports neither torch nor scipy.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

Seeds = Mapping[int, float]  # training seed -> a metric's value
Verdict = Literal["reproduced", "contradicted", "inconclusive"]
ALPHA = 0.05
EQUAL = 1e-9  # of their mean: what values of which each is a difference may be apart by rounding
RELATIONS = ("<", "<=", ">", ">=")


# ---- Student's t ------------------------------------------------------------------------------------------------


def t_two_sided(t: float, df: int) -> float:
    """P(|T| > |t|) of Student's t with a whole number of degrees of freedom.

    Abramowitz & Stegun 26.7.3 (odd) and 26.7.4 (even), exact finite sums with theta = atan(t / sqrt(df)).
    """
    if math.isnan(t):
        return math.nan
    theta = math.atan(abs(t) / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    first = 3 if df % 2 else 2
    term = total = (cosine if df % 2 else 1.0) if df > 1 else 0.0
    for k in range(first, df - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = 2 / math.pi * (theta + sine * total) if df % 2 else sine * total
    return min(max(1 - inside, 0.0), 1.0)


@cache
def t_quantile(alpha: float, df: int) -> float:
    """t with P(|T| > t) = alpha: half the width of a 1 - alpha interval, in standard errors."""
    if not 0 < alpha < 1 or df < 1:
        raise ValueError(f"alpha = {alpha}, df = {df}: must satisfy 0 < alpha < 1 and df >= 1")
    low, high = 0.0, 1.0
    while t_two_sided(high, df) > alpha:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_two_sided(middle, df) > alpha else (low, middle)
    return (low + high) / 2


# ---- means and differences --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with its interval; low and high are NaN for fewer than two."""

    n: int
    mean: float
    error: float  # standard error of the mean
    low: float
    high: float

    @property
    def p(self) -> float:
        """Two-sided, of a mean of zero: 1 for fewer than two seeds, which cannot contradict it. Of values without any
        spread, as metrics that count pictures may have, that of the sign test: two of them are no certainty."""
        if self.n < 2 or not math.isfinite(self.mean):
            return 1.0
        if self.error == 0:
            return 1.0 if self.mean == 0 else 2.0 ** (1 - self.n)
        return t_two_sided(self.mean / self.error, self.n - 1)

    def at(self, alpha: float) -> Estimate:
        """The same with its 1 - alpha interval."""
        if self.n < 2:
            return self
        half = t_quantile(alpha, self.n - 1) * self.error
        return Estimate(self.n, self.mean, self.error, self.mean - half, self.mean + half)


def estimate(values: Sequence[float], alpha: float = ALPHA) -> Estimate:
    """Mean and 1 - alpha t-interval of independent values, such as one metric of runs that differ in the seed."""
    n = len(values)
    if n == 0 or not all(math.isfinite(v) for v in values):
        return Estimate(n, math.nan, math.nan, math.nan, math.nan)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(1, mean, math.nan, math.nan, math.nan)
    if all(abs(v - mean) <= EQUAL * abs(mean) for v in values):
        return Estimate(n, mean, 0.0, mean, mean)
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return Estimate(n, mean, math.sqrt(variance / n), math.nan, math.nan).at(alpha)


def paired(a: Seeds, b: Seeds, alpha: float = ALPHA) -> Estimate:
    """The mean of a - b over the seeds that both have: what the seeds have in common cancels."""
    return estimate([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())], alpha)


# ---- several comparisons at once --------------------------------------------------------------------------------


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: all below alpha may be called different, with at most alpha for one error among them.

    Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted, running = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def holm_levels(p: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """The level at which Holm's procedure decides on each comparison: alpha / m for the smallest p, alpha / (m - 1) for
    the next, and where one fails, its level for all that follow. The t-interval at this level leaves out zero exactly
    where the adjusted p is below alpha."""
    levels, failed = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        levels[i] = failed or alpha / (len(p) - rank)
        if p[i] > levels[i]:
            failed = levels[i]
    return levels


@dataclass(frozen=True)
class Comparison:
    """left RELATION right: the paired difference left - right with the interval that decides, and what it says."""

    left: str
    relation: str
    right: str
    difference: Estimate
    p: float  # adjusted
    verdict: Verdict
    why: str  # where nothing could be said: "one seed", ...


@dataclass(frozen=True)
class Judged:
    """A claim with its comparisons: reproduced if all are, contradicted if any is."""

    claim: str
    verdict: Verdict
    comparisons: tuple[Comparison, ...]


def parse(claim: str) -> list[tuple[str, str, str]]:
    """(left, relation, right) of each neighbouring pair of `a < b`, `a <= b < c`, ...; relations stand between spaces.

    Raises ValueError where it is no such chain.
    """
    parts = re.split(r"\s+(<=|>=|<|>)\s+", claim.strip())
    names, relations = [name.strip() for name in parts[::2]], parts[1::2]
    if not relations or not all(names) or any(set("<>") & set(name) for name in names):
        possible = " ".join(RELATIONS)
        raise ValueError(
            f"claim {claim!r} is no comparison; possible: names with {possible} between, spaces around"
        )
    return list(zip(names[:-1], relations, names[1:], strict=True))


def judge(claims: Sequence[str], cells: Mapping[str, Seeds], alpha: float = ALPHA) -> list[Judged]:
    """The verdict of each claim about cells (name -> seed -> value), corrected for all comparisons of all claims.

    Raises ValueError for a claim that cannot be read or names no cell.
    """
    pairs = [parse(claim) for claim in claims]
    for name in (name for chain in pairs for left, _, right in chain for name in (left, right)):
        if name not in cells:
            near = difflib.get_close_matches(name, cells, 1)
            nearest = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"{name} is no cell{nearest}; possible: {', '.join(cells)}")
    flat = iter(_compared([pair for chain in pairs for pair in chain], cells, alpha))
    found = []
    for claim, chain in zip(claims, pairs, strict=True):
        comparisons = tuple(next(flat) for _ in chain)
        found.append(Judged(claim, _together([c.verdict for c in comparisons]), comparisons))
    return found


def against(baseline: str, cells: Mapping[str, Seeds], alpha: float = ALPHA) -> dict[str, Comparison]:
    """Each other cell minus the baseline, corrected for their number; `<` is reproduced where it is smaller."""
    others = [name for name in cells if name != baseline]
    compared = _compared([(name, "<", baseline) for name in others], cells, alpha)
    return dict(zip(others, compared, strict=True))


def _compared(
    pairs: Sequence[tuple[str, str, str]], cells: Mapping[str, Seeds], alpha: float
) -> list[Comparison]:
    differences = [paired(cells[left], cells[right]) for left, _, right in pairs]
    p = [difference.p for difference in differences]
    found = []
    for pair, difference, level, adjusted in zip(
        pairs, differences, holm_levels(p, alpha), holm(p), strict=True
    ):
        left, relation, right = pair
        decided = difference.at(level)
        why = _why_not(cells[left], cells[right], difference)
        if difference.error == 0 and difference.mean and adjusted > alpha:
            why = f"all {difference.n} differences are equal, and too few"
        verdict: Verdict = "inconclusive" if why else _side(relation, decided)
        found.append(Comparison(left, relation, right, decided, adjusted, verdict, why))
    return found


def _side(relation: str, difference: Estimate) -> Verdict:
    low, high = difference.low, difference.high
    if relation[0] == ">":
        low, high = -high, -low
    if high < 0 or (relation[-1] == "=" and high <= 0):
        return "reproduced"
    return "contradicted" if low > 0 else "inconclusive"


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    if "contradicted" in verdicts:
        return "contradicted"
    return "reproduced" if all(v == "reproduced" for v in verdicts) else "inconclusive"


def _why_not(a: Seeds, b: Seeds, difference: Estimate) -> str:
    if difference.n == 0:
        return "no seed in common" if a and b else "no values"
    if not math.isfinite(difference.mean):
        return "a value is not finite"
    return "one seed" if difference.n == 1 else ""
