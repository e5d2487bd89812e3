"""Reads what a virtual device wrote down: docs/virtual_gpu.md describes the format.

One file a rank, 64 bytes a record, little endian. A name is given its number by a record that its text
follows; a file that is cut off ends at its last whole record.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from msgspec import Struct

RECORD = struct.Struct("<BBHIQQQ4Q")
"""kind, device, thread, name, t_ns, cpu_ns, stream, four arguments."""


class Kind(IntEnum):
    """What a record is; its arguments in brackets."""

    NAME = 1
    """[number, bytes of text in the records that follow]"""
    KERNEL = 2
    """[grid x, grid y | z << 32, threads of a block | dynamic shared bytes << 32, elements or 0]"""
    GEMM = 3
    """[m, n, k, batch]"""
    COPY = 4
    """[bytes, direction: 1 to the device, 2 to the host, 3 on the device, 1 where the host waits]"""
    MEMSET = 5
    """[bytes]"""
    COLLECTIVE = 6
    """[bytes, communicator, number of the group call, peer or root + 1]"""
    EVENT_RECORD = 7
    """[event]"""
    STREAM_WAIT = 8
    """[event]"""
    SYNCHRONIZE = 9
    """[0 device, 1 stream, 2 event; event]"""
    MEMORY = 10
    """[bytes in use, 0, bytes asked for, 1 where they were refused]"""
    COMMUNICATOR = 11
    """[communicator, ranks, this rank's place in it, parent or 0]"""
    UNKNOWN = 12
    """A call that the device does not know, by its name."""


class Record(Struct, frozen=True, gc=False):
    """One call that the device answered."""

    kind: int
    name: str
    t_ns: int
    """CLOCK_MONOTONIC, the clock of a rank's events."""
    cpu_ns: int
    """Processor time of the process up to this call."""
    stream: int
    thread: int
    args: tuple[int, int, int, int]


def log_path(folder: Path, rank: int) -> Path:
    """File of a rank's records."""
    return folder / f"rank{rank:05d}.vgpu"


def read_log(path: Path) -> Iterator[Record]:
    """Records in the order of the calls, with their names; none where nothing was written."""
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from _records(data)
    except FileNotFoundError:
        return


def _records(data: mmap.mmap) -> Iterator[Record]:
    names = {0: ""}
    at, end = 0, len(data) - len(data) % RECORD.size
    while at < end:
        kind, _, thread, name, t_ns, cpu_ns, stream, *args = RECORD.unpack_from(data, at)
        at += RECORD.size
        if kind == Kind.NAME:
            number, length = args[0], min(args[1], end - at)
            names[number] = data[at : at + length].decode("utf-8", "replace")
            at += -(-length // RECORD.size) * RECORD.size
            continue
        yield Record(kind, names.get(name, ""), t_ns, cpu_ns, stream, thread, tuple(args))
