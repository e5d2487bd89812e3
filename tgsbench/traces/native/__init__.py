"""The reader of usual chunks in C, compiled where it is first of use; without a compiler Python reads all."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from tgsbench.system.native import NO_ROOM, library
from tgsbench.traces.columns import Codes, Columns, CommCall, Shapes

_SOURCE: Final = Path(__file__).with_name("scan.c")
_USUAL_EVENT: Final = 128
"""Bytes at least of most events: with more of them than that comes to, more room is made."""
_RECORD_TEXTS: Final = 8
_FAR: Final = 2**31 - 1
_ABSENT: Final = (None, "", 0)
"""What stands before the texts that were read: what is absent of a device, a name and a thread."""
_WORTHWHILE: Final = 100 << 20
"""Bytes of a file from which on compiling, half a second, is less than what is gained."""


class _Lent(ctypes.Structure):
    """`Columns` of scan.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("ts", "dur", "correlation", "external", "sequence")),
        *((name, ctypes.c_void_p) for name in ("category", "name", "tid", "device")),
        *((name, ctypes.c_void_p) for name in ("arguments", "record_row", "record")),
        ("num_records", ctypes.c_int64),
        ("num_events", ctypes.c_int64),
    )


class _Room:
    """Columns that the scanner writes into."""

    def __init__(self) -> None:
        self.rows = 0
        self.held: dict[str, npt.NDArray[Any]] = {}
        self.lent = _Lent()

    def grow(self, rows: int) -> None:
        """Make them hold so many rows at least."""
        if rows <= self.rows:
            return
        self.rows = rows
        self.held = {
            name: np.empty((rows, *shape), dtype) for names, shape, dtype in _LAYOUT for name in names
        }
        self.lent = _Lent(**{name: column.ctypes.data for name, column in self.held.items()})


class Scanner:
    """Reads the chunks of one trace; those that are not usual it leaves to Python."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._scanner: int | None = library.scanner_new()
        self._texts: list[Any] = list(_ABSENT)
        self._records: dict[tuple[int, ...], int] = {}
        self._calls: list[CommCall | None] = [None]
        self._shapes: dict[bytes, Shapes] = {}
        self._room, self._other = _Room(), _Room()

    def close(self) -> None:
        """Give its memory back; from now on `scan` leaves everything to Python."""
        if self._scanner:
            self._library.scanner_free(self._scanner)
        self._scanner = None

    def scan(self, buffer: bytearray, begin: int, end: int) -> Columns | None:
        """The events in [begin, end) of a buffer that goes on behind them; None: they are for Python."""
        if not self._scanner:
            return None
        self._room, self._other = self._other, self._room  # the last chunk's is still in use
        self._room.grow((end - begin) // _USUAL_EVENT + 1)
        after, buffer[end] = buffer[end], 0
        try:
            text = np.frombuffer(buffer, np.uint8, end - begin, begin).ctypes.data
            while (rows := self._scanned(text, end - begin)) == NO_ROOM:
                self._room.grow(2 * self._room.rows)
        finally:
            buffer[end] = after
        if rows < 0 or not self._learn():
            return None
        return self._columns(rows, buffer, begin)

    def _scanned(self, address: int, length: int) -> int:
        room = self._room
        rows: int = self._library.scan(self._scanner, address, length, room.rows, ctypes.byref(room.lent))
        return rows

    def _learn(self) -> bool:
        """Decode the texts that are new; one that is none ends the scanning of this trace."""
        length, known = ctypes.c_int64(), len(self._texts) - len(_ABSENT)
        for number in range(known + 1, self._library.scanner_count(self._scanner) + 1):
            address = self._library.scanner_text(self._scanner, number, ctypes.byref(length))
            try:
                self._texts.append(msgspec.json.decode(ctypes.string_at(address, length.value)))
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.close()
                return False
        return True

    def _columns(self, rows: int, buffer: bytearray, begin: int) -> Columns:
        held = {name: column[:rows] for name, column in self._room.held.items()}
        codes: dict[str, Any] = {name: _codes(held[name], absent) for name, absent in _ABSENT_OF.items()}
        return Columns(
            num_events=self._room.lent.num_events,
            **{name: held[name] for name in ("ts", "dur", "correlation", "external", "sequence")},
            **codes,
            record=self._record(rows),
            texts=self._texts,
            records=self._calls,
            shapes=lambda at: self._shapes_of(held["arguments"][at], buffer, begin),
        )

    def _shapes_of(self, where: Codes, buffer: bytearray, begin: int) -> list[Shapes | None]:
        """Arguments by where they lie; those that were seen before by the text that they all lie in."""
        flat = where.reshape(-1, 6)
        first = np.where(where[:, :, 1] > 0, where[:, :, 0], _FAR).min(axis=1).tolist()
        last = where.sum(axis=2).max(axis=1).tolist()
        found: list[Shapes | None] = []
        for at, since, until in zip(flat.tolist(), first, last, strict=True):
            if not at[1]:
                found.append(None)
                continue
            text = bytes(buffer[begin + since : begin + until])
            if text not in self._shapes:
                self._shapes[text] = Shapes(*(_part(text, at[i] - since, at[i + 1]) for i in (0, 2, 4)))
            found.append(self._shapes[text])
        return found

    def _record(self, rows: int) -> Codes:
        """Number of what each row's record of a collective says."""
        found = np.zeros(rows, np.int32)
        held, count = self._room.held, self._room.lent.num_records
        for row, said in zip(
            held["record_row"][:count].tolist(), held["record"][:count].tolist(), strict=True
        ):
            key = tuple(said)
            if key not in self._records:
                self._records[key] = len(self._calls)
                self._calls.append(self._call(key))
            found[row] = self._records[key]
        return found

    def _call(self, said: tuple[int, ...]) -> CommCall:
        name, size, group, description, ranks, num_in, num_out, dtype = (
            self._texts[number + len(_ABSENT) - 1] if number else None for number in said
        )
        return CommCall(
            name or "", size or 0, group or "", description or "", ranks or "", num_in, num_out, dtype or ""
        )


