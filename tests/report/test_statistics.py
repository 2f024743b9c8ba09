"""Statistics over seeds: exact against scipy, and what they find in made-up sweeps whose truth is known."""

from __future__ import annotations

import math
import random

import pytest
import scipy.stats

from unclip.report import measures
from unclip.report.sheets import Field
from unclip.report.statistics import (
    against,
    estimate,
    holm,
    holm_levels,
    judge,
    paired,
    parse,
    t_quantile,
    t_two_sided,
)

GENERATOR = random.Random(0)


def sweep(effects: dict[str, float], seeds: int, generator: random.Random) -> dict[str, dict[int, float]]:
    """Values with a part that a seed gives to all cells (sd 1) and one of each run's own (sd 0.5)."""
    common = [generator.gauss(0, 1) for _ in range(seeds)]
    return {
        name: {s: 20 + effect + common[s] + generator.gauss(0, 0.5) for s in range(seeds)}
        for name, effect in effects.items()
    }


# ---- against scipy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 9, 10, 31, 100, 1001])
def test_students_t_is_scipys(df: int) -> None:
    for t in (0.0, 1e-3, 0.7, -2.5, 6.0, 30.0):
        assert t_two_sided(t, df) == pytest.approx(2 * scipy.stats.t.sf(abs(t), df), rel=1e-9, abs=3e-15)
    for alpha in (0.9, 0.05, 0.05 / 17, 1e-4):
        assert t_quantile(alpha, df) == pytest.approx(scipy.stats.t.ppf(1 - alpha / 2, df), rel=1e-9)


def test_a_quantile_outside_its_range_is_refused() -> None:
    for alpha, df in ((0, 3), (1, 3), (0.05, 0)):
        with pytest.raises(ValueError, match="must satisfy 0 < alpha < 1 and df >= 1"):
            t_quantile(alpha, df)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_means_and_paired_differences_are_scipys(n: int) -> None:
    a = {s: GENERATOR.gauss(12, 3) for s in range(n)}
    b = {s: a[s] + GENERATOR.gauss(0.5, 1) for s in range(n)}
    mean = estimate(list(a.values()))
    low, high = scipy.stats.ttest_1samp(list(a.values()), 0).confidence_interval(0.95)
    assert (mean.low, mean.high) == pytest.approx((low, high), rel=1e-9)
    theirs = scipy.stats.ttest_rel(list(a.values()), list(b.values()))
    ours = paired(a, b)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    for alpha in (0.05, 0.01):
        low, high = theirs.confidence_interval(1 - alpha)
        assert (ours.at(alpha).low, ours.at(alpha).high) == pytest.approx((low, high), rel=1e-9)


def test_only_equal_seeds_are_paired() -> None:
    difference = paired({0: 1.0, 1: 2.0, 2: 50.0}, {1: 1.5, 0: 0.9, 7: -40.0})
    assert difference.n == 2
    assert difference.mean == pytest.approx((0.1 + 0.5) / 2)


# ---- Holm -------------------------------------------------------------------------------------------------------


