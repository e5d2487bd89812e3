"""gloo's calls: annotations on its own threads, by what launched them; what they are of, shapes say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import numpy as np

from tgsbench.schema.collective_kinds import BY_SPAN, KINDS
from tgsbench.traces import categories
from tgsbench.traces.collectives import CallKind, Calls, group_label
from tgsbench.traces.columns import Interner
from tgsbench.traces.row_store import Flags, Ints
from tgsbench.traces.shapes import largest_tensor_bytes
from tgsbench.traces.tables import Host, Table

_GLOO: Final = re.compile(r"^(gloo|mpi|ucc):")
_BLOCKING: Final = "".join(f"{re.escape(op)}|" for kind in KINDS for op in kind.blocking_ops)
_WAITS: Final = re.compile(rf"^({_BLOCKING}_?c10d_functional::wait_tensor)$")
_FSDP: Final = re.compile(r"^FSDP::|^fsdp::|^tgsbench::(all_gather|reduce_scatter)$", re.IGNORECASE)
_TELLING: Final = (_GLOO, _WAITS, _FSDP)
_RUN_AS: Final = {kind.name: kind.gloo_runs_as for kind in KINDS if kind.gloo_runs_as}
"""Kind of a launch -> the kind that gloo's annotation shows instead."""


def calls(table: Table) -> Calls:
    """Calls of gloo: annotations on its own threads, each matched with the operator that launched it.

    A call is in flight from its launch: on busy cores gloo's thread may start 10 ms later.
    """
    host = _communication(table)
    is_run = np.array([_GLOO.match(name) is not None for name in host.names], bool)
    is_op = np.array([name.startswith("c10d::") for name in host.names], bool)
    runs, launches = _by_start(host, is_run), _by_start(host, is_op)
    runs, open_launches = runs[host.is_annotation[runs]], launches.tolist()
    size = table.head.distributed.world_size if table.head.distributed is not None else 0
    context, waiting, ranks = _Context(host), _Waiting(host), dict[str, list[int]]()
    starts, ends, what, described = [], [], [], Interner()
    for row in runs.tolist():
        name = host.names[host.name[row]]
        kind, by = categories.collective_kind(name), "annotation"
        launch = _launch_of(host, row, kind, open_launches)
        group, begin = "", int(host.start[row])
        if launch is not None:
            group, begin = context.group_of(launch), int(host.start[launch])
            launched_as = categories.collective_kind(host.names[host.name[launch]], group)
            kind, by = context.kind_of(launch) or launched_as, "op"
        # A list of tensors with no dimension says nothing at the launch: gloo's own record does.
        launched = None if launch is None else largest_tensor_bytes(host.shapes(launch))
        num_bytes = launched or largest_tensor_bytes(host.shapes(row))
        if group:
            ranks.setdefault(group, _members(table, group))
        members = len(ranks.get(group, [])) or size
        starts.append(begin)
        ends.append(waiting.until(int(host.end[row])))
        what.append(described[CallKind(kind, group, num_bytes, members, by)])
    start, end, whats = (np.array(column, np.int64) for column in (starts, ends, what))
    return Calls(start, end, whats, np.zeros(len(start), np.int64), list(described), ranks)


def _communication(table: Table) -> Host:
    """The host's rows that say anything about calls."""
    flags = np.array(
        [
            name.startswith("c10d::") or name in BY_SPAN or any(p.match(name) for p in _TELLING)
            for name in table.host_names
        ],
        bool,
    )
    return table.host_rows(table.host.where(lambda rows: flags[rows["name"]]))


def _by_start(host: Host, flags: Flags) -> Ints:
    """Rows whose name is flagged, in order of start."""
    rows = np.flatnonzero(flags[host.name]) if len(flags) else np.empty(0, np.int64)
    return rows[np.argsort(host.start[rows], kind="stable")]


def _members(table: Table, label: str) -> list[int]:
    """Ranks of a mesh dimension's group; a dimension of the world's size has none of its own."""
    distributed = table.head.distributed
    groups = distributed.pg_config if distributed is not None else []
    for group in groups:
        if group_label(group.pg_desc, group.pg_name) == label:
            return list(group.ranks)
    return next((list(group.ranks) for group in groups if group.pg_desc == "default_pg"), [])


class _Waiting:
    """Operators in which a thread waits for a collective: it is over for the step when they end."""

    def __init__(self, host: Host) -> None:
        flags = np.array([_WAITS.match(name) is not None for name in host.names], bool)
        rows = _by_start(host, flags)
        self._start, self._end = host.start[rows], host.end[rows]

    def until(self, instant: int) -> int:
        """End of the wait in which the instant lies, else the instant."""
        index = int(np.searchsorted(self._start, instant, "right")) - 1
        return max(instant, int(self._end[index])) if index >= 0 else instant


def _launch_of(host: Host, run: int, kind: str, open_launches: list[int]) -> int | None:
    """The earliest launch not yet matched that fits; it is taken off the list."""
    for position, launch in enumerate(open_launches[:64]):
        if host.start[launch] > host.start[run]:
            return None
        launched = categories.collective_kind(host.names[host.name[launch]])
        if kind in (launched, _RUN_AS.get(launched)):
            return open_launches.pop(position)
    return None


class _Context:
    """Which group a gloo launch belongs to, by what stands around it: gloo's records do not say."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._kinds = {kind.name: self._sorted(kind.spans.__contains__) for kind in BY_SPAN.values()}
        self._spans = {
            **{kind.span_group: self._kinds[kind.name] for kind in BY_SPAN.values()},
            "fsdp": self._sorted(lambda name: _FSDP.match(name) is not None),
        }

    def _sorted(self, wanted: Callable[[str], bool]) -> Ints:
        return _by_start(self._host, np.array([wanted(name) for name in self._host.names], bool))

    def group_of(self, launch: int) -> str:
        """Label of the group; empty where nothing around it says so."""
        return next((label for label, rows in self._spans.items() if self._is_inside(rows, launch)), "")

    def kind_of(self, launch: int) -> str:
        """What our own spans say that it is, such as a reduce-scatter that runs as an exchange."""
        return next((kind for kind, rows in self._kinds.items() if self._is_inside(rows, launch)), "")

    def _is_inside(self, rows: Ints, launch: int) -> bool:
        host = self._host
        before = np.searchsorted(host.start[rows], host.start[launch], "right")
        near = rows[max(0, before - 8) : before]
        return bool(((host.end[near] >= host.end[launch]) & (host.thread[near] == host.thread[launch])).any())
