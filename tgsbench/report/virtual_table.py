"""Engines side by side on a virtual GPU, in lines for people: what one optimizer step of a rank takes."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from tgsbench.schema.run import CallCount, Virtual

_TITLES = (
    "engine",
    "in tensors",
    "reserved",
    "planned",
    "launches",
    "host time",
    "waits",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "other",
)
_OWN_COLUMNS = ("all_gather", "reduce_scatter", "all_to_all")


class VirtualRow(Struct, frozen=True, kw_only=True):
    """One engine on a virtual GPU."""

    engine: str
    status: str = "refused"
    run: str = ""
    reason: str = ""
    """Why it did not run, or did not end well."""
    virtual: Virtual | None = None


def lines(rows: Sequence[VirtualRow]) -> list[str]:
    """One aligned line an engine that has figures, then why others have none."""
    known = [row for row in rows if row.virtual is not None and row.virtual.launches]
    table = _aligned([list(_TITLES), *map(_cells, known)])
    failed = [f"{row.engine}: {row.status}, {row.reason}" for row in rows if row.reason]
    return [*(table if known else []), *failed]


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(_cell, line, widths, range(len(line)))).rstrip() for line in table]


def _cell(text: str, width: int, place: int) -> str:
    return text.rjust(width) if place else text.ljust(width)


def _cells(row: VirtualRow) -> list[str]:
    found = row.virtual
    assert found is not None
    allocated = max((peak.allocated_gib or 0.0 for peak in found.peaks), default=0.0)
    reserved = max((peak.reserved_gib for peak in found.peaks), default=0.0)
    planned = f"{found.mem_planned_gib:.2f} GiB" if found.mem_planned_gib else ""
    told = [f"{allocated:.2f} GiB", f"{reserved:.2f} GiB", planned]
    told += [f"{found.launches:,}", f"{found.host_s:.2f} s", f"{found.host_waits:,}"]
    moved = [moved_gib(found.collectives, name) for name in _OWN_COLUMNS]
    other = sum(count.gib for count in found.collectives) - sum(moved)
    return [row.engine, *told, *(f"{gib:.2f} GiB" if gib > 0.005 else "" for gib in (*moved, other))]


def moved_gib(collectives: Sequence[CallCount], name: str) -> float:
    """GiB of whole tensors that one kind of collective moved."""
    return sum(count.gib for count in collectives if count.name == name)
