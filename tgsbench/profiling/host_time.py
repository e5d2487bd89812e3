"""A step on CPUs: every instant of the training loop's thread belongs to the innermost operator.

Operators that compute are work. Where only Python, an autograd node or a collective's launch is open, the
thread waits: for the collective in flight, else the instant belongs to the region around it, else it is
idle (Python between operators).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgsbench.profiling import collectives, shares
from tgsbench.profiling import intervals as iv
from tgsbench.profiling.collectives import Calls
from tgsbench.profiling.intervals import Intervals
from tgsbench.profiling.scopes import IS_COLLECTIVE, NONE, RECOMPUTE, Scopes, Thread
from tgsbench.profiling.tables import Table
from tgsbench.profiling.windows import Window
from tgsbench.schema.hotspots import PARTS


@dataclass(frozen=True)
class HostTime:
    """What the training loop's thread did; arrays by position in its forest."""

    thread: Thread
    code: np.ndarray
    """Part of each operator's own time."""
    own_ns: np.ndarray
    """Own time inside the window."""
    calls: Calls
    parts: shares.Parts


def analyse(table: Table, scopes: Scopes, window: Window) -> HostTime:
    """Attribute the main thread's time in a window."""
    thread = scopes.thread(window.thread if window.thread is not None else 0)
    calls = collectives.inside(collectives.on_host(table), window.start, window.end)
    code, inner = _codes(thread)
    start, end, owner = _clipped(thread, window)
    computes = ~thread.frame & ~IS_COLLECTIVE[code]
    busy = (owner >= 0) & computes[owner]
    work = shares.by_code(start[busy], end[busy], code[owner[busy]])
    comm = _flights(calls)
    whole = np.array([[window.start, window.end]], np.int64)
    parts = shares.split(whole, work, comm)
    _hand_out_waits(parts, thread, (start[~busy], end[~busy], owner[~busy]), comm)
    again = busy & (code[owner] == RECOMPUTE)
    for number in np.unique(inner[owner[again]]):
        chosen = again & (inner[owner] == number)
        parts.recompute_ns[PARTS[number]] = int((end[chosen] - start[chosen]).sum())
    own = np.bincount(owner[owner >= 0], weights=(end - start)[owner >= 0], minlength=len(code))
    return HostTime(thread, code, np.rint(own).astype(np.int64), calls, parts)


def _codes(thread: Thread) -> tuple[np.ndarray, np.ndarray]:
    """Part of each operator, and for recomputed ones the part they would be."""
    inner = np.where(thread.region != NONE, thread.region, thread.kind)
    again = thread.recompute & ~IS_COLLECTIVE[inner]
    return np.where(again, RECOMPUTE, inner), inner


def _clipped(thread: Thread, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The window cut into segments with one owner each (-1: none)."""
    at, owner = thread.segments.at, thread.segments.owner
    edges = np.concatenate(([window.start], np.clip(at, window.start, window.end), [window.end]))
    owners = np.concatenate(([-1], owner))
    lasting = edges[1:] > edges[:-1]
    return edges[:-1][lasting], edges[1:][lasting], owners[lasting]


def _flights(calls: Calls) -> dict[str, Intervals]:
    start, end = np.array(calls.start, np.int64), np.array(calls.end, np.int64)
    return shares.by_code(start, end, shares.codes(calls.kind)) if len(calls) else {}


def _hand_out_waits(
    parts: shares.Parts,
    thread: Thread,
    waits: tuple[np.ndarray, np.ndarray, np.ndarray],
    comm: dict[str, Intervals],
) -> None:
    """Idle instants with a region around them go to that region; the rest is Python between operators."""
    start, end, owner = waits
    flying = iv.merge(list(comm.values()))
    free = (end - start) - iv.covered(flying, start, end)
    region = np.where(owner >= 0, thread.region[owner], NONE)
    collective = (region != NONE) & IS_COLLECTIVE[region]
    region = np.where((owner >= 0) & thread.recompute[owner] & ~collective, RECOMPUTE, region)
    for number in np.unique(region[region != NONE]):
        moved = int(free[region == number].sum())
        parts.parts_ns[PARTS[number]] += moved
        parts.parts_ns["idle"] -= moved
    parts.python_ns = parts.parts_ns["idle"]
