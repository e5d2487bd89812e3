"""A trace as columns: host operators, device activities, launches; times in whole nanoseconds.

About 35 bytes an event, so that a trace of 300 MB takes 45 MB. Names and threads are small numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tgsbench.errors import ExitCode, TgsError
from tgsbench.profiling.trace import Args, Head, Span, TraceReader

Ints = npt.NDArray[np.int64]
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
    ("cuda_runtime", "cuda_driver", "hip_runtime", "runtime", "privateuse1_runtime", "xpu_runtime")
)


class Numbered(dict[Any, int]):
    """Each new key gets the next number."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number


class Columns:
    """Named columns that grow by chunks."""

    def __init__(self, **dtypes: Any) -> None:
        self._dtypes = dtypes
        self._pieces: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in dtypes}
        self.num_rows = 0

    def append(self, **values: Any) -> None:
        """One chunk; every column, all of one length."""
        for name, dtype in self._dtypes.items():
            self._pieces[name].append(_array(values[name], dtype))
        self.num_rows += len(values[next(iter(self._dtypes))])

    def take(self, name: str) -> npt.NDArray[Any]:
        """A whole column; its pieces are given up."""
        pieces = self._pieces.pop(name)
        return np.concatenate(pieces) if pieces else np.empty(0, self._dtypes[name])


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


@dataclass
class Host:
    """Operators and annotations on the CPU, in file order."""

    start: Ints
    end: Ints
    name: Codes
    thread: Codes
    sequence: Ints
    external: Ints
    is_annotation: npt.NDArray[np.bool_]
    names: list[str]
    threads: list[int | str]
    shapes: dict[int, Shapes]
    """Row -> its arguments, for products, attention and collectives."""
    comm_calls: dict[int, CommCall]
    """Row of a record_param_comms -> what it says."""


@dataclass
class Device:
    """Kernels, copies and fills on the device, in file order."""

    start: Ints
    end: Ints
    name: Codes
    stream: Codes
    correlation: Ints
    external: Ints
    names: list[tuple[str, str]]
    """Category and name."""
    comm_calls: dict[int, CommCall]


@dataclass
class Launches:
    """Calls of the device's runtime: where and when a kernel was launched."""

    correlation: Ints
    start: Ints
    thread: Codes


@dataclass
class Table:
    """One trace."""

    path: Path
    head: Head
    host: Host
    device: Device
    launches: Launches
    num_events: int
    num_broken: int
    num_bytes: int
    origin_us: float
    """Trace time of nanosecond 0."""


def read(path: Path, wants_shapes: Callable[[str], bool]) -> Table:
    """Read a trace; `wants_shapes` says for which operators the arguments are kept.

    Raises TgsError when the file is no whole trace or holds no timed event.
    """
    reader = TraceReader(path)
    builder = _Builder(wants_shapes)
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
        host=builder.host(),
        device=builder.device(),
        launches=builder.launches(),
        num_events=reader.num_events,
        num_broken=reader.num_broken + builder.num_broken,
        num_bytes=reader.num_bytes,
        origin_us=builder.origin_us,
    )


