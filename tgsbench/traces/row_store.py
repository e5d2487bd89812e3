"""Tables that may be larger than memory: rows go to a file as they come and are read back by ranges.

Nothing is sorted: every piece knows the least and greatest value of some columns, and only the pieces that
can hold wanted rows are read. Traces are written roughly in the order of time, so those are few; another
order costs time, never memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tgsbench.errors import ExitCode, TgsError

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Rows = dict[str, npt.NDArray[Any]]
"""Columns of one length."""

IN_MEMORY: Final = 24 << 20
"""Bytes of a trace's tables that stay in memory: a trace of some 200 MB needs no disk."""
FAR: Final = 2**62
"""Beyond every instant."""
STRIDE: Final = 32
"""One row in so many is remembered, to know how rows are spread over time."""
_BATCH: Final = 32_000
"""Rows at least that are worked on at once: numpy's calls cost as much as some thousand rows."""


class DiskTables:
    """The file of one trace's tables: nameless, so that it is gone when the process is."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        self._end = 0

    def __enter__(self) -> DiskTables:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a full disk did not take is written once more
            self._file.close()

    def write(self, columns: Iterable[npt.NDArray[Any]]) -> int:
        """Append columns; returns where they begin. TgsError when the disk is full."""
        began = self._end
        try:
            self._file.seek(began)
            for column in columns:
                self._file.write(column.data)
                self._end += column.nbytes
        except OSError as error:
            raise self._error(error) from error
        return began

    def read(self, offset: int, num_bytes: int) -> bytes:
        """What was written there."""
        try:
            self._file.seek(offset)
            return self._file.read(num_bytes)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> TgsError:
        return TgsError(
            f"the trace's columns do not fit {tempfile.tempdir or 'any temporary folder'}: "
            f"{error.strerror or error} after {self._end / 1e6:.0f} MB",
            hint="they take a tenth to a fifth of the unpacked trace there; TMPDIR names another folder",
            exit_code=ExitCode.STORE,
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    first: int
    """Number of its first row."""
    count: int
    offset: int
    least: tuple[int, ...]
    greatest: tuple[int, ...]


class DiskTable:
    """One table."""

    def __init__(self, scratch: DiskTables, ranges: Sequence[str], **dtypes: Any) -> None:
        """`ranges`: the columns by whose values rows are read back; the first one is sampled."""
        self._scratch = scratch
        self._ranges = tuple(ranges)
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._pieces: list[_Piece] = []
        self._sample: list[Ints] = []
        self.num_rows = 0

    def append(self, **values: Any) -> None:
        """Some rows; every column, all of one length. TgsError when the disk is full."""
        rows = {name: array(values[name], dtype) for name, dtype in self._dtypes.items()}
        ranges = [rows[name] for name in self._ranges]
        count = len(ranges[0])
        if not count:
            return
        least, greatest = (tuple(int(edge(column)) for column in ranges) for edge in (np.min, np.max))
        offset = self._scratch.write(rows.values())
        self._pieces.append(_Piece(self.num_rows, count, offset, least, greatest))
        self._sample.append(ranges[0][-self.num_rows % STRIDE :: STRIDE].copy())
        self.num_rows += count

    def sample(self) -> Ints:
        """The first range column's value in one row of `STRIDE`."""
        return np.concatenate(self._sample) if self._sample else np.empty(0, np.int64)

    def extent(self, first: str, last: str) -> tuple[int, int] | None:
        """Least value of one range column and greatest of another; None: there is no row."""
        if not self._pieces:
            return None
        at_first, at_last = self._ranges.index(first), self._ranges.index(last)
        return min(p.least[at_first] for p in self._pieces), max(p.greatest[at_last] for p in self._pieces)

    def batches(self) -> Iterator[Rows]:
        """All rows in the order of writing, some ten thousand at a time."""
        return self._batches(self._pieces)

    def where(self, wanted: Callable[[Rows], Flags]) -> Rows:
        """The rows for which `wanted` says so, with their numbers as `row`."""
        return self._joined(self._chosen(self._pieces, wanted))

    def between(self, first: str, last: str, since: int, until: int) -> Rows:
        """Rows whose [first, last) meets [since, until) or begins in it, with their numbers as `row`."""
        at_first, at_last = self._ranges.index(first), self._ranges.index(last)
        pieces = [p for p in self._pieces if p.least[at_first] < until and p.greatest[at_last] >= since]

        def meets(rows: Rows) -> Flags:
            return (rows[first] < until) & ((rows[last] > since) | (rows[first] >= since))

        return self._joined(self._chosen(pieces, meets))

    def find(self, key: str, wanted: Ints, give: Sequence[str]) -> tuple[Flags, Rows]:
        """For each wanted value the first row with that key: is there one, and columns of it; 0 is no key."""
        found = np.zeros(len(wanted), bool)
        given: Rows = {name: np.zeros(len(wanted), self._dtypes[name]) for name in give}
        keys, at = wanted[wanted != 0], self._ranges.index(key)
        if not len(keys):
            return found, given
        least, greatest = int(keys.min()), int(keys.max())
        pieces = [p for p in self._pieces if p.least[at] <= greatest and p.greatest[at] >= least]
        for rows in self._batches(pieces):
            known, index = _look_up(rows[key], wanted)
            new = known & ~found
            for name in give:
                given[name][new] = rows[name][index[new]]
            found |= new
        return found, given

    def _chosen(self, pieces: Iterable[_Piece], wanted: Callable[[Rows], Flags]) -> Iterator[Rows]:
        for piece in pieces:
            rows = self._load(piece)
            mask = wanted(rows)
            if mask.any():
                rows["row"] = np.arange(piece.first, piece.first + piece.count)
                yield rows if mask.all() else {name: column[mask] for name, column in rows.items()}

    def _batches(self, pieces: Iterable[_Piece]) -> Iterator[Rows]:
        waiting: list[Rows] = []
        count = 0
        for piece in pieces:
            waiting.append(self._load(piece))
            count += piece.count
            if count >= _BATCH:
                yield self._joined(waiting)
                waiting, count = [], 0
        if waiting:
            yield self._joined(waiting)

    def _joined(self, parts: Iterable[Rows]) -> Rows:
        held = list(parts)
        if len(held) == 1:
            return held[0]
        if held:
            return {name: np.concatenate([part[name] for part in held]) for name in held[0]}
        return {name: np.empty(0, dtype) for name, dtype in {**self._dtypes, "row": np.int64}.items()}

    def _load(self, piece: _Piece) -> Rows:
        width = sum(dtype.itemsize for dtype in self._dtypes.values())
        data, at = self._scratch.read(piece.offset, width * piece.count), 0
        rows: Rows = {}
        for name, dtype in self._dtypes.items():
            rows[name] = np.frombuffer(data, dtype, piece.count, at)
            at += dtype.itemsize * piece.count
        return rows


def array(values: Any, dtype: Any) -> npt.NDArray[Any]:
    """A list's numbers as an array: `fromiter` takes 17 ns a float where `array` takes 64."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values, dtype)
    return np.fromiter(values, dtype, len(values))


def cuts(most: int, *samples: Ints) -> list[int]:
    """Instants between which about `most` rows begin, whatever the order in which they were written."""
    instants = np.sort(np.concatenate(samples))
    each = max(1, most // STRIDE)
    found: list[int] = np.unique(instants[each::each]).tolist()
    return found


def _look_up(keys: Ints, wanted: Ints) -> tuple[Flags, Ints]:
    """Where each wanted value first stands among the keys (at least one), and whether it does."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    index = np.minimum(np.searchsorted(ordered, wanted), len(keys) - 1)
    found: Flags = (ordered[index] == wanted) & (wanted != 0)
    return found, order[index]
