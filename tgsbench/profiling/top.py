"""The most expensive kernels and operators: calls, total, mean, p95, achieved TFLOPs."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tgsbench.profiling import shapes
from tgsbench.profiling.device_time import DeviceTime
from tgsbench.profiling.host_time import HostTime
from tgsbench.profiling.tables import Table
from tgsbench.profiling.windows import Window
from tgsbench.schema.hotspots import PARTS, HotOp

NUM_TOP = 20


def kernels(table: Table, found: DeviceTime, window: Window, peak_tflops: float | None) -> list[HotOp]:
    """The kernels that took longest in the window, then the operators by what they launched themselves."""
    device = table.device
    rows = np.flatnonzero((device.end > window.start) & (device.start < window.end))
    dur = np.minimum(device.end[rows], window.end) - np.maximum(device.start[rows], window.start)
    work = np.zeros(len(device.start))
    _assign_flops(table, found, work)
    key = device.name[rows].astype(np.int64) * len(PARTS) + found.code[rows]
    kernel_rows = _grouped(key, dur, work[rows])
    names = [name for _, name in device.names]
    top = [_hot(names, entry, "kernel", window, peak_tflops) for entry in kernel_rows[:NUM_TOP]]
    launched = rows[found.place.row[rows] >= 0]
    by_op = table.host.name[found.place.row[launched]].astype(np.int64) * len(PARTS) + found.code[launched]
    own = np.minimum(device.end[launched], window.end) - np.maximum(device.start[launched], window.start)
    op_rows = _grouped(by_op, own, work[launched])
    operators = [
        _hot(table.host.names, entry, "operator", window, peak_tflops) for entry in op_rows[:NUM_TOP]
    ]
    return top + operators


def operators(table: Table, found: HostTime, window: Window) -> list[HotOp]:
    """The operators with the most own time on the training loop's thread."""
    host = table.host
    own = found.own_ns
    at = np.flatnonzero((own > 0) & ~host.is_annotation[found.thread.forest.rows])
    rows = found.thread.forest.rows[at]
    work = np.array([_flops(table, int(row)) for row in rows])
    key = host.name[rows].astype(np.int64) * len(PARTS) + found.code[at]
    return [
        _hot(host.names, entry, "operator", window, None) for entry in _grouped(key, own[at], work)[:NUM_TOP]
    ]


def _flops(table: Table, row: int) -> float:
    known = table.host.shapes.get(row)
    if known is None:
        return 0.0
    return shapes.flops(table.host.names[table.host.name[row]], known) or 0.0


def _assign_flops(table: Table, found: DeviceTime, work: np.ndarray) -> None:
    """Each operator's floating-point operations go to the longest kernel that it launched itself."""
    device, place = table.device, found.place
    with_flops = {row: f for row in table.host.shapes if (f := _flops(table, row))}
    if not with_flops:
        return
    rows = np.flatnonzero(np.isin(place.row, np.fromiter(with_flops, np.int64)))
    order = rows[np.lexsort((device.end[rows] - device.start[rows], place.row[rows]))]
    last = np.append(place.row[order][1:] != place.row[order][:-1], True) if len(order) else np.empty(0, bool)
    for row in order[last]:
        work[row] = with_flops[int(place.row[row])]


Entry = tuple[int, int, int, float, float]
"""Key, calls, total ns, p95 ns, floating-point operations (0: unknown for some call)."""


def _grouped(key: np.ndarray, dur: np.ndarray, work: np.ndarray) -> list[Entry]:
    """Entries by key, the most expensive first."""
    if not len(key):
        return []
    order = np.lexsort((dur, key))
    key, dur, work = key[order], dur[order], work[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    total = np.add.reduceat(dur, first)
    operations = np.add.reduceat(work, first)
    known = np.minimum.reduceat(work, first) > 0
    counts = np.diff(np.append(first, len(key)))
    p95 = dur[first + np.ceil(0.95 * counts).astype(np.int64) - 1]
    ranked = np.argsort(-total, kind="stable")
    return [
        (int(key[first[i]]), int(counts[i]), int(total[i]), float(p95[i]), float(operations[i] * known[i]))
        for i in ranked
    ]


def _hot(
    names: list[str],
    entry: Entry,
    source: Literal["kernel", "operator"],
    window: Window,
    peak_tflops: float | None,
) -> HotOp:
    key, calls, total, p95, work = entry
    tflops = work / total / 1e3 if work and total else None
    return HotOp(
        name=names[key // len(PARTS)],
        kind=PARTS[key % len(PARTS)],
        source=source,
        calls=calls / window.num_steps,
        total_ms=total / 1e6 / window.num_steps,
        share=total / window.length_ns if window.length_ns else 0.0,
        mean_us=total / calls / 1e3,
        p95_us=p95 / 1e3,
        tflops=tflops,
        peak_tflops=peak_tflops if tflops is not None else None,
    )
