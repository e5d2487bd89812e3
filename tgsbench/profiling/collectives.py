"""Every call of a collective in a trace: its kind, group, bytes and time in flight.

Kinds are found by what NCCL recorded (on the kernel, or on the operator that launched it), by the
annotation or operator around the launch, and by the kernel's name last; a SendRecv kernel whose launch is
outside the trace stays unknown: in one real trace all 80 NCCL kernels bear that name, most of them
all-reduce.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tgsbench.profiling import names
from tgsbench.profiling.scopes import Place, Scopes
from tgsbench.profiling.shapes import item_bytes, largest_tensor_bytes
from tgsbench.profiling.tables import CommCall, Host, Table


@dataclass
class Calls:
    """Calls in order of start; lists of one length."""

    kind: list[str] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    num_bytes: list[int | None] = field(default_factory=list)
    group_size: list[int] = field(default_factory=list)
    resolved_by: list[str] = field(default_factory=list)
    ranks: dict[str, list[int]] = field(default_factory=dict)
    """Members of each group, where known."""

    def add(
        self, kind: str, group: str, start: int, end: int, num_bytes: int | None, size: int, by: str
    ) -> None:
        """Append one call."""
        self.kind.append(kind)
        self.group.append(group)
        self.start.append(start)
        self.end.append(end)
        self.num_bytes.append(num_bytes)
        self.group_size.append(size)
        self.resolved_by.append(by)

    def __len__(self) -> int:
        return len(self.kind)


def on_device(table: Table, rows: np.ndarray, place: Place, scopes: Scopes) -> Calls:
    """Calls of NCCL's kernels; `rows` of the device table, `place`: where each was launched."""
    device, host, calls = table.device, table.host, Calls()
    known = _Groups(table)
    records = {int(host.external[row]): call for row, call in host.comm_calls.items() if host.external[row]}
    around = _Around(host, place, scopes)
    for index, row in enumerate(rows.tolist()):
        name = device.names[device.name[row]][1]
        call, by = device.comm_calls.get(row), "kernel"
        if call is None:
            call, by = records.get(int(device.external[row])), "params"
        text = call.collective if call is not None else ""
        if not text:
            text, call, by = around.describe(index, call)
        kind, by = (names.collective_kind(text), by) if text else (names.kind_of(name), "name")
        size = call.group_size if call is not None else 0
        calls.add(
            kind, known.label(call), int(device.start[row]), int(device.end[row]), _bytes_of(call), size, by
        )
    calls.ranks = known.ranks
    return calls


class _Around:
    """What stood around a launch: a record, an annotation, an operator of the library."""

    def __init__(self, host: Host, place: Place, scopes: Scopes) -> None:
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
            record = host.comm_calls.get(above)
            if record is not None and record.collective:
                return record.collective, record, "launch"
            if not text and name in names.EXCHANGES:
                text, by = "all_to_all", "annotation"
            if not text and names.is_communication(name) and name != "record_param_comms":
                text, by = name, "annotation" if host.is_annotation[above] else "op"
        return text, call, by


class _Groups:
    """Labels of process groups: the description without torch's decoration, else the name."""

    def __init__(self, table: Table) -> None:
        distributed = table.head.distributed
        config = distributed.pg_config if distributed is not None else []
        self._config = {group.pg_name: group for group in config}
        self.ranks: dict[str, list[int]] = {}

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


_GLOO: Final = re.compile(r"^(gloo|mpi|ucc):")
_WAITS: Final = re.compile(r"^(tgsbench::all_to_all|_?c10d_functional::wait_tensor)$")
_FSDP: Final = re.compile(r"^FSDP::|^fsdp::|^tgsbench::(all_gather|reduce_scatter)$", re.IGNORECASE)
_COMPATIBLE: Final = {"all_reduce": ("all_reduce", "reduce_scatter")}
"""gloo's reduce-scatter runs as, and is annotated as, an all-reduce."""