_LAYOUT: Final[tuple[tuple[tuple[str, ...], tuple[int, ...], Any], ...]] = (
    (("ts", "dur"), (), np.float64),
    (("correlation", "external", "sequence"), (), np.int64),
    (("category", "name", "tid", "device", "record_row"), (), np.int32),
    (("arguments",), (3, 2), np.int32),
    (("record",), (_RECORD_TEXTS,), np.int32),
)
_ABSENT_OF: Final = {"device": 0, "category": 1, "name": 1, "tid": 2}


def _codes(numbers: npt.NDArray[np.int32], absent: int) -> Codes:
    found: Codes = np.where(numbers > 0, numbers + (len(_ABSENT) - 1), absent).astype(np.int32)
    return found


def _part(text: bytes, at: int, length: int) -> bytes:
    return text[at : at + length] if length else b""


def scanner_for(path: Path) -> Scanner | None:
    """A scanner for a trace; None: there is none, and no compiler or no trace worth compiling one for."""
    library = _library(_is_large(path))
    return Scanner(library) if library is not None else None


def _is_large(path: Path) -> bool:
    try:
        size = path.stat().st_size
    except OSError:
        return False
    return size * (1 if path.suffix == ".json" else 10) >= _WORTHWHILE


def _library(may_compile: bool) -> ctypes.CDLL | None:
    """The compiled scanner; None where it cannot be had."""
    found = library(_SOURCE, may_compile)
    return found and _declared(found)


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.scanner_new.restype = library.scanner_text.restype = pointer
    library.scanner_free.argtypes = library.scanner_count.argtypes = [pointer]
    library.scanner_free.restype = None
    library.scanner_count.restype = library.scan.restype = count
    library.scanner_text.argtypes = [pointer, count, pointer]
    library.scan.argtypes = [pointer, pointer, count, count, pointer]
    return library
