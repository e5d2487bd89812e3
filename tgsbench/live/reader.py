"""`python -m tgsbench.live.reader`: one process that decodes event files for another, piece by piece.

A request comes on stdin; parts go to stdout, each after its length, a length of 0 last. MessagePack and bytes
only: nothing that is read can be executed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from tgsbench.events.step_columns import RankBatch
from tgsbench.events.tail import PIECE_BYTES, FilePosition, FileTail
from tgsbench.live.pending import MAX_GAP_STEPS
from tgsbench.system.allocator import keep_freed_blocks

HEAD_BYTES = 4
SEND_BYTES = 256 << 10
"""Parts that go out together: who takes them in wakes up once for a score of them."""
_PIECE_BYTES = 2 * PIECE_BYTES
"""340 steps, of the 512 that may wait for a rank; an event costs a sixth less than in half such pieces."""
_NICE = 5
"""Ranks of this machine go first."""


class Request(Struct):
    """Files to read and where to begin in each."""

    files: list[tuple[bytes, FilePosition]]


class ReadPart(Struct, array_like=True):
    """One piece; those of a reader come in the order of `front`."""

    front: int
    """The newest step that was read of this file before, an absurd one left out."""
    file: int
    place: FilePosition
    """Behind the piece."""
    piece: RankBatch


def read(request: Request, stream: IO[bytes]) -> None:
    """Write the files' parts, the file that is least far first, until all are at their ends."""
    encoder = msgspec.msgpack.Encoder()
    tails = [FileTail(Path(os.fsdecode(path)), place) for path, place in request.files]
    due = [(-1, index) for index in range(len(tails))]
    heapify(due)
    while due:
        front, index = heappop(due)
        tail = tails[index]
        if batch := tail.read_batch(_PIECE_BYTES):
            part = ReadPart(front, index, tail.place, batch)
            _send(stream, encoder.encode(part))
            front = _front(front, part.piece)
        if not tail.at_end:
            heappush(due, (front, index))
    _send(stream, b"")


def _front(front: int, piece: RankBatch) -> int:
    """The newest step; one damaged number must not send a file behind all others."""
    for steps in piece.steps:
        if front < 0 or steps.last_step - front < MAX_GAP_STEPS:
            front = max(front, steps.last_step)
    return front


def _send(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(HEAD_BYTES, "little") + message)


def main() -> None:
    """Answer one request."""
    os.nice(_NICE)
    keep_freed_blocks()
    gc.disable()  # events form no cycles, and looking for some takes a twentieth of the time
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    with contextlib.suppress(BrokenPipeError), os.fdopen(sys.stdout.fileno(), "wb", SEND_BYTES) as stream:
        read(request, stream)
    os._exit(0)  # nothing is left to tidy up, and of a broken pipe nobody wants to know


if __name__ == "__main__":
    main()
