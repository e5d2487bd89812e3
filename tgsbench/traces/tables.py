"""A trace as tables: host operators, device activities, launches; times in whole nanoseconds.

Names, threads and arguments are small numbers. The tables may be larger than memory (see spill.py): 45 bytes
an operator, 40 an activity, 20 a launch. What is worked on at once is a `Host`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tgsbench.errors import ExitCode, TgsError
from tgsbench.traces.columns import RECORD, Codes, Columns, CommCall, Floats, Interner, Shapes
from tgsbench.traces.row_store import FAR, DiskTable, DiskTables, Ints, Rows
from tgsbench.traces.trace import Head, TraceReader

_MAX_US: Final = 1e12
"""Eleven days: what lies further from its neighbours, or lasts longer, is no time."""

_HOST: Final = {"cpu_op": 0, "user_annotation": 1, "operator": 0}
_DEVICE: Final = {
    "kernel": "kernel",
    "gpu_memcpy": "gpu_memcpy",
    "gpu_memset": "gpu_memset",
    "memcpy": "gpu_memcpy",
    "memset": "gpu_memset",
    "concurrent_kernel": "kernel",
}
_LAUNCH: Final = frozenset(
    (
        "cuda_runtime", "cuda_driver", "hip_runtime", "hip_driver", "runtime", "privateuse1_runtime",
        "privateuse1_driver", "xpu_runtime", "xpu_driver", "mtia_runtime",
    )
)  # fmt: skip
_STARTS_KERNEL: Final = re.compile(r"Launch(Cooperative)?Kernel|ModuleLaunch", re.IGNORECASE)
"""Calls that start one kernel each: where that is missing, it was lost."""
_PASSED_OVER: Final = frozenset(
    (
        "cpu_instant_event", "gpu_user_annotation", "fwdbwd", "ac2g", "async_cpu_to_gpu",
        "trace", "overhead", "cuda_sync", "cuda_event", "cuda_profiler_range", "external_correlation",
        "collective_comm", "",
    )
)  # fmt: skip
"""Categories of no work of its own: marks, copies of annotations, the profiler's own time."""


Arguments = Shapes | CommCall | None


class Unread(NamedTuple):
    """Events that were passed over."""

    num_events: int = 0
    dur_us: float = 0.0


@dataclass
class Host:
    """Operators and annotations on the CPU that meet a stretch of time, in file order."""

    start: Ints
    end: Ints
    name: Codes
    thread: Codes
    sequence: Ints
    external: Ints
    is_annotation: npt.NDArray[np.bool_]
    said: Codes
    """Number of its arguments, for products, attention and collectives; 0: none kept."""
    row: Ints
    """Number in the whole trace."""
    names: list[str]
    arguments: list[Arguments]
    since: int
    until: int
    """The stretch [since, until)."""

    def shapes(self, row: int) -> Shapes | None:
        """Arguments of a product, of attention or of a collective, where recorded."""
        found = self.arguments[self.said[row]]
        return found if isinstance(found, Shapes) else None

    def comm_call(self, row: int) -> CommCall | None:
        """What a record_param_comms says."""
        found = self.arguments[self.said[row]]
        return found if isinstance(found, CommCall) else None


@dataclass
class Table:
    """One trace."""

    path: Path
    head: Head
    scratch: DiskTables
    host: DiskTable
    """Columns of a `Host`."""
    device: DiskTable
    """Kernels, copies and fills on the device: start, end, name, correlation, external, said, stream."""
    launches: DiskTable
    """Calls of the device's runtime, where and when a kernel was launched: correlation, start, thread, and
    `starts_kernel`: it launches one."""
    host_names: list[str]
    device_names: list[tuple[str, str]]
    """Category and name."""
    streams: list[tuple[Any, Any]]
    """Device and stream, by number."""
    unread: dict[str, Unread]
    """Events of categories that are not known and yet say that they ran on a device, by category."""
    arguments: list[Arguments]
    """By number; shared by host and device."""
    num_events: int
    num_broken: int
    num_bytes: int

    @cached_property
    def devices(self) -> list[Any]:
        """The devices whose activities are there, in order; [None]: no activity says on which it ran."""
        said = {device for device, _ in self.streams if device is not None}
        return sorted(said, key=lambda device: (isinstance(device, str), device)) or [None]

    @cached_property
    def device_of_stream(self) -> Ints:
        """By number of a stream: position of its device in `devices`; the first where it says none."""
        numbers = {device: number for number, device in enumerate(self.devices)}
        return np.array([numbers.get(device, 0) for device, _ in self.streams], np.int64)

    def host_rows(self, rows: Rows, since: int = -FAR, until: int = FAR) -> Host:
        """Rows of the host table as what one works on."""
        return Host(**rows, names=self.host_names, arguments=self.arguments, since=since, until=until)


