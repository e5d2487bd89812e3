"""Which rank holds the others up, and which one has gone silent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tgsbench.metrics.trend import StepRow

SLOW_RATIO = 1.1
"""A rank this much over the median rank counts as slow in a step."""
SLOW_STEPS = 3
"""Consecutive slow steps that make a straggler: fewer is jitter."""


@dataclass(frozen=True)
class Straggler:
    """A rank that was slower than the median rank in each of the newest steps."""

    rank: int
    ratio: float
    """Its step time over the median rank's, the median of the steps looked at."""
    num_steps: int


@dataclass(frozen=True)
class Silent:
    """A rank that has reported nothing for too long, or is behind the others by whole steps."""

    rank: int
    silent_s: float
    """Seconds since its newest event; NaN when the events are not live."""
    steps_behind: int


def slow_ratios(values: Sequence[float]) -> list[float]:
    """Each rank's value over the median of those that reported; NaN where a rank did not."""
    known = [v for v in values if v == v]
    median = statistics.median(known) if known else math.nan
    if not median > 0:
        return [math.nan] * len(values)
    return [v / median for v in values]


def find_stragglers(rows: Sequence[StepRow]) -> list[Straggler]:
    """Ranks over SLOW_RATIO in each of the last SLOW_STEPS rows, slowest first."""
    last = rows[-SLOW_STEPS:]
    if len(last) < SLOW_STEPS:
        return []
    ratios = [slow_ratios(row.step_s) for row in last]
    found = []
    for rank in range(len(last[0].step_s)):
        own = [row[rank] for row in ratios]
        if all(r >= SLOW_RATIO for r in own):
            found.append(Straggler(rank, statistics.median(own), len(own)))
    return sorted(found, key=lambda s: -s.ratio)


def find_silent(
    seen_at: Sequence[float], steps: Sequence[int], *, now: float, limit_s: float
) -> list[Silent]:
    """Ranks without an event for `limit_s`, and ranks two or more steps behind the front.

    `seen_at` and `now` are the reader's monotonic clock; NaN in `seen_at`: never heard of.
    """
    front = max(steps, default=-1)
    found = []
    for rank, (seen, step) in enumerate(zip(seen_at, steps, strict=True)):
        silent_s = now - seen
        if silent_s > limit_s or front - step >= 2:
            found.append(Silent(rank, silent_s, front - step))
    return sorted(found, key=lambda s: (-s.steps_behind, s.rank))
