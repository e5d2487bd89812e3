"""What a long run has written before it is opened, read by processes of their own.

Decoding holds the interpreter's lock, and two thirds of the time that it takes to open a run of a million
events went to it, on the core that also paints the screen. Each part that comes back says how far it was
read, so whoever takes the pieces in can go on by itself behind any of them, however a reader ended.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import weakref
from collections.abc import Iterator, Sequence
from heapq import merge

import msgspec

from tgsbench.events.native import line_scanner
from tgsbench.events.step_columns import RankBatch
from tgsbench.events.tail import FileTail, RunTail
from tgsbench.live.reader import HEAD_BYTES, SEND_BYTES, ReadPart, Request
from tgsbench.system.child import child_environment, module_argv
from tgsbench.system.cores import free_cores

_WORTH_BYTES = 32 << 20
"""From here on it pays: a reader is there after 0.15 s, in which one process decodes as much."""
_MAX_READERS = 4
"""Without the compiled scanner; with it one reads as fast as pieces are folded."""
_PIPE_BYTES = 1 << 20
_MAX_PART_BYTES = 64 << 20
"""A part holds one piece, and an event of at most 16 MiB that began before it."""
_MAX_AHEAD_BYTES = 12 << 20
"""Parts of one reader that may wait here; those of a run of a million events are 48 MB, of two readers."""
_PARTS = msgspec.msgpack.Decoder(ReadPart)


class _Died(Exception):
    """A reader ended before its files did."""


def backlog(run: RunTail) -> Iterator[RankBatch]:
    """All that is in the run's files now, the rank that is least far first; nothing where it is little.

    Readers begin at once. Each of `run`'s tails stands behind its newest piece at any time: what readers
    leave over, be it that they cannot go on or that the files grow, is still there for `run` itself.
    """
    tails = run.tails()
    if sum(tail.num_unread() for tail in tails) < _WORTH_BYTES:
        return iter(())
    is_compiled = line_scanner(may_compile=True) is not None
    num_readers = 1 if is_compiled else min(_MAX_READERS, free_cores(), len(tails))
    readers = _started([tails[i::num_readers] for i in range(num_readers)])
    pieces = _merged(readers)
    weakref.finalize(pieces, _close, readers)  # a generator that nobody began has no `finally`
    return pieces


def _started(groups: Sequence[Sequence[FileTail]]) -> Sequence[_Reader]:
    """A reader for each group, or none where the system has no room for all."""
    readers: list[_Reader] = []
    try:
        for tails in groups:
            readers.append(_Reader(tails))  # noqa: PERF401 - those before a failure must be known
    except OSError:
        _close(readers)
        return ()
    return readers


def _close(readers: Sequence[_Reader]) -> None:
    for reader in readers:
        reader.close()


def _merged(readers: Sequence[_Reader]) -> Iterator[RankBatch]:
    try:
        parts = [reader.parts() for reader in readers]
        for part, tail in merge(*parts, key=lambda pair: pair[0].front):
            tail.place = part.place
            yield part.piece
    except _Died:
        return
    finally:
        _close(readers)


class _Reader:
    """A process that reads some of the files."""

    def __init__(self, tails: Sequence[FileTail]) -> None:
        self._tails = tails
        self._process = subprocess.Popen(
            module_argv("tgsbench.live.reader"),
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pipesize=_PIPE_BYTES,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._pipe = _DrainedPipe(self._process.stdout.fileno())
        self._stdout = self._process.stdout
        self._data, self._at = b"", 0
        """What was taken from the pipe, and how far it was used."""
        request = Request([(os.fsencode(tail.path), tail.place) for tail in tails])
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            stdin.write(msgspec.msgpack.encode(request))

    def parts(self) -> Iterator[tuple[ReadPart, FileTail]]:
        """Parts and the tails that they are of, until it is done; _Died when it ended before, or raves."""
        while num_bytes := int.from_bytes(self._exactly(HEAD_BYTES), "little"):
            try:
                part = _PARTS.decode(self._exactly(num_bytes))
                tail = self._tails[part.file]
            except (msgspec.DecodeError, IndexError):  # of another version
                raise _Died from None
            yield part, tail

    def _exactly(self, num_bytes: int) -> bytes:
        if num_bytes > _MAX_PART_BYTES:
            raise _Died
        if len(self._data) - self._at < num_bytes:
            self._refill(num_bytes)
        begin, self._at = self._at, self._at + num_bytes
        return self._data[begin : self._at]

    def _refill(self, num_bytes: int) -> None:
        held = [self._data[self._at :]]
        missing = num_bytes - len(held[0])
        while missing > 0:
            if not (more := self._pipe.take()):
                raise _Died
            held.append(more)
            missing -= len(more)
        self._data, self._at = b"".join(held), 0

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._stdout.close()


class _DrainedPipe(threading.Thread):
    """Empties a pipe before its bytes are asked for.

    A pipe holds 1 MiB, which a reader writes in 30 ms: while the UI is imported and first painted,
    it would stand still for most of a second.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(name="tgsbench-backlog", daemon=True)
        self._fd = fd
        self._chunks: list[bytes] = []
        self._num_bytes = 0
        self._changed = threading.Condition()
        self._is_over = False
        self.start()

    def run(self) -> None:
        """Read to the end, at most _MAX_AHEAD_BYTES ahead of what is asked for."""
        while chunk := os.read(self._fd, SEND_BYTES):
            with self._changed:
                self._chunks.append(chunk)
                self._num_bytes += len(chunk)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_over or self._num_bytes < _MAX_AHEAD_BYTES)
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def take(self) -> bytes:
        """All that was read meanwhile, at least a byte; none at the pipe's end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._chunks)
            chunks, self._chunks, self._num_bytes = self._chunks, [], 0
            self._changed.notify_all()
        return b"".join(chunks)

    def close(self) -> None:
        """Come to the end of a pipe that nobody writes to any more."""
        self._end()
        self.join()
