"""Every call of a collective in a trace: its kind, group, bytes and time in flight.

Kinds are found by what NCCL recorded (on the kernel, or on the operator that launched it), by the
annotation or operator around the launch, and by the kernel's name last; a SendRecv kernel whose launch is
outside the trace stays unknown: in one real trace all 80 NCCL kernels bear that name, most of them
all-reduce.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from tgsbench.schema.collective_kinds import BY_NAME, BY_SPAN, OTHER, UNKNOWN
from tgsbench.traces import categories
from tgsbench.traces import intervals as iv
from tgsbench.traces.columns import RECORD, CommCall, Interner
from tgsbench.traces.intervals import Intervals
from tgsbench.traces.row_store import Flags, Ints, Rows
from tgsbench.traces.scopes import CODE, HostContext, Scopes
from tgsbench.traces.shapes import item_bytes
from tgsbench.traces.tables import Host, Table


class CallKind(NamedTuple):
    """What calls have in common."""

    kind: str
    group: str
    num_bytes: int | None
    group_size: int
    resolved_by: str


@dataclass(frozen=True)
class Calls:
    """Calls in order of start."""

    start: Ints
    end: Ints
    what: Ints
    """Position in `described`."""
    device: Ints
    """Number of the device in `Table.devices`."""
    described: list[CallKind]
    ranks: dict[str, list[int]]
    """Members of each group, where known."""

    def __len__(self) -> int:
        return len(self.start)

    def codes(self) -> Ints:
        """Each call's part."""
        return np.array([CODE[what.kind] for what in self.described], np.int64)[self.what]

    def by_kind_and_group(self) -> dict[tuple[str, str], Ints]:
        """Positions of the calls, the first seen first."""
        numbers = Interner()
        key = np.array([numbers[what.kind, what.group] for what in self.described], np.int64)[self.what]
        return {pair: at for pair, n in numbers.items() if len(at := np.flatnonzero(key == n))}

    def inside(self, since: int, until: int) -> Calls:
        """The calls that overlap a stretch of time, cut to it."""
        at = np.flatnonzero((self.end > since) & (self.start < until))
        start, end = np.maximum(self.start[at], since), np.minimum(self.end[at], until)
        return replace(self, start=start, end=end, what=self.what[at], device=self.device[at])

    def on(self, device: int) -> Calls:
        """The calls of one device."""
        at = np.flatnonzero(self.device == device)
        return replace(
            self, start=self.start[at], end=self.end[at], what=self.what[at], device=self.device[at]
        )


class FlightNs(NamedTuple):
    """Nanoseconds in flight, and how many of them beside work."""

    total: int = 0
    hidden: int = 0


Flights = dict[tuple[str, str], FlightNs]
"""By kind and group."""


def flights(calls: Calls, computing: Intervals, since: int, until: int) -> Flights:
    """How long calls of each kind and group were in flight in [since, until)."""
    here = calls.inside(since, until)
    found = {}
    for pair, at in here.by_kind_and_group().items():
        in_flight = iv.union(here.start[at], here.end[at])
        found[pair] = FlightNs(iv.length(in_flight), iv.length(iv.intersect(in_flight, computing)))
    return found


def add_flights(total: Flights, more: Flights) -> None:
    """Add the next piece of the window."""
    for pair, (in_flight, hidden) in more.items():
        known = total.get(pair, FlightNs())
        total[pair] = FlightNs(known.total + in_flight, known.hidden + hidden)