def read(
    path: Path,
    wants_shapes: Callable[[str], bool],
    scratch: DiskTables,
    on_read: Callable[[int], None] = lambda got: None,
) -> Table:
    """Read a trace; `wants_shapes` says for which operators the arguments are kept, `scratch` holds the rows.

    Raises TgsError when the file is no whole trace, holds no timed event or the disk is full.
    """
    reader = TraceReader(path, on_read=on_read)
    builder = _Builder(wants_shapes, scratch)
    for columns in reader.columns():
        builder.add(columns)
    if builder.origin_us is None:
        raise TgsError(
            f"{path}: holds no timed event",
            hint="was the profiler's schedule active in any step?",
            exit_code=ExitCode.BAD_INPUT,
        )
    return Table(
        path=path,
        head=reader.head,
        scratch=scratch,
        host=builder.host,
        device=builder.device,
        launches=builder.launches,
        host_names=list(builder.host_names),
        device_names=list(builder.device_names),
        streams=list(builder.streams),
        unread=builder.unread,
        arguments=list(builder.arguments),
        num_events=reader.num_events,
        num_broken=reader.num_broken + builder.num_broken,
        num_bytes=reader.num_bytes,
    )


class _Builder:
    def __init__(self, wants_shapes: Callable[[str], bool], scratch: DiskTables) -> None:
        self._wants_shapes = wants_shapes
        self.origin_us: float | None = None
        """Trace time of nanosecond 0."""
        self.num_broken = 0
        self.host_names, self.device_names, self._threads = Interner(), Interner(), Interner()
        self.streams = Interner()
        self.unread: dict[str, Unread] = {}
        self._call_names, self._starts_kernel = Interner(), list[bool]()
        self.arguments = Interner({None: 0})
        self._wanted: list[bool] = []
        self.host = DiskTable(
            scratch, ("start", "end", "external"),
            start=np.int64, end=np.int64, name=np.int32, thread=np.int32, sequence=np.int64,
            external=np.int64, is_annotation=np.bool_, said=np.int32,
        )  # fmt: skip
        self.device = DiskTable(
            scratch, ("start", "end"),
            start=np.int64, end=np.int64, name=np.int32, correlation=np.int64, external=np.int64,
            said=np.int32, stream=np.int32,
        )  # fmt: skip
        self.launches = DiskTable(
            scratch, ("correlation", "start"),
            correlation=np.int64, start=np.int64, thread=np.int32, starts_kernel=np.bool_,
        )  # fmt: skip

    def add(self, chunk: Columns) -> None:
        """One chunk of events."""
        if self.origin_us is None and len(chunk.ts):
            self.origin_us = _origin(chunk.ts)
        codes, first = np.unique(chunk.category, return_index=True)
        for code in codes[np.argsort(first)].tolist():
            self._add(chunk.texts[code].lower(), chunk, np.flatnonzero(chunk.category == code))

    def _add(self, category: str, chunk: Columns, rows: Ints) -> None:
        if category in _HOST:
            self._add_host(chunk, rows, _HOST[category])
        elif category in _DEVICE:
            self._add_device(chunk, rows, _DEVICE[category])
        elif category in _LAUNCH:
            self._add_launches(chunk, rows)
        elif category == "python_function":
            self._add_host(chunk, rows, 1)
        elif category not in _PASSED_OVER:
            self._count_unread(category, chunk, rows)

    def _count_unread(self, category: str, chunk: Columns, rows: Ints) -> None:
        """Of a category that nobody here knows: what an argument says ran on a device."""
        on_device = rows[[chunk.texts[code] is not None for code in chunk.device[rows].tolist()]]
        if len(on_device):
            known = self.unread.get(category, Unread())
            dur_us = known.dur_us + float(chunk.dur[on_device].sum())
            self.unread[category] = Unread(known.num_events + len(on_device), dur_us)

    def _timed(self, chunk: Columns, rows: Ints) -> tuple[Ints, Ints, Ints]:
        """Rows, start and end; rows without a usable time are left out and counted.

        Torch counts from up to three months ago: at 4e12 µs a float64 is right to half a nanosecond. So whole
        microseconds are taken off first, and the end is the start plus the duration: an operator that ended a
        nanosecond inside the next one would take what is beneath that one from its region (on a synthetic
        trace 54 % of what was recomputed).
        """
        begin, dur = chunk.ts[rows] - (self.origin_us or 0.0), chunk.dur[rows]
        usable = (np.abs(begin) < _MAX_US) & (dur >= 0) & (dur < _MAX_US)
        if not usable.all():
            self.num_broken += int(len(rows) - usable.sum())
            rows, begin, dur = rows[usable], begin[usable], dur[usable]
        start = np.rint(begin * 1e3).astype(np.int64)
        return rows, start, start + np.rint(dur * 1e3).astype(np.int64)

    def _add_host(self, chunk: Columns, rows: Ints, annotation: int) -> None:
        rows, start, end = self._timed(chunk, rows)
        name = chunk.numbers(chunk.name[rows], self.host_names)
        self.host.append(
            start=start,
            end=end,
            name=name,
            thread=chunk.numbers(chunk.tid[rows], self._threads),
            sequence=chunk.sequence[rows],
            external=chunk.external[rows],
            is_annotation=np.full(len(rows), bool(annotation)),
            said=self._host_arguments(chunk, rows, name),
        )

    def _host_arguments(self, chunk: Columns, rows: Ints, name: Codes) -> Codes:
        wanted, said, numbers = self._wanted, np.zeros(len(rows), np.int32), self.arguments
        wanted += [
            text == RECORD or self._wants_shapes(text) for text in list(self.host_names)[len(wanted) :]
        ]
        record = self.host_names.get(RECORD, -1)
        is_record = name == record
        shaped = np.flatnonzero(np.array(wanted, bool)[name] & ~is_record)
        said[shaped] = [numbers[told] for told in chunk.shapes(rows[shaped])]
        said[is_record] = self._recorded(chunk, rows[is_record])
        return said

    def _recorded(self, chunk: Columns, rows: Ints) -> list[int]:
        return [self.arguments[chunk.records[code]] for code in chunk.record[rows].tolist()]

    def _add_device(self, chunk: Columns, rows: Ints, category: str) -> None:
        rows, start, end = self._timed(chunk, rows)
        self.device.append(
            start=start,
            end=end,
            name=chunk.numbers(chunk.name[rows], self.device_names, lambda text: (category, text)),
            correlation=chunk.correlation[rows],
            external=chunk.external[rows],
            said=self._recorded(chunk, rows),
            stream=self._streams_of(chunk, rows),
        )

    def _streams_of(self, chunk: Columns, rows: Ints) -> Ints:
        """Number of each row's device and stream."""
        count = len(chunk.texts)
        pairs, first, which = np.unique(
            chunk.device[rows].astype(np.int64) * count + chunk.tid[rows],
            return_index=True, return_inverse=True,
        )  # fmt: skip
        numbers = np.zeros(len(pairs), np.int64)
        for at in np.argsort(first).tolist():
            device, stream = divmod(int(pairs[at]), count)
            numbers[at] = self.streams[chunk.texts[device], chunk.texts[stream]]
        found: Ints = numbers[which]
        return found

    def _add_launches(self, chunk: Columns, rows: Ints) -> None:
        rows, start, _ = self._timed(chunk, rows)
        name = chunk.numbers(chunk.name[rows], self._call_names)
        starts = self._starts_kernel
        starts += [_STARTS_KERNEL.search(text) is not None for text in list(self._call_names)[len(starts) :]]
        self.launches.append(
            correlation=chunk.correlation[rows],
            start=start,
            thread=chunk.numbers(chunk.tid[rows], self._threads),
            starts_kernel=np.array(starts, bool)[name],
        )


def _origin(ts: Floats) -> float:
    """The median time of some events in whole microseconds: one absurd time among them does no harm."""
    median = float(np.sort(ts)[len(ts) // 2])
    return float(math.floor(median)) if math.isfinite(median) else median
