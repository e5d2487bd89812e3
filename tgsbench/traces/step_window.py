"""Which part of a trace is looked at: the profiled steps, and the device's work that they launched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from tgsbench.traces.row_store import FAR, DiskTable, Flags, Ints, Rows
from tgsbench.traces.tables import Table

_STEP: Final = re.compile(r"^ProfilerStep#(\d{1,18})$")


@dataclass(frozen=True)
class StepWindow:
    """From the first profiled step's start to the last one's end, in nanoseconds."""

    start: int
    end: int
    steps: list[int]
    """Step numbers; empty: the trace marks none and the window is the whole trace."""
    thread: int | None
    """Number of the thread that marks the steps, the training loop's."""
    edges: tuple[int, ...] = ()
    """Where steps begin, and where the last one ends, by the host's clock."""

    @property
    def num_steps(self) -> int:
        """What figures per step are divided by."""
        return max(1, len(self.steps))

    @property
    def length_ns(self) -> int:
        """Length of the window."""
        return self.end - self.start

    def cut(self, at: list[int]) -> Iterator[tuple[int, int]]:
        """The window in pieces, cut at those of the instants (ascending) that lie in it."""
        edges = [self.start, *(instant for instant in at if self.start < instant < self.end), self.end]
        return pairwise(edges)


def find_window(table: Table) -> StepWindow:
    """The steps' window by the host's clock; without marked steps the whole trace."""
    numbers = {code: int(m[1]) for code, name in enumerate(table.host_names) if (m := _STEP.match(name))}
    codes = list(numbers)
    found = table.host.where(lambda rows: np.isin(rows["name"], codes) & (rows["end"] > rows["start"]))
    if not len(found["row"]):
        return _whole(table)
    steps = sorted({numbers[int(code)] for code in np.unique(found["name"])})
    start, end = int(found["start"].min()), int(found["end"].max())
    edges = (*np.unique(found["start"]).tolist(), end)
    return StepWindow(start, end, steps, int(np.bincount(found["thread"]).argmax()), edges)


def num_crossing(table: Table, window: StepWindow) -> int:
    """Operators that are open where a step begins or ends: their time is on both sides."""
    crossing: set[int] = set()
    for edge in window.edges:
        rows = table.host.between("start", "end", edge, edge + 1)
        at = ~rows["is_annotation"] & (rows["start"] < edge) & (rows["end"] > edge)
        crossing.update(rows["row"][at].tolist())
    return len(crossing)


@dataclass(frozen=True)
class DeviceWindow:
    """The window as the device goes through it: from where it begins with the steps' work to its end.

    Activities belong to the step whose launch made them. Where the device runs behind the host, the steps'
    work lies later than the steps: so the window begins when what was launched earlier is done, at the
    latest with the first activity of the steps, and ends with their last one, but never before the host.
    """

    window: StepWindow
    num_before: int
    """Activities launched before the steps that ran in them or in their work; they are left out."""
    before_ns: int
    _since: int
    _until: int
    _is_first: Ints
    """By stream: start of the first activity whose launch is known."""

    def holds(self, rows: Rows) -> Flags:
        """Which activities were launched in the steps; rows have start, launched and stream."""
        return _own(rows, self._since, self._until, self._is_first)


def device_window(window: StepWindow, launched: DiskTable, num_streams: int) -> DeviceWindow:
    """The device's window. `launched`: start, end, launched (-FAR: unknown) and stream of every activity."""
    first = _first_known(launched, num_streams)
    start, end, earlier = FAR, window.end, window.start
    num_before, before_ns = 0, 0
    for rows in launched.batches():
        own = _own(rows, window.start, window.end, first)
        near = own & (rows["start"] < window.end + _BEHIND_NS)
        start = min(start, int(rows["start"].min(initial=FAR, where=near)))
        end = max(end, int(rows["end"].max(initial=-FAR, where=near & _tells(rows, first))))
        late = _before(rows, window.start, first) & (rows["end"] > window.start)
        earlier = max(earlier, int(rows["end"].max(initial=-FAR, where=late)))
        num_before += int(late.sum())
        before_ns += int((rows["end"] - np.maximum(rows["start"], window.start))[late].sum())
    start = max(window.start, min(earlier, start))
    moved = StepWindow(min(start, end), end, window.steps, window.thread, window.edges)
    return DeviceWindow(moved, num_before, before_ns, window.start, window.end, first)


_BEHIND_NS: Final = 10_000_000_000
"""An activity further behind its launch has another's number."""


def _first_known(launched: DiskTable, num_streams: int) -> Ints:
    """By stream; where a stream's launches are all unknown, the first known one of any stream."""
    first = np.full(num_streams, FAR, np.int64)
    for rows in launched.batches():
        known = rows["launched"] > -FAR
        np.minimum.at(first, rows["stream"][known], rows["start"][known])
    earliest = int(first.min(initial=FAR))
    return np.where(first < FAR, first, earliest if earliest < FAR else -FAR)


def _before(rows: Rows, since: int, first: Ints) -> Flags:
    """Launched before an instant: says the launch, or, where that is not in the trace, the stream's order.

    A stream is a queue: what ran before the first activity whose launch is known was launched before it.
    """
    known = rows["launched"] > -FAR
    found: Flags = np.where(known, rows["launched"] < since, rows["start"] < first[rows["stream"]])
    return found


def _own(rows: Rows, since: int, until: int, first: Ints) -> Flags:
    own: Flags = ~_before(rows, since, first) & (rows["launched"] < until)
    return own


def _tells(rows: Rows, first: Ints) -> Flags:
    """Whose end may extend the window: with a launch, or in a trace that holds no launches at all."""
    tells: Flags = (rows["launched"] > -FAR) | (first[rows["stream"]] == -FAR)
    return tells


def _whole(table: Table) -> StepWindow:
    extents = [table.host.extent("start", "end"), table.device.extent("start", "end")]
    known = [extent for extent in extents if extent is not None]
    if not known:
        return StepWindow(0, 0, [], None)
    counts: Ints = np.zeros(0, np.int64)
    for rows in table.host.batches():
        more = np.bincount(rows["thread"], minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    thread = int(counts.argmax()) if len(counts) else None
    return StepWindow(min(start for start, _ in known), max(end for _, end in known), [], thread)
