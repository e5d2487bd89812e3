"""Finds outliers among repeated times of one thing, and a trend from the first to the last."""

from __future__ import annotations

import itertools
import statistics
from array import array
from collections.abc import Sequence
from math import erfc, sqrt

from tgsbench import units

LEAST = 5
"""Fewer figures have no outliers and no trend that could be told from chance."""
_OUTLIER_MADS = 14.826
"""Median absolute deviations; hyperfine's threshold: ten standard deviations of a normal distribution."""
_TREND_P = 0.01
_TREND_SHARE = 0.03
"""A trend of less than 3 % from end to end is no reason to doubt a median."""


def oddities(times_s: Sequence[float], what: str) -> list[str]:
    """Sentences on outliers and drift among times in seconds; `what` they are times of: "step", "run"."""
    return [text for text in (_outliers(times_s, what), drift(times_s, what)) if text]


def outliers(samples: Sequence[float]) -> list[int]:
    """Indices of samples that are far from the others; none among fewer than five."""
    if len(samples) < LEAST:
        return []
    middle = statistics.median(samples)
    mad = statistics.median(abs(x - middle) for x in samples)
    return [i for i, x in enumerate(samples) if mad and abs(x - middle) > _OUTLIER_MADS * mad]


def trend(samples: Sequence[float]) -> tuple[float, float]:
    """Change from the first to the last as a share of the median, and its two-sided p.

    Theil–Sen slope; Mann–Kendall test by its normal approximation with continuity correction.
    """
    n = len(samples)
    if n < LEAST:
        return 0.0, 1.0
    score, slopes = 0, array("d")
    for i, j in itertools.combinations(range(n), 2):
        rise = samples[j] - samples[i]
        score += (rise > 0) - (rise < 0)
        slopes.append(rise / (j - i))
    ties = sum(c * (c - 1) * (2 * c + 5) for c in map(samples.count, set(samples)))
    variance = (n * (n - 1) * (2 * n + 5) - ties) / 18
    if variance <= 0:
        return 0.0, 1.0
    slope = statistics.median(slopes)
    p_value = erfc(max(0.0, abs(score) - 1) / sqrt(2 * variance))
    return slope * (n - 1) / statistics.median(samples), p_value


def _outliers(times_s: Sequence[float], what: str) -> str:
    found = outliers(times_s)
    if not found:
        return ""
    middle = statistics.median(times_s)
    worst = max(found, key=lambda i: abs(times_s[i] - middle))
    remedy = "quiet the machine" if found != [0] else "give it more warm-up"
    return (
        f"{len(found)} of {len(times_s)} measured {what}s lie far from the others "
        f"({what} {worst + 1} took {times_s[worst] / middle:.2f} x the median): {remedy} and measure again"
    )


_MOST = 500
"""Samples that a trend is looked for in: the pairs of more take a second."""


def drift(times_s: Sequence[float], what: str) -> str:
    """A sentence on a trend from the first to the last time, in seconds; empty without one."""
    every = -(-len(times_s) // _MOST) or 1
    change, p_value = trend(times_s[::every])
    if p_value >= _TREND_P or abs(change) < _TREND_SHARE:
        return ""
    how, why = ("slower", "heat or another load may be the cause") if change > 0 else _WARMS_UP
    return (
        f"measured {what}s get {how} from first to last, by {units.percent(abs(change))} in all "
        f"(p = {p_value:.2g}): {why}"
    )


_WARMS_UP = ("faster", "give it more warm-up (--warmup)")
