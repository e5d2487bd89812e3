"""A step on CPUs: every instant of the training loop's thread belongs to the innermost operator.

Operators that compute are work. Where only Python, an autograd node or a collective's launch is open, the
thread waits: for the collective in flight, else the instant belongs to the region around it, else it is
idle (Python between operators).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgsbench.schema.hotspots import PARTS
from tgsbench.traces import chunks, collectives, gloo, shapes, time_split
from tgsbench.traces import intervals as iv
from tgsbench.traces.collectives import Calls, Flights
from tgsbench.traces.intervals import Intervals
from tgsbench.traces.row_store import FAR, DiskTable, Ints, Rows
from tgsbench.traces.scopes import IS_COLLECTIVE, NONE, RECOMPUTE, Made, NameCodes, Scopes, Thread
from tgsbench.traces.step_window import StepWindow
from tgsbench.traces.tables import Host, Table


@dataclass(frozen=True)
class HostTime:
    """What the training loop's thread did."""

    operators: DiskTable
    """Every operator with time of its own in the window: name, code (part of that time), own_ns, flops
    (0: not known)."""
    calls: Calls
    parts: time_split.Parts
    flights: Flights
    window: StepWindow


def analyse(table: Table, window: StepWindow) -> HostTime:
    """Attribute the training loop's thread's time in a window."""
    operators = DiskTable(
        table.scratch, ("own_ns",), name=np.int32, code=np.int8, own_ns=np.int64, flops=np.float64
    )
    calls = gloo.calls(table).inside(window.start, window.end)
    codes, made = NameCodes(table.host_names), Made()
    parts, flights, carried = time_split.nothing(), Flights(), dict[int, int]()
    for host in chunks.chunks_of(table):
        scopes = Scopes(host, codes, made)
        made = scopes.made
        since, until = max(window.start, host.since), min(window.end, host.until)
        if since < until:
            thread = scopes.thread(window.thread if window.thread is not None else 0)
            code, own_ns, piece = _measured(thread, calls.inside(since, until), since, until)
            parts.add(piece)
            collectives.add_flights(flights, collectives.flights(calls, piece.computing, since, until))
            cut_at = until if until < window.end else FAR
            operators.append(**_whole_operators(host, thread, code, own_ns, carried, cut_at))
    return HostTime(operators, calls, parts, flights, window)


def _measured(thread: Thread, calls: Calls, since: int, until: int) -> tuple[Ints, Ints, time_split.Parts]:
    """Part and own time of each operator in a stretch, by position in the forest, and the stretch's parts."""
    code, inner = _codes(thread)
    comm = time_split.by_code(calls.start, calls.end, calls.codes()) if len(calls) else {}
    if not len(code):
        parts = time_split.split_time(since, until, {}, comm)
        parts.python_ns = parts.idle_ns
        return code, code, parts
    start, end, owner = _clipped(thread, since, until)
    computes = ~thread.frame & ~IS_COLLECTIVE[code]
    busy = (owner >= 0) & computes[owner]
    work = time_split.by_code(start[busy], end[busy], code[owner[busy]])
    parts = time_split.split_time(since, until, work, comm)
    _hand_out_waits(parts, thread, (start[~busy], end[~busy], owner[~busy]), comm)
    again = busy & (code[owner] == RECOMPUTE)
    for number in np.unique(inner[owner[again]]):
        chosen = again & (inner[owner] == number)
        parts.recompute_ns[PARTS[number]] = int((end[chosen] - start[chosen]).sum())
    own = np.bincount(owner[owner >= 0], weights=(end - start)[owner >= 0], minlength=len(code))
    return code, np.rint(own).astype(np.int64), parts


def _whole_operators(
    host: Host, thread: Thread, code: Ints, own_ns: Ints, carried: dict[int, int], cut_at: int
) -> Rows:
    """The operators that end before the cut; own time of those that go on is `carried`, by row."""
    rows = thread.forest.rows
    for at in np.flatnonzero(host.start[rows] < host.since).tolist():
        own_ns[at] += carried.pop(int(host.row[rows[at]]), 0)
    going_on = host.end[rows] > cut_at
    for at in np.flatnonzero(going_on).tolist():
        carried[int(host.row[rows[at]])] = int(own_ns[at])
    ended = np.flatnonzero((own_ns > 0) & ~host.is_annotation[rows] & ~going_on)
    rows = rows[ended]
    return {
        "name": host.name[rows], "code": code[ended], "own_ns": own_ns[ended],
        "flops": shapes.flops_of(host, rows),
    }  # fmt: skip


def _codes(thread: Thread) -> tuple[np.ndarray, np.ndarray]:
    """Part of each operator, and for recomputed ones the part they would be."""
    inner = np.where(thread.region != NONE, thread.region, thread.kind)
    again = thread.recompute & ~IS_COLLECTIVE[inner]
    return np.where(again, RECOMPUTE, inner), inner


def _clipped(thread: Thread, since: int, until: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[since, until) cut into segments with one owner each (-1: none)."""
    at, owner = thread.segments.at, thread.segments.owner
    edges = np.concatenate(([since], np.clip(at, since, until), [until]))
    owners = np.concatenate(([-1], owner))
    lasting = edges[1:] > edges[:-1]
    return edges[:-1][lasting], edges[1:][lasting], owners[lasting]


def _hand_out_waits(
    parts: time_split.Parts,
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