def on_host(table: Table) -> Calls:
    """Calls of gloo: annotations on its own threads, each matched with the operator that launched it.

    A call is in flight from its launch: on busy cores gloo's thread may start 10 ms later.
    """
    host, calls = table.host, Calls()
    is_run = np.array([_GLOO.match(name) is not None for name in host.names], bool)
    is_op = np.array([name.startswith("c10d::") for name in host.names], bool)
    runs = np.flatnonzero(is_run[host.name] & host.is_annotation) if len(is_run) else np.empty(0, np.int64)
    launches = np.flatnonzero(is_op[host.name]) if len(is_op) else np.empty(0, np.int64)
    open_launches = [int(row) for row in launches[np.argsort(host.start[launches], kind="stable")]]
    size = table.head.distributed.world_size if table.head.distributed is not None else 0
    context = _Context(host)
    waiting = _Waiting(host)
    for row in runs[np.argsort(host.start[runs], kind="stable")].tolist():
        name = host.names[host.name[row]]
        kind, by = names.collective_kind(name), "annotation"
        launch = _launch_of(host, row, kind, open_launches)
        group, begin = "", int(host.start[row])
        if launch is not None:
            kind, by = names.collective_kind(host.names[host.name[launch]]), "op"
            group, begin = context.group_of(launch), int(host.start[launch])
        # A list of tensors with no dimension says nothing at the launch: gloo's own record does.
        launched = None if launch is None else largest_tensor_bytes(host.shapes.get(launch))
        num_bytes = launched or largest_tensor_bytes(host.shapes.get(row))
        if group:
            calls.ranks.setdefault(group, _members(table, group))
        members = len(calls.ranks.get(group, [])) or size
        calls.add(kind, group, begin, waiting.until(int(host.end[row])), num_bytes, members, by)
    return calls


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
        rows = np.flatnonzero(flags[host.name]) if len(flags) else np.empty(0, np.int64)
        rows = rows[np.argsort(host.start[rows], kind="stable")]
        self._start, self._end = host.start[rows], host.end[rows]

    def until(self, instant: int) -> int:
        """End of the wait in which the instant lies, else the instant."""
        index = int(np.searchsorted(self._start, instant, "right")) - 1
        return max(instant, int(self._end[index])) if index >= 0 else instant


def _launch_of(host: Host, run: int, kind: str, open_launches: list[int]) -> int | None:
    """The earliest launch not yet matched that fits; it is taken off the list."""
    accepted = _COMPATIBLE.get(kind, (kind,))
    for position, launch in enumerate(open_launches[:64]):
        if host.start[launch] > host.start[run]:
            return None
        if names.collective_kind(host.names[host.name[launch]]) in accepted:
            return open_launches.pop(position)
    return None


class _Context:
    """Which group a gloo launch belongs to, by what stands around it: gloo's records do not say."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._spans = {
            "sp": self._sorted(lambda name: name in names.EXCHANGES),
            "fsdp": self._sorted(lambda name: _FSDP.match(name) is not None),
        }

    def _sorted(self, wanted: Any) -> np.ndarray:
        host = self._host
        flags = np.array([wanted(name) for name in host.names], bool)
        rows = np.flatnonzero(flags[host.name]) if len(flags) else np.empty(0, np.int64)
        return rows[np.argsort(host.start[rows], kind="stable")]

    def group_of(self, launch: int) -> str:
        host = self._host
        for label, rows in self._spans.items():
            before = np.searchsorted(host.start[rows], host.start[launch], "right")
            near = rows[max(0, before - 8) : before]
            inside = (host.end[near] >= host.end[launch]) & (host.thread[near] == host.thread[launch])
            if inside.any():
                return label
        return ""


def inside(calls: Calls, start: int, end: int) -> Calls:
    """The calls that overlap a window, cut to it."""
    chosen = Calls(ranks=calls.ranks)
    for index in range(len(calls)):
        if calls.end[index] > start and calls.start[index] < end:
            chosen.add(
                calls.kind[index],
                calls.group[index],
                max(start, calls.start[index]),
                min(end, calls.end[index]),
                calls.num_bytes[index],
                calls.group_size[index],
                calls.resolved_by[index],
            )
    return chosen
