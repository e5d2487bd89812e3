"""Which rank holds the others up, and which one has gone silent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tgsbench import units
from tgsbench.live.fold import LiveRun
from tgsbench.live.history import RankRow
from tgsbench.metrics.slow_ranks import HeldUp

SLOW_RATIO = 1.1
"""A rank this much over the median rank counts as slow in a step."""
SLOW_STEPS = 3
"""Consecutive slow steps that make a straggler: fewer is jitter."""
VERY_SLOW_RATIO = 1.5
VERY_SLOW_STEPS = 2
"""So much over the median in two steps is no jitter."""
SILENT_HEARTBEATS = 3.0
"""Heartbeats a rank may miss before it counts as silent, unless its steps are shorter than that."""
SILENT_STEPS = 2.0
LEAST_HEARTBEATS = 1.5
"""A rank that steps faster than it beats is silent no sooner than this."""
SLOW_CLOCK_RATIO = 0.9
"""A GPU's clock below this share of the median busy GPU's holds its rank back."""
_BUSY_UTIL = 50.0


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


@dataclass(frozen=True)
class SuspectRank:
    """A rank that holds the others up, as a person reads it."""

    rank: int
    host: str
    why: str

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host or 'host unknown'}) {self.why}"


def suspects(live: LiveRun, now_s: float, heartbeat_s: float) -> list[SuspectRank]:
    """Silent ranks first, then slow ones, then GPUs with slow clocks; a rank is named once."""
    if any(state.bye for state in live.ranks):
        return []
    limit_s = silence_limit_s(heartbeat_s, live.median_step_s)
    seen_at, steps = [s.seen_at for s in live.ranks], [s.step for s in live.ranks]
    found: dict[int, str] = {}
    quiet = find_silent(seen_at, steps, now=now_s, limit_s=limit_s)
    # Where most are silent nobody in particular is: the reader was held up, or the machine slept.
    for silent in quiet if len(quiet) <= live.world / 2 else ():
        behind = f", {silent.steps_behind} steps behind" if silent.steps_behind > 0 else ""
        found[silent.rank] = f"silent for {max(0.0, silent.silent_s):.0f} s{behind}"
    if (held_up := live.waits.slow) is not None:
        found.setdefault(held_up.rank, held_up_text(held_up))
    for slow in find_stragglers(list(live.recent)):
        found.setdefault(slow.rank, f"took {slow.ratio:.2f} of the median rank's step time")
    for rank, ratio in find_slow_clocks(live):
        found.setdefault(rank, f"runs its GPU at {ratio:.0%} of the median clock")
    return [SuspectRank(rank, live.ranks[rank].host, why) for rank, why in found.items()]


def held_up_text(slow: HeldUp) -> str:
    """What a rank costs the others, after its name."""
    return (
        f"holds the others up: they wait {units.duration(slow.delay_s)} a step for it, "
        f"{units.percent(slow.share)} of the step"
    )


def silence_limit_s(heartbeat_s: float, step_s: float) -> float:
    """Seconds without an event after which a rank is silent: two of its steps, within 1.5 to 3 heartbeats."""
    beat_s = max(1.0, heartbeat_s)  # ranks beat at most once a second
    longest_s = SILENT_HEARTBEATS * beat_s
    if not step_s > 0:  # NaN: no step yet
        return longest_s
    return max(LEAST_HEARTBEATS * beat_s, min(longest_s, SILENT_STEPS * step_s))


def find_slow_clocks(live: LiveRun) -> list[tuple[int, float]]:
    """Ranks whose busy GPU is clocked below SLOW_CLOCK_RATIO of the median, with that share.

    In synchronous training a slow GPU slows every rank alike; its own clock tells which one it is.
    """
    clocks = {s.rank: s.gpu.sm_mhz for s in live.ranks if s.gpu and s.gpu.util >= _BUSY_UTIL and s.gpu.sm_mhz}
    if len(clocks) < 2:
        return []
    median = statistics.median(clocks.values())
    slow = [(rank, mhz / median) for rank, mhz in clocks.items() if mhz < SLOW_CLOCK_RATIO * median]
    return sorted(slow, key=lambda pair: pair[1])


def find_stragglers(rows: Sequence[RankRow]) -> list[Straggler]:
    """Ranks over the median rank by SLOW_RATIO in three rows, or VERY_SLOW_RATIO in two, slowest first."""
    found: dict[int, Straggler] = {}
    for num_steps, least in ((VERY_SLOW_STEPS, VERY_SLOW_RATIO), (SLOW_STEPS, SLOW_RATIO)):
        for slow in _slow_in_all(rows[-num_steps:], num_steps, least):
            found[slow.rank] = slow
    return sorted(found.values(), key=lambda s: -s.ratio)


def _slow_in_all(rows: Sequence[RankRow], num_steps: int, least: float) -> Iterator[Straggler]:
    if len(rows) < num_steps:
        return
    ratios = [slow_ratios(row.step_s) for row in rows]
    for rank, own in enumerate(zip(*ratios, strict=True)):
        if all(ratio >= least for ratio in own):
            yield Straggler(rank, statistics.median(own), num_steps)


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