@dataclass
class _Builder:
    wants_shapes: Callable[[str], bool]
    origin_us: float | None = None
    num_broken: int = 0
    _host_names: Numbered = field(default_factory=Numbered)
    _device_names: Numbered = field(default_factory=Numbered)
    _threads: Numbered = field(default_factory=Numbered)
    _streams: Numbered = field(default_factory=Numbered)
    _wanted: list[bool] = field(default_factory=list)
    _shapes: dict[int, Shapes] = field(default_factory=dict)
    _shape_cache: dict[Shapes, Shapes] = field(default_factory=dict)
    _host_comm: dict[int, CommCall] = field(default_factory=dict)
    _device_comm: dict[int, CommCall] = field(default_factory=dict)
    _comm_cache: dict[CommCall, CommCall] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._host = Columns(
            start=np.int64, end=np.int64, name=np.int32, thread=np.int32, sequence=np.int64,
            external=np.int64, is_annotation=np.bool_,
        )  # fmt: skip
        self._device = Columns(
            start=np.int64, end=np.int64, name=np.int32, stream=np.int32, correlation=np.int64,
            external=np.int64,
        )  # fmt: skip
        self._launches = Columns(correlation=np.int64, start=np.int64, thread=np.int32)

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

    def _timed(self, members: list[Span]) -> tuple[list[Span], Ints, Ints]:
        """Start and end; members without a usable time are left out and counted."""
        begin = _array([event.ts for event in members], np.float64) - self.origin_us
        dur = _array([event.dur for event in members], np.float64)
        usable = (np.abs(begin) < _MAX_US) & (dur >= 0) & (dur < _MAX_US)
        if not usable.all():
            self.num_broken += int(len(members) - usable.sum())
            members = [event for event, good in zip(members, usable, strict=True) if good]
            begin, dur = begin[usable], dur[usable]
        start = np.rint(begin * 1e3).astype(np.int64)
        return members, start, np.rint((begin + dur) * 1e3).astype(np.int64)

    def _add_host(self, members: list[Span], annotation: int) -> None:
        members, start, end = self._timed(members)
        numbers, threads = self._host_names, self._threads
        name = _array([numbers[event.name] for event in members], np.int32)
        self._keep_arguments(members, name)
        self._host.append(
            start=start,
            end=end,
            name=name,
            thread=[threads[event.tid] for event in members],
            sequence=[event.args.sequence for event in members],
            external=[event.args.external for event in members],
            is_annotation=np.full(len(members), bool(annotation)),
        )

    def _keep_arguments(self, members: list[Span], name: Codes) -> None:
        wanted, first = self._wanted, self._host.num_rows
        wanted += [
            text == "record_param_comms" or self.wants_shapes(text)
            for text in list(self._host_names)[len(wanted) :]
        ]
        record = self._host_names.get("record_param_comms", -1)
        for index in np.flatnonzero(np.array(wanted, bool)[name]).tolist():
            args = members[index].args
            if name[index] == record:
                self._host_comm[first + index] = self._comm_call(args)
            elif memoryview(args.dims).nbytes:
                shapes = Shapes(bytes(args.dims), bytes(args.types), bytes(args.concrete))
                self._shapes[first + index] = self._shape_cache.setdefault(shapes, shapes)

    def _comm_call(self, args: Args) -> CommCall:
        call = CommCall(
            args.collective or "",
            args.group_size or 0,
            args.group_name or "",
            args.group_description or "",
            args.group_ranks or "",
            args.in_elements,
            args.out_elements,
            args.dtype or "",
        )
        return self._comm_cache.setdefault(call, call)

    def _add_device(self, members: list[Span], category: str) -> None:
        members, start, end = self._timed(members)
        first, numbers, streams = self._device.num_rows, self._device_names, self._streams
        for index, event in enumerate(members):
            if event.args.collective is not None:
                self._device_comm[first + index] = self._comm_call(event.args)
        self._device.append(
            start=start,
            end=end,
            name=[numbers[category, event.name] for event in members],
            stream=[streams[event.tid] for event in members],
            correlation=[event.args.correlation for event in members],
            external=[event.args.external for event in members],
        )

    def _add_launches(self, members: list[Span]) -> None:
        members, start, _ = self._timed(members)
        threads = self._threads
        self._launches.append(
            correlation=[event.args.correlation for event in members],
            start=start,
            thread=[threads[event.tid] for event in members],
        )

    def host(self) -> Host:
        """The host's columns."""
        columns = {name: self._host.take(name) for name in list(self._host._dtypes)}
        return Host(
            **columns,
            names=list(self._host_names),
            threads=list(self._threads),
            shapes=self._shapes,
            comm_calls=self._host_comm,
        )

    def device(self) -> Device:
        """The device's columns."""
        columns = {name: self._device.take(name) for name in list(self._device._dtypes)}
        return Device(**columns, names=list(self._device_names), comm_calls=self._device_comm)

    def launches(self) -> Launches:
        """The launches' columns."""
        return Launches(**{name: self._launches.take(name) for name in list(self._launches._dtypes)})


def _array(values: Any, dtype: Any) -> npt.NDArray[Any]:
    """A list's numbers as an array: `fromiter` takes 17 ns a float where `array` takes 64."""
    return values if isinstance(values, np.ndarray) else np.fromiter(values, dtype, len(values))


def _origin(events: Sequence[Span]) -> float:
    """The median time of some events: one absurd time among them does no harm."""
    return sorted(event.ts for event in events)[len(events) // 2]
