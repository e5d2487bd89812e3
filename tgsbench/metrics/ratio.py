"""Is one throughput higher than another? Ratio, propagated interval, rank test, verdict; no scipy."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import comb, erfc, exp, log, sqrt

from msgspec import Struct

from tgsbench.schema.run import Verdict

SIGNIFICANCE = 0.05
SAME_WITHIN = 0.01
"""A significant difference below 1 % is still called the same: published figures carry no finer detail."""
EQUIVALENT_WITHIN = 0.02
"""An interval that lies inside 1 ± 2 % shows that two rows are the same; a wider one shows nothing."""
_EXACT_UP_TO = 400
"""n1 · n2 up to which the rank-sum distribution is counted exactly (44 x 45 would take 0.9 s)."""

_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t, two-sided 95 %, by degrees of freedom from 1."""

Interval = tuple[float, float]


class Ratio(Struct, frozen=True, kw_only=True):
    """One figure over another."""

    value: float
    ci95: Interval | None = None
    """None where neither side has an interval, or one side has samples but too few for one."""
    p_value: float | None = None
    """Mann–Whitney U, two-sided; None without samples enough to ever reach 5 %."""
    method: str = ""
    """How the interval and the p-value were found."""


def of_medians(
    a: float, a_ci95: Interval | None, b: float, b_ci95: Interval | None, p_value: float | None = None
) -> Ratio:
    """a / b with the intervals of both propagated in logarithms, in quadrature.

    A side without an interval is taken as exact, which is right for a published figure only.
    """
    value = a / b
    if a_ci95 is None and b_ci95 is None:
        return Ratio(value=value, p_value=p_value, method="no interval on either side")
    down_a, up_a = _log_arms(a, a_ci95)
    down_b, up_b = _log_arms(b, b_ci95)
    low = value * exp(-sqrt(down_a**2 + up_b**2))
    high = value * exp(sqrt(up_a**2 + down_b**2))
    return Ratio(
        value=value, ci95=(low, high), p_value=p_value, method="intervals of the medians, propagated"
    )


