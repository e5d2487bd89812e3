"""The device's side of a step: kernels by where they were launched first, by their names last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgsbench.profiling import collectives, names, shares
from tgsbench.profiling import intervals as iv
from tgsbench.profiling.collectives import Calls
from tgsbench.profiling.scopes import CODE, NONE, OTHER, RECOMPUTE, Place, Scopes
from tgsbench.profiling.tables import Table
from tgsbench.profiling.windows import Window
from tgsbench.schema.hotspots import COLLECTIVES, PARTS

_STRONG = np.array(
    [part in ("attention_fwd", "attention_bwd", "loss", "optimizer", "data") for part in PARTS]
)
_MEMCPY = CODE["memcpy"]
_ATTENTION_FWD, _ATTENTION_BWD = CODE["attention_fwd"], CODE["attention_bwd"]


@dataclass(frozen=True)
class DeviceTime:
    """What the device did; arrays by row of the device table."""

    code: np.ndarray
    """Part of each activity."""
    inner: np.ndarray
    """The same, but for recomputed work: the part it would be."""
    place: Place
    calls: Calls
    parts: shares.Parts


def analyse(table: Table, scopes: Scopes, window: Window) -> DeviceTime:
    """Attribute the device's time in a window."""
    device = table.device
    place = launch_places(table, scopes)
    by_name = np.array([CODE[names.device_kind(*pair)] for pair in device.names], np.int64)[device.name]
    comm = np.isin(by_name, [CODE[kind] for kind in COLLECTIVES])
    rows = np.flatnonzero(comm)
    rows = rows[np.argsort(device.start[rows], kind="stable")]
    subset = _subset(place, rows)
    calls = collectives.on_device(table, rows, subset, scopes)
    inner = _kinds(by_name, place)
    inner[rows] = shares.codes(calls.kind)
    again = place.recompute | (_in_backward(place) & (inner == _ATTENTION_FWD))
    code = np.where(again & ~comm, RECOMPUTE, inner)
    parts = _split(table, code, inner, scopes, window)
    return DeviceTime(code, inner, place, collectives.inside(calls, window.start, window.end), parts)


def launch_places(table: Table, scopes: Scopes) -> Place:
    """Where each activity was launched: by correlation the runtime call, else the operator by External id."""
    device, launches, host = table.device, table.launches, table.host
    thread = np.full(len(device.start), -1, np.int64)
    instant = np.zeros(len(device.start), np.int64)
    found, index = _look_up(launches.correlation, device.correlation)
    thread[found], instant[found] = launches.thread[index[found]], launches.start[index[found]]
    missing = np.flatnonzero(~found & (device.external > 0))
    known, at = _look_up(host.external, device.external[missing])
    missing, at = missing[known], at[known]
    thread[missing], instant[missing] = host.thread[at], host.start[at]
    return scopes.places(thread, instant)


def _look_up(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted value stands among the keys, and whether it does; 0 is no value."""
    if not len(keys):
        return np.zeros(len(wanted), bool), np.zeros(len(wanted), np.int64)
    order = np.argsort(keys, kind="stable")
    index = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    return (keys[order][index] == wanted) & (wanted != 0), order[index]


def _kinds(by_name: np.ndarray, place: Place) -> np.ndarray:
    """The region of the launch where it is one of ours, else the name, else the operator's kind."""
    region = np.where(place.region >= 0, place.region, OTHER)
    code = np.where((by_name == OTHER) & (place.region != NONE), region, by_name)
    code = np.where((code == OTHER) & (place.row >= 0), place.kind, code)
    named = (by_name == _ATTENTION_FWD) | (by_name == _ATTENTION_BWD)
    strong = (place.region >= 0) & _STRONG[region] & (by_name != _MEMCPY)
    code = np.where(strong & ~named, region, code)
    return np.where(np.isin(code, [CODE[kind] for kind in COLLECTIVES]), OTHER, code)


def _in_backward(place: Place) -> np.ndarray:
    return np.asarray(place.region == _ATTENTION_BWD)


def _subset(place: Place, rows: np.ndarray) -> Place:
    return Place(
        place.thread[rows],
        place.position[rows],
        place.row[rows],
        place.region[rows],
        place.recompute[rows],
        place.kind[rows],
    )


def _split(table: Table, code: np.ndarray, inner: np.ndarray, scopes: Scopes, window: Window) -> shares.Parts:
    device = table.device
    found = shares.by_code(device.start, device.end, code)
    whole = np.array([[window.start, window.end]], np.int64)
    work = {kind: instants for kind, instants in found.items() if kind not in COLLECTIVES}
    comm = {kind: instants for kind, instants in found.items() if kind in COLLECTIVES}
    parts = shares.split(whole, work, comm, _data_waits(scopes, window))
    again = code == RECOMPUTE
    if again.any():
        inner_sets = shares.by_code(device.start[again], device.end[again], inner[again])
        only = {kind: iv.intersect(instants, whole) for kind, instants in inner_sets.items()}
        parts.recompute_ns = {kind: iv.length(instants) for kind, instants in only.items()}
    return parts


def _data_waits(scopes: Scopes, window: Window) -> iv.Intervals:
    if window.thread is None:
        return iv.EMPTY
    thread = scopes.thread(window.thread)
    rows = np.flatnonzero(thread.region == CODE["data"])
    return iv.union(thread.forest.start[rows], thread.forest.end[rows])
