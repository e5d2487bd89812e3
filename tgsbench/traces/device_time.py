"""The device's side of a step: kernels by where they were launched first, by their names last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgsbench.schema.hotspots import COLLECTIVES, PARTS
from tgsbench.traces import categories, chunks, collectives, shapes, time_split
from tgsbench.traces import intervals as iv
from tgsbench.traces.collectives import Calls, Flights
from tgsbench.traces.row_store import FAR, DiskTable, Flags, Ints, Rows, cuts
from tgsbench.traces.scopes import (
    CODE,
    IS_COLLECTIVE,
    NONE,
    OTHER,
    RECOMPUTE,
    STRONG,
    HostContext,
    Made,
    NameCodes,
    Scopes,
)
from tgsbench.traces.step_window import DeviceWindow, StepWindow, device_window
from tgsbench.traces.tables import Host, Table

_MEMCPY = CODE["memcpy"]
_SHARD_COPY = CODE["shard_copy"]
_IS_COPY = np.array([part in ("memcpy", "norm_elementwise", "other") for part in PARTS])
"""What copies a shard may be; a product launched in the same place is none."""
_ATTENTION_FWD, _ATTENTION_BWD = CODE["attention_fwd"], CODE["attention_bwd"]


@dataclass(frozen=True)
class DeviceTime:
    """What the device did."""

    kernels: DiskTable
    """Every activity that the steps launched: start, end, name, code (its part), inner (the same, but for
    recomputed work: the part it would be), op (name of the operator that launched it, -1: none), flops (0:
    none), launched (-FAR: unknown), device (its number)."""
    calls: Calls
    by_device: list[time_split.Parts]
    """In the order of `Table.devices`."""
    flights: Flights
    window: StepWindow
    placed: DeviceWindow
    num_matched: int
    """Launches of kernels in the steps whose kernels are there."""

    @property
    def parts(self) -> time_split.Parts:
        """Of all devices together: so many windows of time."""
        whole = time_split.nothing()
        for parts in self.by_device:
            whole.add(parts)
        return whole


def analyse(table: Table, window: StepWindow) -> DeviceTime:
    """Attribute the device's time to the parts of a window's steps: that of the work they launched."""
    launched, num_matched = _launched(table, window)
    placed = device_window(window, launched, len(table.streams))
    kernels, calls, waits = _resolved(table, launched, placed)
    window = placed.window
    by_device, flights = [time_split.nothing() for _ in table.devices], Flights()
    for since, until in window.cut(cuts(chunks.MOST_ROWS, kernels.sample())):
        rows = kernels.between("start", "end", since, until)
        for device, parts in enumerate(by_device):
            piece = _split(_on(rows, device), waits, since, until)
            parts.add(piece)
            own = collectives.flights(calls.on(device), piece.computing, since, until)
            collectives.add_flights(flights, own)
    calls = calls.inside(window.start, window.end)
    return DeviceTime(kernels, calls, by_device, flights, window, placed, num_matched)


def _on(rows: Rows, device: int) -> Rows:
    at = rows["device"] == device
    return rows if at.all() else {name: column[at] for name, column in rows.items()}


def _resolved(
    table: Table, launched: DiskTable, placed: DeviceWindow
) -> tuple[DiskTable, Calls, iv.Intervals]:
    """Every activity of the steps with its part, the calls, and when the host prepared data."""
    kernels = DiskTable(
        table.scratch, ("start", "end"),
        start=np.int64, end=np.int64, name=np.int32, code=np.int8, inner=np.int8, op=np.int32,
        flops=np.float64, launched=np.int64, device=np.int16,
    )  # fmt: skip
    calls, waits = collectives.CollectiveFinder(table), [iv.EMPTY]
    by_name = np.array([CODE[categories.device_kind(*pair)] for pair in table.device_names], np.int64)
    on_streams = _communication_streams(launched, by_name, len(table.streams))
    codes, made = NameCodes(table.host_names), Made()
    for host in chunks.chunks_of(table, launched.sample()):
        scopes = Scopes(host, codes, made)
        made = scopes.made
        rows = launched.between("instant", "instant", host.since, host.until)
        own = placed.holds(rows)
        rows = {name: column[own] for name, column in rows.items()}
        place = scopes.places(rows["thread"], rows["instant"])
        calls.look_around(host, place, scopes)
        code, inner = _parts(rows, by_name[rows["name"]], on_streams[rows["stream"]], place, calls)
        kernels.append(
            **rows, code=code, inner=inner, op=_operators(host, place), flops=_flops(rows, host, place),
            device=table.device_of_stream[rows["stream"]],
        )  # fmt: skip
        waits.append(_data_waits(scopes, placed.window))
    return kernels, calls.calls(), iv.merge(waits)


def _launched(table: Table, window: StepWindow) -> tuple[DiskTable, int]:
    """The device's rows, each with the thread and instant of its launch: by correlation that of the runtime's
    call, else by External id that of the operator; -1 and its own start where neither is there. And how many
    of the window's launches of kernels have theirs."""
    found = DiskTable(
        table.scratch, ("instant",),
        instant=np.int64, thread=np.int32, launched=np.int64, start=np.int64, end=np.int64, name=np.int32,
        external=np.int64, said=np.int32, stream=np.int32,
    )  # fmt: skip
    matched = 0
    for rows in table.device.batches():
        known, call = table.launches.find(
            "correlation", rows["correlation"], ("start", "thread", "starts_kernel")
        )
        inside = (call["start"] >= window.start) & (call["start"] < window.end)
        matched += int((known & call["starts_kernel"] & inside).sum())
        unknown = np.where(known, 0, np.maximum(rows["external"], 0))
        by_operator, operator = table.host.find("external", unknown, ("start", "thread"))
        instant = np.where(by_operator, operator["start"], np.where(known, call["start"], rows["start"]))
        thread = np.where(by_operator, operator["thread"], np.where(known, call["thread"], -1))
        told = np.where(by_operator, operator["start"], np.where(known, call["start"], -FAR))
        found.append(**rows, instant=instant, thread=thread, launched=told)
    return found, matched


