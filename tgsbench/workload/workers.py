"""Tokenizes blocks in processes of their own, as many as there are cores, in the order of the file.

A worker is `python -m tgsbench.workload`. Recipe and blocks go in as msgpack, each behind its size,
and documents come back so; it ends when its input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Final

import msgspec
import numpy as np

from tgsbench.errors import ExitCode, TgsError
from tgsbench.system.cores import num_cores
from tgsbench.workload.blocks import DataBlock
from tgsbench.workload.encoding import BlockEncoder, Encoded, EncodingRecipe

_MAX_WORKERS: Final = 8
"""Some 130 MB each, with a vocabulary of 128k and its words."""
_WORTH_BYTES: Final = 8 << 20
"""Below this the start of a worker, half a second, takes as long as the work."""
_SIZE: Final = struct.Struct("<Q")


def encode_all(
    blocks: Iterable[DataBlock], recipe: EncodingRecipe, num_bytes: int
) -> Iterator[tuple[DataBlock, Encoded]]:
    """Documents of each block, in order; `num_bytes` are about to come (0: not known).

    Raises TgsError for the first row that cannot be read.
    """
    count = min(num_cores(), _MAX_WORKERS)
    if count == 1 or num_bytes < _WORTH_BYTES:
        encoder = BlockEncoder(recipe)
        return ((block, encoder.encode(block)) for block in blocks)
    return _in_workers(blocks, recipe, count)


def _in_workers(
    blocks: Iterable[DataBlock], recipe: EncodingRecipe, count: int
) -> Iterator[tuple[DataBlock, Encoded]]:
    workers = [_Worker(recipe, max(1, num_cores() // count)) for _ in range(count)]
    free = deque(workers)
    waiting: deque[tuple[DataBlock, Future[Encoded]]] = deque()

    def work(block: DataBlock) -> Encoded:
        worker = free.popleft()
        try:
            return worker.encode(block)
        finally:
            free.append(worker)

    with ThreadPoolExecutor(count) as threads:
        try:
            for block in blocks:
                waiting.append((block._replace(data=b"", values=()), threads.submit(work, block)))
                # One block a worker and one in reserve: more would only lie in memory.
                if len(waiting) > count + 1:
                    ended, future = waiting.popleft()
                    yield ended, future.result()
            while waiting:
                ended, future = waiting.popleft()
                yield ended, future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.close()


class _Worker:
    """One process that tokenizes; a thread at a time talks to it."""

    def __init__(self, recipe: EncodingRecipe, num_threads: int) -> None:
        parallel = "true" if num_threads > 1 else "false"
        env = os.environ | {"RAYON_NUM_THREADS": str(num_threads), "TOKENIZERS_PARALLELISM": parallel}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __package__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout
        # In a thread: a worker reads its recipe after its imports, and the next can be started meanwhile.
        self._start = threading.Thread(target=self._send, args=(msgspec.msgpack.encode(recipe),), daemon=True)
        self._start.start()

    def encode(self, block: DataBlock) -> Encoded:
        """Documents of a block. Raises TgsError when it cannot be read, or the process has died."""
        self._start.join()
        self._send(_packed(block))
        answer = _receive(self._from)
        if answer is None:
            raise TgsError(
                f"a process that tokenizes ended with {self._process.wait()}; was memory short?",
                exit_code=ExitCode.CRASHED,
            )
        coded, lengths, error = msgspec.msgpack.decode(answer)
        if error:
            msg, hint, code = error
            raise TgsError(msg, hint=hint, exit_code=ExitCode(code))
        return Encoded(np.frombuffer(coded, np.int32), np.frombuffer(lengths, np.int64))

    def close(self) -> None:
        """End the process; what it works on is not waited for."""
        self._process.terminate()
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has died, as reading from it tells
            _write(self._to, message)


def _write(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_SIZE.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """The next message, or None when the other side has ended."""
    head = pipe.read(_SIZE.size)
    if len(head) < _SIZE.size:
        return None
    size = _SIZE.unpack(head)[0]
    message = pipe.read(size)
    return message if len(message) == size else None


def _packed(block: DataBlock) -> bytes:
    """A block; lone surrogates, which msgpack cannot hold, go as JSON."""
    try:
        return msgspec.msgpack.encode((block.first, block.data, block.values, b""))
    except UnicodeEncodeError:
        return msgspec.msgpack.encode((block.first, block.data, (), json.dumps(block.values).encode()))


def _unpacked(message: bytes) -> DataBlock:
    first, data, values, text = msgspec.msgpack.decode(message)
    rows = json.loads(text) if text else values
    return DataBlock(first, data, tuple((number, value) for number, value in rows))


def main() -> None:
    """Answer blocks on stdin by documents on stdout, until stdin ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    encoder: BlockEncoder | None = None
    recipe = msgspec.msgpack.decode(_receive(requests) or b"", type=EncodingRecipe)
    while (message := _receive(requests)) is not None:
        answer: Any
        try:
            encoder = encoder or BlockEncoder(recipe)
            found = encoder.encode(_unpacked(message))
            answer = (found.coded.tobytes(), found.lengths.tobytes(), None)
        except TgsError as error:
            answer = (b"", b"", (error.msg, error.hint, int(error.exit_code)))
        _write(answers, msgspec.msgpack.encode(answer))
