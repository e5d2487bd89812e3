"""The scanner of usual lines in C; without a compiler, and of what is unusual, Python reads all."""

from __future__ import annotations

import ctypes
import threading
from array import array
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from tgsbench.events.step_columns import RankBatch, StepColumns
from tgsbench.schema.events import Event, Glance, Gpu, Heartbeat, Step, StepGlance
from tgsbench.system.native import NO_ROOM, library

GLANCE: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(Glance)
"""Steps with what the live view shows of them only."""
_SOURCE: Final = Path(__file__).with_name("lines.c")
_ROOM: Final = 4096
"""Lines of a piece for which there is room at first."""
_NUMBER: Final = 8
"""Bytes of a number."""
_SCANNED: Final = (StepGlance, Step, Gpu, Heartbeat)
_FIGURES: Final = ("step_s", "data_s", "mem_peak", "tokens", "labels", "loss_sum", "loss")
_COLUMNS: Final = {**dict.fromkeys(_FIGURES, 1), "runs": 4, "gpu_utils": 1, "others": 3}
"""Column -> numbers of 8 bytes that a line may need of it."""


class _Place(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_int64), ("length", ctypes.c_int64), ("line", ctypes.c_int64))


class _Lines(ctypes.Structure):
    """`Lines` of lines.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _COLUMNS),
        ("gpu", _Place),
        ("beat", _Place),
        *((f"num_{what}", ctypes.c_int64) for what in ("lines", "steps", "runs", "gpus", "others")),
        ("last_t", ctypes.c_double),
    )


class LineScanner:
    """Reads pieces of event files; those that are not usual it leaves to Python."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._scan = library.scan_lines
        self._scan.restype = ctypes.c_int64
        count = ctypes.c_int64
        self._scan.argtypes = [ctypes.c_char_p, count, count, count, count, ctypes.c_void_p]
        self._lock = threading.Lock()
        """The columns are lent to one piece at a time."""
        self._make_room(_ROOM)

    def scan(self, piece: bytes, rank: int, first_seq: int) -> RankBatch | None:
        """Whole lines of one rank, numbered from `first_seq` on, without an escape and in ASCII alone.

        None: a line is of another rank, out of turn, damaged, or written as ours never are.
        """
        with self._lock:
            while (done := self._scanned(piece, rank, first_seq)) == NO_ROOM:
                self._make_room(2 * self._room)
            return None if done < 0 else self._batch(piece, rank, first_seq)

    def _scanned(self, piece: bytes, rank: int, first_seq: int) -> int:
        done: int = self._scan(piece, len(piece), rank, first_seq, self._room, self._address)
        return done

    def _batch(self, piece: bytes, rank: int, first_seq: int) -> RankBatch | None:
        lines = self._lines
        last_t: float = lines.last_t
        others: list[Event] = []
        for offset, length, line in self._numbers("others", lines.num_others, 3):
            event = _decoded(piece[offset : offset + length])
            if event is None or (event.rank, event.seq) != (rank, first_seq + line):
                return None
            others.append(event)
            last_t = event.t if line == lines.num_lines - 1 else last_t
        utils = array("d", bytes(self._view("gpu_utils")[: lines.num_gpus * _NUMBER])).tolist()
        gpu, beat = self._newest(piece, lines.gpu), self._newest(piece, lines.beat)
        return RankBatch(rank, lines.num_lines, last_t, self._steps(piece), gpu, utils, others, beat)

    def _make_room(self, num_lines: int) -> None:
        self._room = num_lines
        self._held = {name: bytearray(num * num_lines * _NUMBER) for name, num in _COLUMNS.items()}
        lent = {name: ctypes.addressof(ctypes.c_char.from_buffer(held)) for name, held in self._held.items()}
        self._lines = _Lines(**lent)
        self._address = ctypes.addressof(self._lines)

    def _view(self, name: str) -> memoryview:
        return memoryview(self._held[name])

    def _numbers(self, name: str, num_rows: int, width: int) -> list[list[int]]:
        flat = self._view(name).cast("q")[: num_rows * width].tolist()
        return [flat[at : at + width] for at in range(0, len(flat), width)]

    def _newest(self, piece: bytes, place: Any) -> Any:
        if not place.length:
            return None
        return GLANCE.decode(piece[place.offset : place.offset + place.length])

    def _steps(self, piece: bytes) -> list[StepColumns]:
        """Runs of consecutive steps of one phase."""
        runs = self._numbers("runs", self._lines.num_runs, 4)
        ends = [run[0] for run in runs[1:]] + [self._lines.num_steps][: len(runs)]
        found = []
        for (begin, step, offset, length), end in zip(runs, ends, strict=True):
            phase = piece[offset : offset + length].decode() if offset >= 0 else StepGlance(step=0).phase
            own = slice(begin * _NUMBER, end * _NUMBER)
            figures = (bytes(self._view(name)[own]) for name in _FIGURES)
            found.append(StepColumns(step, end - begin, phase, *figures))
        return found


def _decoded(line: bytes) -> Event | None:
    """A line that was not scanned; None for one of a kind that should have been, and for what is no event."""
    try:
        event: Event = GLANCE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if isinstance(event, _SCANNED) else event


@cache
def line_scanner(may_compile: bool = False) -> LineScanner | None:
    """This process's scanner; None where there is none, and no compiler or no run worth compiling one for."""
    found = library(_SOURCE, may_compile)
    return LineScanner(found) if found is not None else None
