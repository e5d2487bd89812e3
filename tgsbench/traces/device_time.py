"""The device's side of a step: kernels by where they were launched first, by their names last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgsbench.schema.hotspots import COLLECTIVES, PARTS
from tgsbench.traces import categories, chunks, collectives, shapes, time_split
from tgsbench.traces import intervals as iv
from tgsbench.traces.collectives import Calls, Flights
from tgsbench.traces.row_store import FAR, DiskTable, Ints, Rows, cuts
from tgsbench.traces.scopes import CODE, IS_COLLECTIVE, NONE, OTHER, RECOMPUTE, HostContext, NameCodes, Scopes
from tgsbench.traces.step_window import StepWindow, reaching
from tgsbench.traces.tables import Host, Table

_STRONG = np.array(
    [part in ("attention_fwd", "attention_bwd", "loss", "optimizer", "data") for part in PARTS]
)
_MEMCPY = CODE["memcpy"]
_ATTENTION_FWD, _ATTENTION_BWD = CODE["attention_fwd"], CODE["attention_bwd"]


@dataclass(frozen=True)
class DeviceTime:
    """What the device did."""

    kernels: DiskTable
    """Every activity: start, end, name, code (its part), inner (the same, but for recomputed work: the part
    it would be), op (name of the operator that launched it, -1: none), flops (0: none), launched (-FAR:
    unknown)."""
    calls: Calls
    parts: time_split.Parts
    flights: Flights
    window: StepWindow


def analyse(table: Table, window: StepWindow) -> DeviceTime:
    """Attribute the device's time in a window."""
    kernels, calls, waits = _resolved(table, window)
    window = reaching(window, kernels)
    parts, flights = time_split.nothing(), Flights()
    for since, until in window.cut(cuts(chunks.MOST_ROWS, kernels.sample())):
        piece = _split(kernels.between("start", "end", since, until), waits, since, until)
        parts.add(piece)
        collectives.add_flights(flights, collectives.flights(calls, piece.computing, since, until))
    return DeviceTime(kernels, calls.inside(window.start, window.end), parts, flights, window)


def _resolved(table: Table, window: StepWindow) -> tuple[DiskTable, Calls, iv.Intervals]:
    """Every activity with its part, the calls, and when the host prepared data."""
    kernels = DiskTable(
        table.scratch, ("start", "end"),
        start=np.int64, end=np.int64, name=np.int32, code=np.int8, inner=np.int8, op=np.int32,
        flops=np.float64, launched=np.int64,
    )  # fmt: skip
    launched, calls, waits = _launched(table), collectives.CollectiveFinder(table), [iv.EMPTY]
    by_name = np.array([CODE[categories.device_kind(*pair)] for pair in table.device_names], np.int64)
    codes, attention = NameCodes(table.host_names), np.empty(0, np.int64)
    for host in chunks.chunks_of(table, launched.sample()):
        scopes = Scopes(host, codes, attention)
        attention = scopes.attention
        rows = launched.between("instant", "instant", host.since, host.until)
        place = scopes.places(rows["thread"], rows["instant"])
        code, inner = _parts(rows, by_name[rows["name"]], place, host, scopes, calls)
        kernels.append(**rows, code=code, inner=inner, op=_operators(host, place),
                       flops=_flops(rows, host, place))  # fmt: skip
        waits.append(_data_waits(scopes, window))
    return kernels, calls.calls(), iv.merge(waits)


def _launched(table: Table) -> DiskTable:
    """The device's rows, each with the thread and instant of its launch: by correlation that of the runtime's
    call, else by External id that of the operator; -1 and its own start where neither is there."""
    found = DiskTable(
        table.scratch, ("instant",),
        instant=np.int64, thread=np.int32, launched=np.int64, start=np.int64, end=np.int64, name=np.int32,
        external=np.int64, said=np.int32,
    )  # fmt: skip
    for rows in table.device.batches():
        known, call = table.launches.find("correlation", rows["correlation"], ("start", "thread"))
        unknown = np.where(known, 0, np.maximum(rows["external"], 0))
        by_operator, operator = table.host.find("external", unknown, ("start", "thread"))
        instant = np.where(by_operator, operator["start"], np.where(known, call["start"], rows["start"]))
        thread = np.where(by_operator, operator["thread"], np.where(known, call["thread"], -1))
        found.append(**rows, instant=instant, thread=thread, launched=np.where(known, call["start"], -FAR))
    return found


