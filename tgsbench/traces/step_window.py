"""Which part of a trace is looked at: the profiled steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from tgsbench.traces.row_store import FAR, DiskTable, Ints
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
    return StepWindow(
        int(found["start"].min()), int(found["end"].max()), steps, int(np.bincount(found["thread"]).argmax())
    )


def reaching(window: StepWindow, kernels: DiskTable) -> StepWindow:
    """The window to the end of the last kernel launched in it, where the device runs behind.

    `kernels`: start, end and launch (-FAR: unknown). A kernel far behind the window has lost its launch.
    """
    if not window.steps:
        return window
    end = window.end
    for rows in kernels.batches():
        inside = (rows["launched"] < window.end) & (rows["start"] < window.end + _BEHIND_NS)
        end = max(end, int(rows["end"].max(initial=-FAR, where=inside)))
    return replace(window, end=end)


_BEHIND_NS: Final = 10_000_000_000


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
