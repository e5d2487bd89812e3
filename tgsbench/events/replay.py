"""Plays a stored run again: its events in order of time, at a chosen speed."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError
from tgsbench.events.tail import FileTail
from tgsbench.schema.events import Event, Hello

_PIECE_BYTES = 1 << 16
_TAIL_BYTES = 1 << 16


class Replay:
    """All ranks' events merged by time since the run's first event; moves forward only.

    Hosts' monotonic clocks are lined up by the wall clock that each rank's hello carries. Memory is bound
    by one piece of each file. Raises TgsError when there is no event to play.
    """

    def __init__(self, events_dir: Path) -> None:
        self._paths = sorted(events_dir.glob("rank*.jsonl"))
        self.at_s = 0.0
        """Position in the run, seconds since its first event."""
        self._streams = {path: _RankStream(path) for path in self._paths}
        starts = [stream.start for stream in self._streams.values() if stream.start is not None]
        if not starts:
            raise TgsError(f"{events_dir}: no events to replay", exit_code=ExitCode.STORE)
        self._origin = min(starts)
        self.duration_s = max(stream.end() for stream in self._streams.values()) - self._origin
        """Seconds from the first event to the last one."""
        self._merged = heapq.merge(*(s.timed() for s in self._streams.values()), key=lambda pair: pair[0])
        self._next = next(self._merged, None)

    @property
    def at_end(self) -> bool:
        """Has every event been handed out?"""
        return self._next is None

    @property
    def next_s(self) -> float | None:
        """Position of the next event, or None at the end."""
        return None if self._next is None else self._next[0] - self._origin

    def advance_to(self, position_s: float, max_events: int = 20_000) -> list[Event]:
        """Move on to a position in seconds and hand out what happened, at most `max_events`; never back."""
        found: list[Event] = []
        while self._next is not None and self._next[0] - self._origin <= position_s:
            if len(found) >= max_events:
                self.at_s = max(self.at_s, self._next[0] - self._origin)
                return found
            found.append(self._next[1])
            self._next = next(self._merged, None)
        self.at_s = max(self.at_s, min(position_s, self.duration_s))
        return found


class _RankStream:
    """One rank's events on the wall clock."""

    def __init__(self, path: Path) -> None:
        self._tail = FileTail(path)
        self._piece = self._tail.read(_PIECE_BYTES)
        first = self._piece[0] if self._piece else None
        hello = next((event for event in self._piece if isinstance(event, Hello)), None)
        self._offset_s = hello.unix_t - hello.t if hello and hello.unix_t else 0.0
        self.start = None if first is None else first.t + self._offset_s

    def timed(self) -> Iterator[tuple[float, Event]]:
        while True:
            for event in self._piece:
                yield event.t + self._offset_s, event
            self._piece = self._tail.read(_PIECE_BYTES)
            if not self._piece and self._tail.at_end:
                return

    def end(self) -> float:
        """Time of the last event that can be read; the start where none can."""
        last = self._last_event()
        return (last.t + self._offset_s) if last else (self.start or 0.0)

    def _last_event(self) -> Event | None:
        events = FileTail(self._tail.path).read_last(_TAIL_BYTES)
        return events[-1] if events else None