def _parts(
    rows: Rows,
    by_name: Ints,
    place: HostContext,
    host: Host,
    scopes: Scopes,
    calls: collectives.CollectiveFinder,
) -> tuple[Ints, Ints]:
    comm = np.flatnonzero(IS_COLLECTIVE[by_name])
    comm = comm[np.argsort(rows["start"][comm], kind="stable")]
    inner = _kinds(by_name, place)
    chosen = {name: column[comm] for name, column in rows.items()}
    inner[comm] = calls.add(chosen, _subset(place, comm), host, scopes)
    again = place.recompute | (_in_backward(place) & (inner == _ATTENTION_FWD))
    return np.where(again & ~IS_COLLECTIVE[by_name], RECOMPUTE, inner), inner


def _operators(host: Host, place: HostContext) -> Ints:
    """Name of the operator that launched each activity."""
    found = np.full(len(place.row), -1, np.int64)
    inside = np.flatnonzero(place.row >= 0)
    found[inside] = host.name[place.row[inside]]
    return found


def _flops(rows: Rows, host: Host, place: HostContext) -> np.ndarray:
    """Each operator's floating-point operations go to the longest activity that it launched itself."""
    work = np.zeros(len(place.row))
    at = np.flatnonzero(place.row >= 0)
    at = at[host.said[place.row[at]] > 0]
    order = at[np.lexsort((rows["end"][at] - rows["start"][at], place.row[at]))]
    last = order[np.append(np.diff(place.row[order]) != 0, True)] if len(order) else order
    work[last] = shapes.flops_of(host, place.row[last])
    return work


def _kinds(by_name: np.ndarray, place: HostContext) -> np.ndarray:
    """The region of the launch where it is one of ours, else the name, else the operator's kind."""
    region = np.where(place.region >= 0, place.region, OTHER)
    code = np.where((by_name == OTHER) & (place.region != NONE), region, by_name)
    code = np.where((code == OTHER) & (place.row >= 0), place.kind, code)
    named = (by_name == _ATTENTION_FWD) | (by_name == _ATTENTION_BWD)
    strong = (place.region >= 0) & _STRONG[region] & (by_name != _MEMCPY)
    code = np.where(strong & ~named, region, code)
    return np.where(IS_COLLECTIVE[code], OTHER, code)


def _in_backward(place: HostContext) -> np.ndarray:
    return np.asarray(place.region == _ATTENTION_BWD)


def _subset(place: HostContext, rows: np.ndarray) -> HostContext:
    return HostContext(
        place.thread[rows],
        place.position[rows],
        place.row[rows],
        place.region[rows],
        place.recompute[rows],
        place.kind[rows],
    )


def _split(rows: Rows, waits: iv.Intervals, since: int, until: int) -> time_split.Parts:
    found = time_split.by_code(rows["start"], rows["end"], rows["code"])
    work = {kind: instants for kind, instants in found.items() if kind not in COLLECTIVES}
    comm = {kind: instants for kind, instants in found.items() if kind in COLLECTIVES}
    parts = time_split.split_time(since, until, work, comm, waits)
    again = rows["code"] == RECOMPUTE
    if again.any():
        inner_sets = time_split.by_code(rows["start"][again], rows["end"][again], rows["inner"][again])
        whole = np.array([[since, until]], np.int64)
        only = {kind: iv.intersect(instants, whole) for kind, instants in inner_sets.items()}
        parts.recompute_ns = {kind: iv.length(instants) for kind, instants in only.items()}
    return parts


def _data_waits(scopes: Scopes, window: StepWindow) -> iv.Intervals:
    """When the training loop's thread prepared data, in one stretch."""
    if window.thread is None:
        return iv.EMPTY
    thread = scopes.thread(window.thread)
    rows = np.flatnonzero(thread.region == CODE["data"])
    return iv.union(thread.forest.start[rows], thread.forest.end[rows])
