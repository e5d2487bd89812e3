"""A clock for what a virtual device wrote down: streams, events and the host, in the order of the calls.

The host goes on by the processor time between its calls. Work of a stream begins when the host has asked for
it and the stream's work before it is done; a stream that waits for an event goes on when what was before the
event's record is done; a host that waits goes on when that is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Struct

from tgsbench.virtual_gpu.log import Kind, Record

Duration = Callable[[Record], float]
"""Seconds that the device is busy with one piece of work."""

WORK = frozenset((Kind.KERNEL, Kind.GEMM, Kind.COPY, Kind.MEMSET, Kind.COLLECTIVE))
"""What takes time on a stream."""


class DeviceWork(Struct, frozen=True, gc=False):
    """One piece of work on the device, seconds from the first call."""

    record: Record
    asked_s: float
    """When the host asked for it."""
    begin_s: float
    end_s: float


class Timeline(Struct, frozen=True):
    """What the device did, and when the host was done."""

    spans: list[DeviceWork]
    total_s: float
    """Until the host has made its last call and waited for what it waits for."""
    host_s: float
    """Processor time of the host, waiting left out."""


def simulate(records: Sequence[Record], duration: Duration, host_speed: float = 1.0) -> Timeline:
    """Put records on a time axis; `host_speed` is of a host that is so many times as fast as this one."""
    clock = _Clock(duration)
    begin_ns = last_ns = records[0].cpu_ns if records else 0
    for record in whole_collectives(records):
        clock.host_s += max(0, record.cpu_ns - last_ns) / 1e9 / host_speed
        last_ns = max(last_ns, record.cpu_ns)
        clock.take(record)
    return Timeline(clock.spans, clock.host_s, (last_ns - begin_ns) / 1e9 / host_speed)


class _Clock:
    def __init__(self, duration: Duration) -> None:
        self._duration = duration
        self.host_s = 0.0
        self.spans: list[DeviceWork] = []
        self._free_s: dict[int, float] = {}
        """When each stream's work is done."""
        self._recorded_s: dict[int, float] = {}
        """When what was before each event's last record is done."""

    def take(self, record: Record) -> None:
        """The next call of the host."""
        if record.kind in WORK:
            self._work(record)
        elif record.kind == Kind.EVENT_RECORD:
            self._recorded_s[record.args[0]] = max(self.host_s, self._free_s.get(record.stream, 0.0))
        elif record.kind == Kind.STREAM_WAIT:
            self._delay(record.stream, self._recorded_s.get(record.args[0], 0.0))
        elif record.kind == Kind.SYNCHRONIZE:
            self.host_s = max(self.host_s, self._waited_for_s(record))

    def _work(self, record: Record) -> None:
        begin_s = max(self.host_s, self._free_s.get(record.stream, 0.0))
        end_s = begin_s + self._duration(record)
        self.spans.append(DeviceWork(record, self.host_s, begin_s, end_s))
        self._free_s[record.stream] = end_s
        if record.kind == Kind.COPY and record.args[2]:
            self.host_s = end_s

    def _delay(self, stream: int, until_s: float) -> None:
        self._free_s[stream] = max(self._free_s.get(stream, 0.0), until_s)

    def _waited_for_s(self, record: Record) -> float:
        what, event = record.args[:2]
        if what == 1:
            return self._free_s.get(record.stream, 0.0)
        if what == 2:
            return self._recorded_s.get(event, 0.0)
        return max(self._free_s.values(), default=0.0)


def whole_collectives(records: Sequence[Record]) -> list[Record]:
    """Sends and receives of one group call as one all-to-all of what this rank sends.

    A single one each way is a message round a ring: the send, or the receive of a member that sends none.
    """
    sends = Counter(_call_of(record) for record in records if _is_part(record) and record.name == "send")
    found: list[Record] = []
    at: dict[tuple[int, int, int], int] = {}
    for record in records:
        call = _call_of(record)
        if not _is_part(record):
            found.append(record)
        elif sends[call] <= 1:
            if record.name == "send" or not sends[call]:
                found.append(record)
        elif call in at:
            found[at[call]] = _exchange(found[at[call]], record)
        else:
            at[call] = len(found)
            found.append(_exchange(record, record))
    return found


def _is_part(record: Record) -> bool:
    return record.kind == Kind.COLLECTIVE and record.name in ("send", "receive")


def _call_of(record: Record) -> tuple[int, int, int]:
    """Thread, communicator and number of a group call."""
    return record.thread, record.args[1], record.args[2]


def _exchange(before: Record, part: Record) -> Record:
    sent = (before.args[0] if before.name == "all_to_all" else 0) + part.args[0] * (part.name == "send")
    args = sent, before.args[1], before.args[2], 0
    return Record(before.kind, "all_to_all", before.t_ns, before.cpu_ns, before.stream, before.thread, args)
