"""A rank that holds the others up, by how long each waits in collectives.

In synchronous training every rank's step lasts as long as the slowest one's: the step times say nothing.
But whoever is slow arrives last at its collectives, so it waits least in them, by as much as it is slower.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise
from typing import Final, NamedTuple

from tgsbench.schema.events import Waits

WINDOW: Final = 5
"""Steps in which one rank must be the last before it is named."""
LEAST_SHARE: Final = 0.06
"""Of the step, in the median of those rows: less is not worth a name."""
LEAST_IN_EACH: Final = 0.05
"""The same in every one of them."""
_OVER_NOISE: Final = 4.0
"""How far beyond the usual scatter of waits between ranks a delay must be."""
_HISTORY: Final = 64
_MOST_OPEN: Final = 1 << 22
"""Figures of rows that not every rank has reported yet: 32 MB."""


class WaitRow(NamedTuple):
    """What every rank did in a step, in seconds; NaN: not reported."""

    step: int
    step_s: array[float]
    wait_s: array[float]


@dataclass(frozen=True)
class HeldUp:
    """A rank that the others wait for, and how long they wait."""

    rank: int
    delay_s: float
    """Seconds a step that the others wait for it, the median of the newest rows."""
    share: float
    """Of the step."""


@dataclass
class WaitTable:
    """Rows in order of steps, each once all ranks have reported it; `add` is the only way in."""

    world: int
    rows: list[WaitRow] = field(default_factory=list)
    """The newest ones."""
    num_rows: int = 0
    lost_s: dict[int, float] = field(default_factory=dict)
    """Rank -> seconds that the run lost to it while it was named."""
    total_s: float = 0.0
    longest: tuple[float, int] = (0.0, -1)
    """The longest that a rank stood in one group's collectives, over its step's time, and the step."""
    _open: dict[int, WaitRow] = field(default_factory=dict)
    _missing: dict[int, int] = field(default_factory=dict)
    _steps: list[int] = field(default_factory=list)
    """The open rows' steps, a heap: one rank may be thousands of them ahead of another."""
    _named: HeldUp | None = None

    def add(self, event: Waits) -> list[WaitRow]:
        """Take one rank's figures in; returns the rows that they complete."""
        if not 0 <= event.rank < self.world or event.step < 0:
            return []
        key = event.step
        if key not in self._open:
            if len(self._open) * self.world >= _MOST_OPEN:
                return []
            nothing = [math.nan] * self.world
            self._open[key] = WaitRow(key, array("d", nothing), array("d", nothing))
            self._missing[key] = self.world
            heappush(self._steps, key)
        row = self._open[key]
        self._missing[key] -= math.isnan(row.step_s[event.rank])
        row.step_s[event.rank] = event.step_s
        row.wait_s[event.rank] = sum(event.wait_s.values())
        if event.step_s > 0:
            self.longest = max(self.longest, (max(event.wait_s.values(), default=0.0) / event.step_s, key))
        return [self._close(key)] if not self._missing[key] else []

    def _close(self, key: int) -> WaitRow:
        row = self._open[key]
        while self._steps and self._steps[0] <= key:
            # Every rank has passed this step: what is missing of earlier ones will never come.
            step = heappop(self._steps)
            del self._open[step], self._missing[step]
        self.rows.append(row)
        self.num_rows += 1
        if len(self.rows) > _HISTORY:
            del self.rows[0]
        self._named = find_held_up(self.rows)
        self.total_s += max(row.step_s)
        if self._named is not None:
            self._charge(self._named, row)
        return row

    def _charge(self, named: HeldUp, row: WaitRow) -> None:
        """Add what the row lost; with the first naming also what the rows lost that led to it."""
        is_new = named.rank not in self.lost_s
        charged = self.rows[-WINDOW:] if is_new else [row]
        lost = sum(max(0.0, delay_of(row, named.rank)) for row in charged)
        self.lost_s[named.rank] = self.lost_s.get(named.rank, 0.0) + lost

    @property
    def slow(self) -> HeldUp | None:
        """Who holds the others up in the newest rows; None where nobody does."""
        return self._named

    def worst(self) -> tuple[int, float, float] | None:
        """The rank that cost the run most, the seconds, and their share of the steps' time; None: nobody."""
        if not self.lost_s or not self.total_s:
            return None
        rank = max(self.lost_s, key=lambda rank: self.lost_s[rank])
        return rank, self.lost_s[rank], self.lost_s[rank] / self.total_s


def table_of(events: Iterable[Waits], world: int) -> WaitTable:
    """Rows of a run's reports."""
    table = WaitTable(world)
    for event in events:
        table.add(event)
    return table


def delay_of(row: WaitRow, rank: int) -> float:
    """Seconds a step that a rank waits less than the others do in the median."""
    others = [wait for other, wait in enumerate(row.wait_s) if other != rank]
    return statistics.median(others) - row.wait_s[rank] if others else 0.0


def find_held_up(rows: Sequence[WaitRow]) -> HeldUp | None:
    """The rank that waited least in each of the newest rows, by more than jitter explains; None: nobody.

    The first step of a run builds and connects: it counts for nothing.
    """
    rows = [row for row in rows if row.step > 0]
    newest = rows[-WINDOW:]
    if len(newest) < WINDOW or len(newest[0].wait_s) < 2:
        return None
    rank = min(range(len(newest[0].wait_s)), key=newest[-1].wait_s.__getitem__)
    if any(row.wait_s[rank] > min(row.wait_s) for row in newest):
        return None
    delays = [delay_of(row, rank) for row in newest]
    pairs = zip(delays, newest, strict=True)
    shares = [delay / longest for delay, row in pairs if (longest := max(row.step_s)) > 0]
    if len(shares) < WINDOW or min(shares) < LEAST_IN_EACH or statistics.median(shares) < LEAST_SHARE:
        return None
    delay_s = statistics.median(delays)
    if delay_s < _OVER_NOISE * _scatter(rows, rank):
        return None
    return HeldUp(rank, delay_s, statistics.median(shares))


def _scatter(rows: Sequence[WaitRow], rank: int) -> float:
    """How much a rank's wait against the others' changes from row to row, a normal deviation of it.

    By differences of neighbouring rows: a delay that is there in all of them adds nothing.
    """
    delays = [delay_of(row, rank) for row in rows]
    steps = sorted(abs(b - a) for a, b in pairwise(delays))
    return 1.4826 * statistics.median(steps) / math.sqrt(2) if steps else 0.0
