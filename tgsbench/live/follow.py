"""All ranks of a run as one live view: paced reading of many files, one fold, suspects by name."""

from __future__ import annotations

import time
from pathlib import Path

from tgsbench.events.tail import GLANCE, PIECE_BYTES, RunTail, poll_period_s
from tgsbench.live.fold import LiveRun
from tgsbench.live.step_columns import condense
from tgsbench.live.stragglers import SlowRank, suspects


class Merge:
    """Follows a run's event files in memory that depends on the number of ranks alone."""

    def __init__(self, events_dir: Path, world_size: int, heartbeat_s: float = 2.0) -> None:
        self.live = LiveRun(world_size)
        self.period_s = poll_period_s(world_size)
        self._tail = RunTail(events_dir, GLANCE)
        self._heartbeat_s = heartbeat_s

    @property
    def caught_up(self) -> bool:
        """Were all files read to their ends?"""
        return self._tail.at_end

    @property
    def skipped(self) -> int:
        """Damaged, doubled and unknown lines."""
        return self._tail.skipped

    def poll(self, now_s: float | None = None) -> int:
        """Fold what is new, a piece of each file; returns the number of events.

        `now_s` is the reader's monotonic clock: only it compares arrivals from several hosts.
        """
        before = self.live.num_events
        now_s = time.monotonic() if now_s is None else now_s
        for piece in self._tail.pieces(PIECE_BYTES, self.live.is_ahead):
            self.live.take(condense(piece), now_s)
        self.live.close_steps()
        return self.live.num_events - before

    def suspects(self, now_s: float | None = None) -> list[SlowRank]:
        """Ranks that hold the others up or have gone silent, worst first."""
        return suspects(self.live, time.monotonic() if now_s is None else now_s, self._heartbeat_s)
