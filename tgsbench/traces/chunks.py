"""A trace's host side, stretch by stretch of time, each small enough to work on whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from tgsbench.traces import intervals as iv
from tgsbench.traces.row_store import FAR, Ints, Rows, cuts
from tgsbench.traces.tables import Host, Table

MOST_ROWS: Final = 96_000
"""Rows of a stretch, about: the figures take some 400 bytes a row, no more than what reads the trace."""


def chunks_of(table: Table, *more: Ints) -> Iterator[Host]:
    """The host's rows from the beginning of time to its end; who spans a cut is in both stretches.

    `more`: samples of further rows that belong to instants of the host and count as its own.
    """
    since = -FAR
    for cut in [*cuts(MOST_ROWS, table.host.sample(), *more), FAR]:
        rows = table.host.between("start", "end", since, cut)
        until = cut if cut == FAR else quiet_point_before(rows, cut)
        if until <= since:
            until = cut
        if until < cut:
            mask = rows["start"] < until
            rows = {name: column[mask] for name, column in rows.items()}
        yield table.host_rows(rows, since, until)
        since = until


def quiet_point_before(rows: Rows, cut: int) -> int:
    """An instant shortly before `cut` at which no operator is open, else `cut`: what an operator is, and what
    it launched, is then known in one stretch."""
    begins = rows["start"][rows["start"] < cut]
    if not len(begins):
        return cut
    early = int(np.partition(begins, len(begins) * 7 // 8)[len(begins) * 7 // 8])
    near = (rows["end"] > early) & (rows["start"] < cut) & ~rows["is_annotation"]
    busy = iv.union(rows["start"][near], rows["end"][near])
    quiet = busy[(busy[:, 0] > early) & (busy[:, 0] <= cut), 0]
    return int(quiet[-1]) if len(quiet) else cut
