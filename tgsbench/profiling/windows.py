"""Which part of a trace is looked at: the profiled steps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from tgsbench.profiling.tables import Table

_STEP: Final = re.compile(r"^ProfilerStep#(\d{1,18})$")


@dataclass(frozen=True)
class Window:
    """From the first profiled step's start to the last one's end, in nanoseconds."""

    start: int
    end: int
    steps: list[int]
    """Step numbers; empty: the trace marks none and the window is the whole trace."""
    thread: int | None
    """Number of the thread that marks the steps, the training loop's."""

    @property
    def num_steps(self) -> int:
        """What figures per step are divided by."""
        return max(1, len(self.steps))

    @property
    def length_ns(self) -> int:
        """Length of the window."""
        return self.end - self.start


def find_window(table: Table) -> Window:
    """The steps' window; where the device runs behind, it ends with the last kernel launched in it."""
    host, device = table.host, table.device
    numbers = {code: int(m[1]) for code, name in enumerate(host.names) if (m := _STEP.match(name))}
    rows = np.flatnonzero(np.isin(host.name, list(numbers)) & (host.end > host.start))
    if not len(rows):
        return _whole(table)
    start, end = int(host.start[rows].min()), int(host.end[rows].max())
    if len(device.start):
        launched = launched_before(table, end)
        end = max(end, int(device.end[launched].max(initial=end)))
    steps = sorted({numbers[int(code)] for code in host.name[rows]})
    threads, counts = np.unique(host.thread[rows], return_counts=True)
    return Window(start, end, steps, int(threads[counts.argmax()]))


def launched_before(table: Table, instant: int) -> np.ndarray:
    """Rows of the device table whose launch lies before an instant; without a launch: their own start."""
    device, launches = table.device, table.launches
    late = launches.correlation[launches.start >= instant]
    return np.flatnonzero(~np.isin(device.correlation, late) & (device.start < instant + _BEHIND_NS))


_BEHIND_NS: Final = 10_000_000_000


def _whole(table: Table) -> Window:
    host, device = table.host, table.device
    starts = [int(part.start.min()) for part in (host, device) if len(part.start)]
    ends = [int(part.end.max()) for part in (host, device) if len(part.end)]
    if not starts:
        return Window(0, 0, [], None)
    thread = None
    if len(host.thread):
        threads, counts = np.unique(host.thread, return_counts=True)
        thread = int(threads[counts.argmax()])
    return Window(min(starts), max(ends), [], thread)
