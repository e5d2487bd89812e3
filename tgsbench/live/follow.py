"""How a run is followed: where its events come from, and the one loop that folds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from tgsbench.events.replay import Replay
from tgsbench.events.step_columns import RankBatch, rank_batches
from tgsbench.events.tail import PIECE_BYTES, RunTail
from tgsbench.live.backlog import backlog
from tgsbench.live.fold import LiveRun
from tgsbench.live.pending import ClosedStep
from tgsbench.schema.events import Event

FAST_FORWARD = 3600.0
"""Replay speed beyond which it is not a replay any more."""
_UNSHARED: AbstractContextManager[object] = nullcontext()


class Feed(Protocol):
    """A source of events."""

    def batches(self, is_ahead: Callable[[int], bool]) -> Iterator[RankBatch]:
        """What is new, each batch of one rank; a rank that is ahead of the others may wait."""
        ...

    @property
    def caught_up(self) -> bool:
        """Whether nothing more can be read right now."""
        ...


class FollowFeed:
    """The event files of a run as they grow; what a long run has there already, other processes read."""

    def __init__(self, events_dir: Path) -> None:
        self._tail = RunTail(events_dir)
        self._round = max(1, len(self._tail.tails()))
        """Pieces of the backlog between two closings of steps: about one of each file."""
        self._backlog = backlog(self._tail)
        self._is_backlog_read = False

    def batches(self, is_ahead: Callable[[int], bool]) -> Iterator[RankBatch]:
        """New events, a piece of each file."""
        if not self._is_backlog_read:
            num = 0
            for piece in islice(self._backlog, self._round):
                num += 1
                yield piece
            self._is_backlog_read = num < self._round
        if self._is_backlog_read:
            yield from self._tail.batches(PIECE_BYTES, is_ahead)

    @property
    def caught_up(self) -> bool:
        """Were all files read to their ends?"""
        return self._is_backlog_read and self._tail.at_end

    @property
    def skipped(self) -> int:
        """Damaged and unknown lines."""
        return self._tail.skipped


class ReplayFeed:
    """A stored run's events, at `speed` times the pace they had."""

    def __init__(self, events_dir: Path, speed: float) -> None:
        self.events_dir = events_dir
        self.replay = Replay(events_dir)
        self.speed = speed
        self.paused = False
        self.target_s = 0.0
        """Position to catch up to, seconds since the run's first event."""
        self._last = time.monotonic()

    def batches(self, is_ahead: Callable[[int], bool]) -> Iterator[RankBatch]:
        """What happened since the last call."""
        now = time.monotonic()
        if not self.paused:
            self.target_s += (now - self._last) * self.speed
        self._last = now
        self.target_s = min(max(self.target_s, self.replay.at_s), self.replay.duration_s)
        yield from rank_batches(self.replay.advance_to(self.target_s))

    @property
    def caught_up(self) -> bool:
        """Is the replay at the position it aims at?"""
        following = self.replay.next_s
        return following is None or following > self.target_s

    @property
    def skipped(self) -> int:
        """A replay counts nothing."""
        return 0

    def faster(self, factor: float) -> None:
        """Multiply the speed, within 1/8 and FAST_FORWARD."""
        self.speed = min(FAST_FORWARD, max(0.125, self.speed * factor))

    def skip(self, seconds: float) -> None:
        """Jump ahead by run time."""
        self.target_s = min(self.target_s + seconds, self.replay.duration_s)


class Round(NamedTuple):
    """What one look at a feed brought."""

    notices: list[Event]
    """All events but steps, samples and heartbeats."""
    closed: list[ClosedStep]
    """Steps that are over, in order."""


def add_round(
    live: LiveRun,
    batches: Iterable[RankBatch],
    now_s: float | None = None,
    lock: AbstractContextManager[object] = _UNSHARED,
) -> Round:
    """Fold a batch or so of each rank, then close the steps that all ranks have passed.

    `now_s` is the reader's monotonic clock, by default as it is now: only it compares arrivals from several
    hosts. `lock` is held while figures change.
    """
    notices: list[Event] = []
    for batch in batches:
        with lock:
            live.add_batch(batch, time.monotonic() if now_s is None else now_s)
        notices += batch.others
    with lock:
        return Round(notices, live.close_steps())


def poll(
    feed: Feed,
    live: LiveRun,
    *,
    budget_s: float = 0.0,
    now_s: float | None = None,
    lock: AbstractContextManager[object] = _UNSHARED,
) -> bool:
    """Fold what is new for about `budget_s`, one round at least; True when there may be more at once.

    Raises TgsError when the events were written by a newer tgsbench.
    """
    deadline = time.monotonic() + budget_s
    while True:
        add_round(live, feed.batches(live.is_ahead), now_s, lock)
        if feed.caught_up:
            return False
        if time.monotonic() >= deadline:
            return True