def of_pairs(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Geometric mean of paired ratios of alternating runs, Student's t on their logarithms."""
    logs = [log(a / b) for a, b in pairs]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Ratio(value=exp(mean), method="one pair of runs: no interval")
    arm = student_t975(len(logs) - 1) * statistics.stdev(logs) / sqrt(len(logs))
    return Ratio(
        value=exp(mean),
        ci95=(exp(mean - arm), exp(mean + arm)),
        method=f"{len(logs)} pairs of runs, Student's t on log ratios",
    )


def of_runs(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Ratio of geometric means of two groups of runs, each run one figure; Welch's t on their logarithms.

    Both groups have at least two runs. The spread between runs decides, not that between steps of one.
    """
    logs_a, logs_b = [log(x) for x in a], [log(x) for x in b]
    share_a, share_b = statistics.variance(logs_a) / len(a), statistics.variance(logs_b) / len(b)
    value = exp(statistics.fmean(logs_a) - statistics.fmean(logs_b))
    arm = student_t975(_welch_df(share_a, len(a), share_b, len(b))) * sqrt(share_a + share_b)
    return Ratio(
        value=value,
        ci95=(value * exp(-arm), value * exp(arm)),
        p_value=mann_whitney(a, b),
        method=f"{len(a)} and {len(b)} runs, Welch's t on log TGS",
    )


def mean_of_runs(figures: Sequence[float]) -> tuple[float, Interval | None]:
    """Geometric mean of runs and its 95 % interval, Student's t on logarithms; one run has no interval."""
    logs = [log(x) for x in figures]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return exp(mean), None
    arm = student_t975(len(logs) - 1) * statistics.stdev(logs) / sqrt(len(logs))
    return exp(mean), (exp(mean - arm), exp(mean + arm))


def _welch_df(share_a: float, n_a: int, share_b: float, n_b: int) -> int:
    """Welch–Satterthwaite degrees of freedom, rounded down."""
    spread = share_a**2 / (n_a - 1) + share_b**2 / (n_b - 1)
    return max(1, int((share_a + share_b) ** 2 / spread)) if spread else n_a + n_b - 2


def student_t975(df: int) -> float:
    """Two-sided 95 % quantile of Student's t; beyond 30 degrees Cornish–Fisher to within 0.2 %."""
    z = 1.959964
    return _T975[df - 1] if df <= len(_T975) else z + (z**3 + z) / (4 * df)


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of the Mann–Whitney U test; None when so few samples could never show a difference.

    Exact over all ways to deal the observed (mid-)ranks while n1 · n2 ≤ 400, else normal with tie and
    continuity correction (Conover, Practical Nonparametric Statistics, 5.1).
    """
    if not a or not b or 2 / comb(len(a) + len(b), len(a)) > SIGNIFICANCE:
        return None
    ranks = _double_midranks([*a, *b])
    if len(a) * len(b) <= _EXACT_UP_TO:
        return _exact_p(ranks, len(a))
    return _normal_p(ranks, len(a))


def verdict(ratio: Ratio) -> Verdict:
    """Better, worse, same or not significant, for a ratio of comparable rows where more is better."""
    low, high = ratio.ci95 or (ratio.value, ratio.value)
    if ratio.ci95 is None and ratio.p_value is None:
        return "not significant"
    excludes_one = ratio.ci95 is None or not low <= 1 <= high
    significant = excludes_one and (ratio.p_value is None or ratio.p_value < SIGNIFICANCE)
    if significant:
        if abs(ratio.value - 1) < SAME_WITHIN:
            return "same"
        return "better" if ratio.value > 1 else "worse"
    equivalent = ratio.ci95 is not None and low >= 1 - EQUIVALENT_WITHIN and high <= 1 + EQUIVALENT_WITHIN
    return "same" if equivalent else "not significant"


_80_TO_95 = 1.95996 / 1.28155
"""Quantiles of the normal distribution, two-sided."""


def widened(value: float, range80: Interval) -> Interval:
    """The 95 % interval of an estimate whose 80 % interval is known, its logarithm taken as normal."""
    down, up = _log_arms(value, range80)
    return value * exp(-_80_TO_95 * down), value * exp(_80_TO_95 * up)


def _log_arms(value: float, ci95: Interval | None) -> tuple[float, float]:
    if ci95 is None:
        return 0.0, 0.0
    return log(value / ci95[0]), log(ci95[1] / value)


def _double_midranks(values: list[float]) -> list[int]:
    """Twice the mid-rank of each value, so that ties stay whole numbers."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or values[order[end]] != values[order[start]]:
            for index in order[start:end]:
                ranks[index] = start + end + 1
            start = end
    return ranks


def _exact_p(ranks: list[int], n: int) -> float:
    """Share of all n-subsets whose rank sum is at least as extreme, two-sided."""
    ways: list[dict[int, int]] = [{0: 1}, *({} for _ in range(n))]
    for rank in ranks:
        for size in range(n, 0, -1):
            for total, count in ways[size - 1].items():
                ways[size][total + rank] = ways[size].get(total + rank, 0) + count
    seen = sum(ranks[:n])
    at_most = sum(count for total, count in ways[n].items() if total <= seen)
    at_least = sum(count for total, count in ways[n].items() if total >= seen)
    return min(1.0, 2 * min(at_most, at_least) / comb(len(ranks), n))


def _normal_p(ranks: list[int], n: int) -> float:
    total, m = len(ranks), len(ranks) - n
    mean = n * (total + 1) / 2
    ties = sum(ranks.count(rank) ** 3 - ranks.count(rank) for rank in set(ranks))
    variance = n * m / 12 * ((total + 1) - ties / (total * (total - 1)))
    if variance == 0:
        return 1.0
    distance = max(0.0, abs(sum(ranks[:n]) / 2 - mean) - 0.5)
    return erfc(distance / sqrt(2 * variance))