def test_holm_as_worked_by_hand() -> None:
    """Four tests: 4 x 0.005, 3 x 0.01, and from then on the largest so far."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_levels([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])
    assert holm([]) == []


def test_the_corrected_interval_leaves_out_zero_exactly_where_holm_rejects() -> None:
    generator = random.Random(5)
    rejected = 0
    for _ in range(300):
        effects = {"base": 0.0, **{f"c{i}": generator.choice((0.0, 0.6, 1.5)) for i in range(5)}}
        for found in against("base", sweep(effects, 4, generator)).values():
            outside = found.difference.low > 0 or found.difference.high < 0
            assert outside == (found.p <= 0.05)
            rejected += outside
    assert 200 < rejected < 1300


def test_holms_error_of_the_whole_family_stays_below_five_percent_where_uncorrected_it_does_not() -> None:
    """Eight independent true nulls: 1 - 0.95^8 = 34% uncorrected, at most 5% corrected."""
    generator = random.Random(1)
    sweeps, corrected, uncorrected = 4000, 0, 0
    for _ in range(sweeps):
        p = [estimate([generator.gauss(0, 1) for _ in range(5)]).p for _ in range(8)]
        corrected += min(holm(p)) <= 0.05
        uncorrected += min(p) <= 0.05
    assert corrected / sweeps == pytest.approx(1 - (1 - 0.05 / 8) ** 8, abs=0.01)
    assert uncorrected / sweeps == pytest.approx(1 - 0.95**8, abs=0.025)


# ---- verdicts ---------------------------------------------------------------------------------------------------


def test_a_planted_difference_is_found_in_nine_sweeps_of_ten() -> None:
    """An effect of 2.0, paired differences with a spread of 0.5 * sqrt(2), five seeds, three claims in the family."""
    generator = random.Random(2)
    effects = {"linear": 2.0, "cosine": 0.0, "sigmoid": 0.0}
    claims = ["cosine < linear", "sigmoid < linear", "cosine <= sigmoid"]
    sweeps = 1000
    verdicts = [[j.verdict for j in judge(claims, sweep(effects, 5, generator))] for _ in range(sweeps)]
    for claim in (0, 1):
        assert sum(v[claim] == "reproduced" for v in verdicts) / sweeps >= 0.90
        assert not any(v[claim] == "contradicted" for v in verdicts)
    turned = judge(["linear < cosine"], sweep(effects, 5, generator))
    assert turned[0].verdict == "contradicted"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_where_there_is_none_at_least_95_of_100_sweeps_are_inconclusive(seeds: int) -> None:
    generator = random.Random(seeds)
    names = ["base", "b", "c", "d", "e"]
    claims = [f"{name} < base" for name in names[1:]]
    sweeps = 4000
    quiet = 0
    for _ in range(sweeps):
        found = judge(claims, sweep(dict.fromkeys(names, 0.0), seeds, generator))
        quiet += all(j.verdict == "inconclusive" for j in found)
    assert quiet / sweeps >= 0.95


def test_one_seed_says_nothing_however_large_the_difference() -> None:
    (found,) = judge(["a < b"], {"a": {0: 1.0}, "b": {0: 1000.0}})
    assert (found.verdict, found.comparisons[0].why) == ("inconclusive", "one seed")
    assert math.isnan(found.comparisons[0].difference.low)


def test_equal_differences_are_judged_by_their_signs_as_they_have_no_spread() -> None:
    """Shares of 500 pictures: two seeds that both gain one picture are no certainty; ten are."""
    cells = {"a": {0: 0.962, 1: 0.970}, "b": {0: 0.960, 1: 0.968}}
    (found,) = judge(["a > b"], cells)
    (one,) = found.comparisons
    assert (found.verdict, one.p, one.difference.error) == ("inconclusive", 0.5, 0)
    assert one.why == "all 2 differences are equal, and too few"
    many = {name: {s: (level + 7 * s) / 500 for s in range(10)} for name, level in (("a", 401), ("b", 400))}
    (found,) = judge(["a > b"], many)
    assert (found.verdict, found.comparisons[0].p) == ("reproduced", scipy.stats.binomtest(0, 10).pvalue)


@pytest.mark.parametrize("seeds", [2, 3])
def test_counts_that_often_agree_are_called_different_no_oftener_than_stated(seeds: int) -> None:
    """Differences of a picture or none between equals: a t-test alone calls 13% of pairs of seeds different."""
    generator = random.Random(seeds)
    sweeps = [[float(round(generator.gauss(0, 1))) for _ in range(seeds)] for _ in range(4000)]
    assert sum(estimate(d).p <= 0.05 for d in sweeps) / len(sweeps) <= 0.05


def test_what_cannot_be_compared_says_why() -> None:
    cells = {"a": {0: 1.0, 1: 1.1}, "none": {}, "other": {5: 1.0, 6: 2.0}, "broken": {0: math.nan, 1: 2.0}}
    why = {name: found.why for name, found in against("a", cells).items()}
    assert why == {"none": "no values", "other": "no seed in common", "broken": "a value is not finite"}
    assert {found.verdict for found in against("a", cells).values()} == {"inconclusive"}


def test_relations_and_chains() -> None:
    cells = {
        name: {s: level + 0.01 * s * sign for s in range(4)}
        for name, level, sign in (("a", 1.0, 1), ("b", 2.0, -1), ("c", 3.0, 1))
    }
    assert parse("a < b <= c") == [("a", "<", "b"), ("b", "<=", "c")]
    assert parse("min-SNR 5 >= uniform, eps") == [("min-SNR 5", ">=", "uniform, eps")]
    expected = {
        "a < b": "reproduced",
        "a >= b": "contradicted",
        "c > b > a": "reproduced",
        "a < c < b": "contradicted",
    }
    assert {j.claim: j.verdict for j in judge(list(expected), cells)} == expected
    same = {"x": {0: 1.0, 1: 2.0}, "y": {0: 1.0, 1: 2.0}}
    assert [j.verdict for j in judge(["x < y", "x <= y"], same)] == ["inconclusive", "reproduced"]


def test_a_claim_that_cannot_be_read_or_names_no_cell_is_one_line() -> None:
    for claim in ("a", "a<b", "< b", "a < b <", ""):
        with pytest.raises(ValueError, match="is no comparison; possible: names with < <= > >= between"):
            parse(claim)
    with pytest.raises(ValueError, match=r"cosin is no cell; nearest: cosine; possible: cosine, linear"):
        judge(["cosin < linear"], {"cosine": {}, "linear": {}})


def test_the_interval_of_a_share_is_shown_within_0_and_1() -> None:
    for name in ("prdc.recall", "prompt_consistency", "val/consistency_n500", "val/zero_shot_accuracy"):
        assert measures.share(name)
    for name in ("fd", "prdc.density", "prior", "val/cosine", "val/loss"):
        assert not measures.share(name)
    high, low = estimate([0.99, 0.9, 0.999]), estimate([0.001, 0.0, 0.1])
    assert (high.high > 1, low.low < 0) == (True, True)
    assert (Field(high, False, True).interval, Field(low, False, True).interval) == (
        "0.83 to 1.00",
        "0.00 to 0.18",
    )
    assert Field(high, False).interval == f"{high.low:.2f} to {high.high:.2f}"
