"""The most expensive kernels and operators: calls, total, mean, p95, achieved TFLOPs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

import numpy as np

from tgsbench.metrics.figures import kernel_tflops
from tgsbench.schema.hotspots import PARTS, HotOp
from tgsbench.traces.device_time import DeviceTime
from tgsbench.traces.host_time import HostTime
from tgsbench.traces.row_store import Ints
from tgsbench.traces.step_window import StepWindow
from tgsbench.traces.tables import Table

NUM_TOP: Final = 20


class HotMeasure(NamedTuple):
    """Some activities."""

    key: Ints
    """What each counts as: `name * len(PARTS) + part`."""
    dur: Ints
    """Nanoseconds in the window."""
    flops: np.ndarray
    """Floating-point operations; 0: unknown."""


Measurements = Callable[[], Iterator[HotMeasure]]
"""They are walked over several times."""


def kernels(table: Table, found: DeviceTime, peak_tflops: float | None) -> list[HotOp]:
    """The kernels that took longest in the window, then the operators by what they launched themselves."""
    window = found.window

    def measured(column: str) -> Iterator[HotMeasure]:
        for rows in found.kernels.batches():
            start, end = np.maximum(rows["start"], window.start), np.minimum(rows["end"], window.end)
            at = np.flatnonzero(
                (rows["end"] > window.start) & (rows["start"] < window.end) & (rows[column] >= 0)
            )
            key = rows[column][at].astype(np.int64) * len(PARTS) + rows["code"][at]
            yield HotMeasure(key, (end - start)[at], rows["flops"][at])

    names, devices = [name for _, name in table.device_names], len(table.devices)
    by_kernel, by_operator = ranked(lambda: measured("name")), ranked(lambda: measured("op"))
    return [_hot(names, entry, "kernel", window, peak_tflops, devices) for entry in by_kernel] + [
        _hot(table.host_names, entry, "operator", window, peak_tflops, devices) for entry in by_operator
    ]


def operators(table: Table, found: HostTime) -> list[HotOp]:
    """The operators with the most own time on the training loop's thread."""

    def measured() -> Iterator[HotMeasure]:
        for rows in found.operators.batches():
            key = rows["name"].astype(np.int64) * len(PARTS) + rows["code"]
            yield HotMeasure(key, rows["own_ns"], rows["flops"])

    return [_hot(table.host_names, entry, "operator", found.window, None) for entry in ranked(measured)]


class HotEntry(NamedTuple):
    """All activities of one key."""

    key: int
    calls: int
    total_ns: int
    p95_ns: int
    flops: float
    """0: unknown for some call."""


def ranked(measurements: Measurements) -> list[HotEntry]:
    """The keys that took longest in all, the most expensive first."""
    sums: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros(4))
    longest = 0
    for part in measurements():
        longest = max(longest, int(part.dur.max(initial=0)))
        keys, index = np.unique(part.key, return_inverse=True)
        columns = (np.ones(len(index)), part.dur, part.flops, part.flops == 0)
        found = np.column_stack([np.bincount(index, weights=column) for column in columns])
        for key, row in zip(keys.tolist(), found, strict=True):
            sums[key] += row
    first = sorted(sums, key=lambda key: (-sums[key][1], key))[:NUM_TOP]
    calls = np.array([sums[key][0] for key in first])
    p95 = kth_shortest(measurements, first, np.ceil(0.95 * calls).astype(np.int64) - 1, longest)
    return [
        HotEntry(
            key, int(sums[key][0]), int(sums[key][1]), p95_ns, 0.0 if sums[key][3] else float(sums[key][2])
        )
        for key, p95_ns in zip(first, p95.tolist(), strict=True)
    ]


_BITS: Final = 13


def kth_shortest(measurements: Measurements, keys: list[int], ranks: Ints, longest: int) -> Ints:
    """Each key's duration of that rank (0: the shortest), exact: digit by digit, with no duration kept."""
    order = np.argsort(keys)
    ordered, left = np.array(keys, np.int64)[order], ranks[order]
    value = np.zeros(len(keys), np.int64)
    for shift in reversed(range(0, longest.bit_length(), _BITS)):
        counts = np.zeros(len(keys) << _BITS, np.int64)
        for part in measurements():
            slot = np.minimum(np.searchsorted(ordered, part.key), len(keys) - 1)
            at = (ordered[slot] == part.key) & (part.dur >> (shift + _BITS) == value[slot])
            digit = (part.dur[at] >> shift) & ((1 << _BITS) - 1)
            counts += np.bincount((slot[at] << _BITS) | digit, minlength=len(counts))
        up_to = counts.reshape(len(keys), -1).cumsum(axis=1)
        digit = (up_to <= left[:, None]).sum(axis=1)
        shorter = np.where(digit > 0, up_to[np.arange(len(keys)), digit - 1], 0)
        left, value = left - shorter, (value << _BITS) | digit
    found = np.empty_like(value)
    found[order] = value
    return found


def _hot(
    names: list[str],
    entry: HotEntry,
    source: Literal["kernel", "operator"],
    window: StepWindow,
    peak_tflops: float | None,
    num_devices: int = 1,
) -> HotOp:
    key, calls, total, p95, work = entry
    tflops = kernel_tflops(work, total)
    return HotOp(
        name=names[key // len(PARTS)],
        kind=PARTS[key % len(PARTS)],
        source=source,
        calls=calls / window.num_steps / num_devices,
        total_ms=total / 1e6 / window.num_steps / num_devices,
        share=total / window.length_ns / num_devices if window.length_ns else 0.0,
        mean_us=total / calls / 1e3,
        p95_us=p95 / 1e3,
        tflops=tflops,
        peak_tflops=peak_tflops if tflops is not None else None,
    )