class CollectiveFinder:
    """Calls of NCCL's kernels, described stretch by stretch."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._groups = _Groups(table)
        self._described = Interner()
        self._alike: dict[tuple[int, int], CallKind] = {}
        self._pieces: list[tuple[Ints, Ints, Ints, Ints]] = []
        record = table.host_names.index(RECORD) if RECORD in table.host_names else -1
        found = table.host.where(lambda rows: (rows["name"] == record) & (rows["external"] != 0))
        order = np.argsort(found["external"], kind="stable")
        self._external, self._said = found["external"][order], found["said"][order]

    def look_around(self, host: Host, place: HostContext, scopes: Scopes) -> None:
        """What is added next was launched in this stretch, at these places."""
        self._around = _LaunchContext(host, place, scopes)

    def has_record(self, device: Rows) -> Flags:
        """Which activities have the External id of an operator that bears NCCL's record."""
        found: Flags = np.isin(device["external"], self._external)
        return found

    def add(self, device: Rows, rows: Ints) -> Ints:
        """Describe some kernels, at these of the places looked around at; returns the part of each."""
        what = [
            self._described[self._describe(*kernel)]
            for kernel in zip(
                rows.tolist(), device["name"].tolist(), device["said"].tolist(), device["external"].tolist(),
                strict=True,
            )
        ]  # fmt: skip
        on_device = self._table.device_of_stream[device["stream"]]
        piece = (device["start"], device["end"], np.array(what, np.int64), on_device)
        self._pieces.append(piece)
        return Calls(*piece, list(self._described), {}).codes()

    def _describe(self, row: int, name: int, said: int, external: int) -> CallKind:
        """What a kernel is; those with the same name and a record of their own are alike."""
        call = self._table.arguments[said]
        if not isinstance(call, CommCall) or not call.collective:
            return self._described_by_launch(row, name, said, external)
        if (name, said) not in self._alike:
            self._alike[name, said] = self._described_by_launch(row, name, said, external)
        return self._alike[name, said]

    def _described_by_launch(self, row: int, name: int, said: int, external: int) -> CallKind:
        call, by = self._recorded(said, external)
        text = call.collective if call is not None else ""
        if not text:
            text, call, by = self._around.describe(row, call)
        group = self._groups.label(call)
        kind, named = categories.collective_kind(text, group), self._named(name)
        if not text or (kind == OTHER.name and named not in (OTHER.name, UNKNOWN.name)):
            kind, by = named, "name" if categories.is_communication(self._name(name)) else "stream"
        group = group or self._groups.only_one_for(kind)
        size = call.group_size if call is not None else 0
        return CallKind(kind, group, _bytes_of(call), size, by)

    def _name(self, number: int) -> str:
        return self._table.device_names[number][1]

    def _named(self, number: int) -> str:
        """Kind by the kernel's name; what is known by its stream alone is unknown communication."""
        kind = categories.device_kind(*self._table.device_names[number])
        return kind if kind in BY_NAME else UNKNOWN.name

    def _recorded(self, said: int, external: int) -> tuple[CommCall | None, str]:
        """What NCCL's record says: that on the kernel, else that on the operator with its External id."""
        call, by = self._table.arguments[said], "kernel"
        if not isinstance(call, CommCall):
            at = int(np.searchsorted(self._external, external, "right")) - 1
            known = at >= 0 and self._external[at] == external
            call, by = self._table.arguments[self._said[at]] if known else None, "params"
        return (call if isinstance(call, CommCall) else None), by

    def calls(self) -> Calls:
        """All calls."""
        start, end, what, device = (
            np.concatenate(columns) if columns else np.empty(0, np.int64)
            for columns in ([piece[i] for piece in self._pieces] for i in range(4))
        )
        order = np.argsort(start, kind="stable")
        described = list(self._described)
        return Calls(start[order], end[order], what[order], device[order], described, self._groups.ranks)


class _LaunchContext:
    """What stood around a launch: a record, an annotation, an operator of the library."""

    def __init__(self, host: Host, place: HostContext, scopes: Scopes) -> None:
        self._host, self._place, self._scopes = host, place, scopes
        self._cache: dict[int, tuple[str, CommCall | None, str]] = {}

    def describe(self, index: int, call: CommCall | None) -> tuple[str, CommCall | None, str]:
        row = int(self._place.row[index])
        if row < 0:
            return "", call, "name"
        if row not in self._cache:
            self._cache[row] = self._look(self._scopes.enclosing(self._place, index), call)
        return self._cache[row]

    def _look(self, rows: list[int], call: CommCall | None) -> tuple[str, CommCall | None, str]:
        host, text, by = self._host, "", "name"
        for above in rows:
            name = host.names[host.name[above]]
            record = host.comm_call(above)
            if record is not None and record.collective:
                return record.collective, record, "launch"
            if not text and name in BY_SPAN:
                text, by = BY_SPAN[name].name, "annotation"
            if not text and categories.is_communication(name) and name != RECORD:
                text, by = name, "annotation" if host.is_annotation[above] else "op"
        return text, call, by


class _Groups:
    """Labels of process groups: the description without torch's decoration, else the name."""

    def __init__(self, table: Table) -> None:
        distributed = table.head.distributed
        config = distributed.pg_config if distributed is not None else []
        self._config = {group.pg_name: group for group in config}
        self.ranks: dict[str, list[int]] = {}

    @cache  # noqa: B019 - lives as long as one trace's analysis
    def only_one_for(self, kind: str) -> str:
        """Label of the one group that calls of a kind can be on, where they say none."""
        labels = {group_label(g.pg_desc, g.pg_name): g for g in self._config.values()}
        label = categories.group_of(kind, labels)
        if label:
            self.ranks.setdefault(label, list(labels[label].ranks))
        return label

    def label(self, call: CommCall | None) -> str:
        if call is None:
            return ""
        label = group_label(call.group_description, call.group_name)
        if label and label not in self.ranks:
            ranks = _rank_list(call.group_ranks)
            known = self._config.get(call.group_name)
            self.ranks[label] = ranks or (list(known.ranks) if known is not None else [])
        return label


def group_label(description: str, name: str) -> str:
    """ "mesh_sp" -> "sp", "default_pg" -> "world"; undescribed groups keep their name."""
    if description in ("", "undefined"):
        return name
    return "world" if description == "default_pg" else description.removeprefix("mesh_")


def _rank_list(text: str) -> list[int]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []  # long lists are cut short by "..."
    return found if isinstance(found, list) and all(isinstance(rank, int) for rank in found) else []


def _bytes_of(call: CommCall | None) -> int | None:
    if call is None or not call.dtype:
        return None
    elements = max(call.in_elements or 0, call.out_elements or 0)
    size = item_bytes(call.dtype)
    return elements * size if elements > 0 and size else None
