"""`python -m tgsbench.live.reader`: one process that decodes event files for another, piece by piece.

A request comes on stdin; parts go to stdout, each after its length, a length of 0 last. MessagePack and bytes
only: nothing that is read can be executed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO

import msgspec
from msgspec import Struct

from tgsbench.events.tail import GLANCE, PIECE_BYTES, FilePosition, FileTail
from tgsbench.live.pending import MAX_GAP_STEPS
from tgsbench.live.step_columns import RankBatch, condense

HEAD_BYTES = 4
_NICE = 5
"""Ranks of this machine go first."""
_CHUNK_BYTES = 1 << 16
"""Written at once: each write may wake the other process."""
_MAX_CHUNKS = 16


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


def read(request: Request, send: Callable[[bytes], None]) -> None:
    """Send the files' parts, the file that is least far first, until all are at their ends."""
    encoder = msgspec.msgpack.Encoder()
    tails = [FileTail(Path(os.fsdecode(path)), GLANCE, place) for path, place in request.files]
    due = [(-1, index) for index in range(len(tails))]
    heapify(due)
    while due:
        front, index = heappop(due)
        tail = tails[index]
        if events := tail.read(PIECE_BYTES):
            part = ReadPart(front, index, tail.place, condense(events))
            send(encoder.encode(part))
            front = _front(front, part.piece)
        if not tail.at_end:
            heappush(due, (front, index))
    send(b"")


def _front(front: int, piece: RankBatch) -> int:
    """The newest step; one damaged number must not send a file behind all others."""
    for steps in piece.steps:
        if front < 0 or steps.last_step - front < MAX_GAP_STEPS:
            front = max(front, steps.last_step)
    return front


class _Output:
    """Writes messages in a thread of its own: whoever waits for them imports its UI meanwhile.

    Until then a pipe takes 1 MiB: with another a reader is held up for less of the time.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._chunk = bytearray()
        self._chunks: Queue[bytes] = Queue(_MAX_CHUNKS)
        self._thread = Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def send(self, message: bytes) -> None:
        """Queue one message behind its length; an empty one is the last."""
        self._chunk += len(message).to_bytes(HEAD_BYTES, "little")
        self._chunk += message
        if len(self._chunk) >= _CHUNK_BYTES or not message:
            self._chunks.put(bytes(self._chunk))
            self._chunk.clear()
        if not message:
            self._chunks.put(b"")
            self._thread.join()

    def _write_all(self) -> None:
        try:
            while chunk := self._chunks.get():
                self._stream.write(chunk)
            self._stream.flush()
        except BrokenPipeError:
            os._exit(0)  # nobody reads any more: there is nothing to decode for


def main() -> None:
    """Answer one request."""
    os.nice(_NICE)
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
    read(request, _Output(sys.stdout.buffer).send)
    os._exit(0)  # nothing is left to tidy up


if __name__ == "__main__":
    main()
