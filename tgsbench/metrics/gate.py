"""Is a new measurement slower than a baseline, and how many runs does it take to say so? Pure.

A loss as large as the margin passes in at most 1 - power of cases, and without any loss the gate fails in at
most about 2.5 of 100: it fails when the ratio's 95 % interval lies below 1 and the ratio itself below the
middle between 1 and 1 - margin. Both sides are runs of one machine, so their spread is taken as one (pooled;
Welch's t of three new runs would miss one loss in four). The number of runs follows from that spread alone,
never from their mean, so that looking at it again and again favours neither end (Stein 1945).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from tgsbench.metrics.ratio import Interval, Ratio, student_t975

Finding = Literal["pass", "slower", "undecided"]

_Z975: Final = 1.959964
LEAST_RUNS: Final = 3
"""Of either side: two give Student's t 12.7 standard errors."""


class Wish(Struct, frozen=True, kw_only=True):
    """What the gate is to find, and how surely."""

    margin: float = 0.05
    """Loss that must not pass, as a share of the baseline's TGS."""
    power: float = 0.9
    """Share of such losses that are found."""
    most_runs: int = 20
    """Of one preset; what they cannot decide stays undecided."""


class Decision(Struct, frozen=True, kw_only=True):
    """What the runs say."""

    finding: Finding
    ratio: Ratio
    """New over baseline; below 1 is slower."""


def spread(baseline: Sequence[float], new: Sequence[float]) -> float:
    """Standard deviation between runs, of log TGS, pooled over both sides."""
    groups = [[math.log(tgs) for tgs in side] for side in (baseline, new) if len(side) > 1]
    free = sum(len(logs) - 1 for logs in groups)
    squares = sum(statistics.variance(logs) * (len(logs) - 1) for logs in groups)
    return math.sqrt(squares / free) if free else 0.0


def runs_needed(baseline: Sequence[float], new: Sequence[float], wish: Wish) -> int | None:
    """New runs that find a loss of the margin with the wanted power; None when no number of them can.

    The standard error of the log ratio, s · sqrt(1/n + 1/n_baseline), must stay below |log(1 - margin)|
    divided by the quantiles of interval and power; the baseline's own runs bound it from below.
    """
    t975 = student_t975(max(1, len(baseline) + len(new) - 2))
    # The quantile of the power is widened as that of the interval is: both know the spread as well.
    quantiles = t975 * (1 + statistics.NormalDist().inv_cdf(wish.power) / _Z975)
    allowed = (math.log1p(-wish.margin) / quantiles) ** 2
    variance = spread(baseline, new) ** 2
    left = allowed - variance / len(baseline)
    if left <= 0:
        return None
    return max(LEAST_RUNS, math.ceil(variance / left))


def _ratio(baseline: Sequence[float], new: Sequence[float]) -> tuple[Ratio, Interval]:
    """New over baseline with its 95 % interval, Student's t with one spread for both."""
    value = statistics.geometric_mean(new) / statistics.geometric_mean(baseline)
    error = spread(baseline, new) * math.sqrt(1 / len(new) + 1 / len(baseline))
    arm = student_t975(len(new) + len(baseline) - 2) * error
    ci95 = (value * math.exp(-arm), value * math.exp(arm))
    method = f"{len(new)} and {len(baseline)} runs, Student's t on log TGS, one spread"
    return Ratio(value=value, ci95=ci95, method=method), ci95


def decide(baseline: Sequence[float], new: Sequence[float], wish: Wish) -> Decision:
    """What the runs there are say; both sides have LEAST_RUNS at least."""
    ratio, (low, high) = _ratio(baseline, new)
    if high < 1 and ratio.value < 1 - wish.margin / 2:
        return Decision(finding="slower", ratio=ratio)
    needed = runs_needed(baseline, new, wish)
    is_enough = needed is not None and len(new) >= needed
    return Decision(finding="pass" if is_enough or low > 1 - wish.margin else "undecided", ratio=ratio)
