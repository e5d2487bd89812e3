"""Split a step window into parts, each instant counted once: work, then exposed communication, then idle."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tgsbench.schema.hotspots import COLLECTIVES, COMPUTE, PARTS
from tgsbench.traces import intervals as iv
from tgsbench.traces.intervals import Intervals


@dataclass
class Parts:
    """Nanoseconds of one window."""

    window_ns: int
    parts_ns: dict[str, int] = field(default_factory=dict)
    """By part; they add up to the window exactly."""
    comm_ns: dict[str, int] = field(default_factory=dict)
    """In flight, by kind; kinds may overlap."""
    exposed_ns: dict[str, int] = field(default_factory=dict)
    recompute_ns: dict[str, int] = field(default_factory=dict)
    comm_total_ns: int = 0
    compute_ns: int = 0
    overlap_ns: int = 0
    python_ns: int = 0
    computing: Intervals = field(default_factory=lambda: iv.EMPTY)
    """When any work was done; kept for one piece of a window only."""

    @property
    def idle_ns(self) -> int:
        """Neither work nor communication."""
        return self.parts_ns["idle"]

    def add(self, more: Parts) -> None:
        """Add the next piece of the window."""
        for name in ("window_ns", "comm_total_ns", "compute_ns", "overlap_ns", "python_ns"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        for name in ("parts_ns", "comm_ns", "exposed_ns", "recompute_ns"):
            total = getattr(self, name)
            for kind, value in getattr(more, name).items():
                total[kind] = total.get(kind, 0) + value


def nothing() -> Parts:
    """Parts of no time at all."""
    return Parts(0, dict.fromkeys(PARTS, 0))


def split_time(
    since: int, until: int, work: dict[str, Intervals], comm: dict[str, Intervals],
    waits: Intervals = iv.EMPTY,
) -> Parts:  # fmt: skip
    """Attribute every instant of [since, until), a window or a piece of one.

    `work` and `comm` hold sets by kind. Where several kinds of work run at once (streams), the first in the
    order of COMPUTE has the instant, as has the first kind of communication in the order of COLLECTIVES.
    `waits`: instants in which the host prepared data; idle among them counts as `data`.
    """
    window = np.array([[since, until]], np.int64)
    parts = Parts(until - since, dict.fromkeys(PARTS, 0))
    left = window
    left = _hand_out(left, COMPUTE, work, parts)
    computing = iv.intersect(iv.merge(list(work.values())), window)
    flying = iv.intersect(iv.merge(list(comm.values())), window)
    left = _hand_out(left, COLLECTIVES, comm, parts)
    waiting = iv.intersect(left, waits)
    parts.parts_ns["data"] += iv.length(waiting)
    parts.parts_ns["idle"] = iv.length(left) - iv.length(waiting)
    for kind, instants in comm.items():
        inside = iv.intersect(instants, window)
        if len(inside):
            parts.comm_ns[kind] = iv.length(inside)
            parts.exposed_ns[kind] = iv.length(inside) - iv.length(iv.intersect(inside, computing))
    parts.comm_total_ns, parts.compute_ns = iv.length(flying), iv.length(computing)
    parts.computing = computing
    parts.overlap_ns = iv.length(iv.intersect(flying, computing))
    return parts


def _hand_out(
    left: Intervals, order: tuple[str, ...], found: dict[str, Intervals], parts: Parts
) -> Intervals:
    for kind in order:
        instants = found.get(kind)
        if instants is not None and len(instants):
            before = iv.length(left)
            left = iv.subtract(left, instants)
            parts.parts_ns[kind] += before - iv.length(left)
    return left


def by_code(start: np.ndarray, end: np.ndarray, code: np.ndarray) -> dict[str, Intervals]:
    """Sets by kind of intervals with a part's code each."""
    found = {}
    for number in np.unique(code):
        at = code == number
        found[PARTS[number]] = iv.union(start[at], end[at])
    return found