def _communication_streams(launched: DiskTable, by_name: Ints, num_streams: int) -> Flags:
    """Which streams are communication's: collectives take more of their time than other known work does."""
    spent = np.zeros((2, num_streams))
    for rows in launched.batches():
        comm = IS_COLLECTIVE[by_name[rows["name"]]] | (rows["said"] > 0)
        known = by_name[rows["name"]] != OTHER
        dur = (rows["end"] - rows["start"]).astype(float)
        for number, chosen in enumerate((comm, known & ~comm)):
            spent[number] += np.bincount(rows["stream"][chosen], dur[chosen], num_streams)
    found: Flags = spent[0] > spent[1]
    return found


def _parts(
    rows: Rows, by_name: Ints, on_comm_stream: Flags, place: HostContext, calls: collectives.CollectiveFinder
) -> tuple[Ints, Ints]:
    """Part of each activity, and for recomputed ones the part they would be.

    A collective is known by its record, by its name, and where the name says nothing by what launched it or
    by its stream.
    """
    in_call = (place.region >= 0) & IS_COLLECTIVE[place.region]
    nameless = (by_name == OTHER) & (in_call | on_comm_stream | calls.has_record(rows))
    is_comm = (rows["said"] > 0) | IS_COLLECTIVE[by_name] | nameless
    comm = np.flatnonzero(is_comm)
    comm = comm[np.argsort(rows["start"][comm], kind="stable")]
    inner = _kinds(by_name, place)
    inner[place.shards & _IS_COPY[by_name] & ~is_comm] = _SHARD_COPY
    inner[comm] = calls.add({name: column[comm] for name, column in rows.items()}, comm)
    again = place.recompute | (_in_backward(place) & (inner == _ATTENTION_FWD))
    return np.where(again & ~IS_COLLECTIVE[inner], RECOMPUTE, inner), inner


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
    code = np.where((code == OTHER) & (place.module >= 0), place.module, code)
    named = (by_name == _ATTENTION_FWD) | (by_name == _ATTENTION_BWD)
    strong = (place.region >= 0) & STRONG[region] & (by_name != _MEMCPY)
    code = np.where(strong & ~named, region, code)
    return np.where(IS_COLLECTIVE[code], OTHER, code)


def _in_backward(place: HostContext) -> np.ndarray:
    return np.asarray(place.region == _ATTENTION_BWD)


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
