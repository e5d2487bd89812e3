"""A trace as tables: host operators, device activities, launches; times in whole nanoseconds.

Names, threads and arguments are small numbers. The tables may be larger than memory (see spill.py): 45 bytes
an operator, 40 an activity, 20 a launch. What is worked on at once is a `Host`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tgsbench.errors import ExitCode, TgsError
from tgsbench.traces.categories import MODULE_PREFIX
from tgsbench.traces.row_store import FAR, DiskTable, DiskTables, Ints, Rows, array
from tgsbench.traces.trace import Args, Head, Span, TraceReader

Codes = npt.NDArray[np.int32]

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


class Interner(dict[Any, int]):
    """Each new key gets the next number."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number


class Shapes(NamedTuple):
    """Arguments of one call as the trace writes them, JSON."""

    dims: bytes
    types: bytes
    concrete: bytes


class CommCall(NamedTuple):
    """What NCCL's record says about one call."""

    collective: str
    group_size: int
    group_name: str
    group_description: str
    group_ranks: str
    in_elements: int | None
    out_elements: int | None
    dtype: str


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
    for events in reader.chunks():
        builder.add(events)
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
        self._starts_kernel: dict[str, bool] = {}
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

    def add(self, events: list[Any]) -> None:
        """One chunk of events; those without a duration are passed over."""
        groups: defaultdict[str, list[Span]] = defaultdict(list)
        for event in events:
            if type(event) is Span:
                groups[event.cat].append(event)
        if self.origin_us is None and groups:
            self.origin_us = _origin([event for members in groups.values() for event in members])
        for category, members in groups.items():
            self._add(category.lower(), members)

    def _add(self, category: str, members: list[Span]) -> None:
        if category in _HOST:
            self._add_host(members, _HOST[category])
        elif category in _DEVICE:
            self._add_device(members, _DEVICE[category])
        elif category in _LAUNCH:
            self._add_launches(members)
        elif category == "python_function":
            self._add_host([event for event in members if event.name.startswith(MODULE_PREFIX)], 1)
        elif category not in _PASSED_OVER:
            self._count_unread(category, members)

    def _count_unread(self, category: str, members: list[Span]) -> None:
        """Of a category that nobody here knows: what an argument says ran on a device."""
        on_device = [event.dur for event in members if event.args.device is not None]
        known = self.unread.get(category, Unread())
        if on_device:
            self.unread[category] = Unread(known.num_events + len(on_device), known.dur_us + sum(on_device))

    def _timed(self, members: list[Span]) -> tuple[list[Span], Ints, Ints]:
        """Start and end; members without a usable time are left out and counted.

        Torch counts from up to three months ago: at 4e12 µs a float64 is right to half a nanosecond. So whole
        microseconds are taken off first, and the end is the start plus the duration: an operator that ended a
        nanosecond inside the next one would take what is beneath that one from its region (on a synthetic
        trace 54 % of what was recomputed).
        """
        begin = array([event.ts for event in members], np.float64) - self.origin_us
        dur = array([event.dur for event in members], np.float64)
        usable = (np.abs(begin) < _MAX_US) & (dur >= 0) & (dur < _MAX_US)
        if not usable.all():
            self.num_broken += int(len(members) - usable.sum())
            members = [event for event, good in zip(members, usable, strict=True) if good]
            begin, dur = begin[usable], dur[usable]
        start = np.rint(begin * 1e3).astype(np.int64)
        return members, start, start + np.rint(dur * 1e3).astype(np.int64)

    def _add_host(self, members: list[Span], annotation: int) -> None:
        members, start, end = self._timed(members)
        numbers, threads = self.host_names, self._threads
        name = array([numbers[event.name] for event in members], np.int32)
        self.host.append(
            start=start,
            end=end,
            name=name,
            thread=[threads[event.tid] for event in members],
            sequence=[event.args.sequence for event in members],
            external=[event.args.external for event in members],
            is_annotation=np.full(len(members), bool(annotation)),
            said=self._host_arguments(members, name),
        )

    def _host_arguments(self, members: list[Span], name: Codes) -> Codes:
        wanted, said, numbers = self._wanted, np.zeros(len(members), np.int32), self.arguments
        wanted += [
            text == "record_param_comms" or self._wants_shapes(text)
            for text in list(self.host_names)[len(wanted) :]
        ]
        record = self.host_names.get("record_param_comms", -1)
        for index in np.flatnonzero(np.array(wanted, bool)[name]).tolist():
            args = members[index].args
            if name[index] == record:
                said[index] = numbers[_comm_call(args)]
            elif memoryview(args.dims).nbytes:
                said[index] = numbers[Shapes(bytes(args.dims), bytes(args.types), bytes(args.concrete))]
        return said

    def _add_device(self, members: list[Span], category: str) -> None:
        members, start, end = self._timed(members)
        numbers, arguments, streams = self.device_names, self.arguments, self.streams
        self.device.append(
            start=start,
            end=end,
            name=[numbers[category, event.name] for event in members],
            correlation=[event.args.correlation for event in members],
            external=[event.args.external for event in members],
            said=[
                arguments[_comm_call(event.args)] if event.args.collective is not None else 0
                for event in members
            ],
            stream=[streams[event.args.device, event.tid] for event in members],
        )

    def _add_launches(self, members: list[Span]) -> None:
        members, start, _ = self._timed(members)
        threads, starts = self._threads, self._starts_kernel
        for name in {event.name for event in members} - starts.keys():
            starts[name] = _STARTS_KERNEL.search(name) is not None
        self.launches.append(
            correlation=[event.args.correlation for event in members],
            start=start,
            thread=[threads[event.tid] for event in members],
            starts_kernel=[starts[event.name] for event in members],
        )


def _comm_call(args: Args) -> CommCall:
    return CommCall(
        args.collective or "",
        args.group_size or 0,
        args.group_name or "",
        args.group_description or "",
        args.group_ranks or "",
        args.in_elements,
        args.out_elements,
        args.dtype or "",
    )


def _origin(events: Sequence[Span]) -> float:
    """The median time of some events in whole microseconds: one absurd time among them does no harm."""
    median = sorted(event.ts for event in events)[len(events) // 2]
    return float(math.floor(median)) if math.isfinite(median) else median
