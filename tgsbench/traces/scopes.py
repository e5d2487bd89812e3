"""What the host was doing at an instant: which region, recomputing or not, in which operator.

A region is opened by our own spans, by torch's `Optimizer.step#…`, by operators whose name says attention,
linear attention, loss, optimizer or product, by collectives, and by the backward of what ran in an attention
span (autograd gives both the same sequence number). It holds for everything beneath.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tgsbench.schema import spans
from tgsbench.schema.hotspots import COLLECTIVES, PARTS
from tgsbench.traces import categories, nesting
from tgsbench.traces.tables import Host

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

CODE: Final = {part: code for code, part in enumerate(PARTS)}
NONE: Final = -1
OTHER: Final = CODE["other"]
RECOMPUTE: Final = CODE["recompute"]
IS_COLLECTIVE: Final = np.array([part in COLLECTIVES for part in PARTS])
"""By code."""
_OF_A_SPAN: Final = {
    spans.ATTENTION: CODE["attention_bwd"],
    spans.LINEAR_ATTENTION: CODE["linear_attention"],
    spans.ROUTER: CODE["router"],
    spans.EXPERTS: CODE["experts"],
    spans.SHARED_EXPERT: CODE["shared_expert"],
}
"""Span -> the part of the backward of what ran in it."""
_STRONG_PARTS: Final = (
    "attention_fwd", "attention_bwd", "linear_attention", "loss", "optimizer", "data", "router", "experts",
    "shared_expert",
)  # fmt: skip
STRONG: Final = np.array([part in _STRONG_PARTS for part in PARTS])
"""What runs in such a region is of it, whatever its name says."""
Made = dict[int, Ints]
"""Part of a backward -> sequence numbers of its autograd nodes."""
_OPENED_BY_NAME: Final = ("attention_fwd", "attention_bwd", "linear_attention", "loss", "optimizer", "gemm")


@dataclass(frozen=True)
class Thread:
    """One thread's operators as a forest, with what each stands in; arrays by position in the forest."""

    forest: nesting.Nesting
    segments: nesting.Segments
    region: Ints
    """Code of a part, or NONE."""
    recompute: Flags
    shards: Flags
    """Beneath what gathers parameters or scatters gradients of a sharded model."""
    module: Ints
    """Code of what the module around does, where it does one thing, or NONE."""
    kind: Ints
    """Code of the operator's own kind, by its name."""
    frame: Flags
    """Its own time is Python's or a wait's."""


@dataclass(frozen=True)
class HostContext:
    """Where some instants fall, and what holds there."""

    thread: Ints
    position: Ints
    """Of the innermost operator in its thread's forest; -1: none."""
    row: Ints
    """Its row in the host table; -1: none."""
    region: Ints
    recompute: Flags
    shards: Flags
    module: Ints
    kind: Ints

    def subset(self, rows: Ints) -> HostContext:
        """Some of the instants."""
        return HostContext(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class Scopes:
    """The host side of one stretch of a trace."""

    def __init__(self, host: Host, codes: NameCodes, made: Made) -> None:
        """`made`: that of the stretch before."""
        self._host = host
        self._names = codes
        self._threads: dict[int, Thread] = {}
        self.made: Made = {}
        """Of the autograd nodes made in spans, up to the stretch's end."""
        self._nodes: dict[int, Flags] = {}
        for span, part in _OF_A_SPAN.items():
            before = made.get(part, np.empty(0, np.int64))
            self._nodes[part], self.made[part] = self._made_in(span, before)

    def thread(self, number: int) -> Thread:
        """One thread's forest; built on first use."""
        if number not in self._threads:
            rows = np.flatnonzero(self._host.thread == number)
            self._threads[number] = self._build(rows)
        return self._threads[number]

    def places(self, threads: npt.NDArray[Any], instants: npt.NDArray[Any]) -> HostContext:
        """Where instants on threads fall."""
        count = len(instants)
        place = HostContext(
            thread=np.asarray(threads, np.int64),
            position=np.full(count, -1),
            row=np.full(count, -1),
            region=np.full(count, NONE),
            recompute=np.zeros(count, bool),
            shards=np.zeros(count, bool),
            module=np.full(count, NONE),
            kind=np.full(count, OTHER),
        )
        for number in np.unique(threads):
            thread, at = self.thread(int(number)), np.flatnonzero(threads == number)
            owner = thread.segments.owner_at(instants[at])
            inside = owner >= 0
            at, owner = at[inside], owner[inside]
            place.position[at] = owner
            place.row[at] = thread.forest.rows[owner]
            place.region[at] = thread.region[owner]
            place.recompute[at] = thread.recompute[owner]
            place.shards[at] = thread.shards[owner]
            place.module[at] = thread.module[owner]
            place.kind[at] = thread.kind[owner]
        return place

    def enclosing(self, place: HostContext, index: int) -> list[int]:
        """Host rows around one of the instants, innermost first."""
        position, found = int(place.position[index]), []
        if position >= 0:
            forest = self.thread(int(place.thread[index])).forest
            while position >= 0:
                found.append(int(forest.rows[position]))
                position = int(forest.parent[position])
        return found

    def _made_in(self, name: str, earlier: Ints) -> tuple[Flags, Ints]:
        """Which rows are backward nodes made in spans of that name; all such numbers at the stretch's end.

        All ops up to the one that makes a node carry its number: the last of them before the node made it.
        Threads count for themselves, so that numbers may come again.
        """
        host, codes = self._host, self._names
        found = np.zeros(len(host.start), bool)
        span = host.names.index(name) if name in host.names else -1
        if span < 0:
            return found, earlier
        makes = (host.sequence >= 0) & ~codes.backward[host.name] & (host.start >= host.since)
        node = (host.sequence >= 0) & codes.node[host.name]
        rows = np.flatnonzero(makes | node)
        rows = rows[np.lexsort((host.start[rows], host.sequence[rows]))]
        numbers, at = host.sequence[rows], np.arange(len(rows))
        opens, closes = np.ones(len(rows), bool), np.ones(len(rows), bool)
        opens[1:] = closes[:-1] = numbers[1:] != numbers[:-1]
        first = np.maximum.accumulate(np.where(opens, at, 0))
        maker = np.maximum.accumulate(np.where(makes[rows], at, -1))
        inside = np.where(maker >= first, self._in_spans(rows, span)[maker], np.isin(numbers, earlier))
        found[rows] = inside & node[rows]
        made = np.union1d(np.setdiff1d(earlier, numbers[closes]), numbers[closes & inside])
        return found, np.asarray(made, np.int64)

    def _in_spans(self, rows: Ints, span: int) -> Flags:
        """Which rows lie in an annotation of that name on their thread."""
        host, inside = self._host, np.zeros(len(rows), bool)
        for number in np.unique(host.thread[host.name == span]):
            at = np.flatnonzero((host.name == span) & (host.thread == number))
            order = at[np.argsort(host.start[at])]
            index = np.searchsorted(host.start[order], host.start[rows], "right") - 1
            covered = (index >= 0) & (host.end[order[np.maximum(index, 0)]] >= host.end[rows])
            inside |= covered & (host.thread[rows] == number)
        return inside

    def _build(self, rows: Ints) -> Thread:
        host, codes = self._host, self._names
        forest = nesting.nest(host.start[rows], host.end[rows])
        forest = nesting.Nesting(rows[forest.rows], forest.start, forest.end, forest.parent, forest.levels)
        name, sequence = host.name[forest.rows], host.sequence[forest.rows]
        node = codes.node[name]
        opens = codes.region[name].copy()
        for part, nodes in self._nodes.items():
            opens[nodes[forest.rows]] = part
        again = (opens == RECOMPUTE) | codes.reentrant[name]
        forward = (sequence >= 0) & ~codes.backward[name]
        forward &= sequence != np.where(forest.parent >= 0, sequence[forest.parent], -1)  # a node itself
        region, recompute = _inherit(forest, opens, again, node, forward)
        frame = codes.frame[name] | host.is_annotation[forest.rows]
        shards, module = _carried_down(forest, codes.shards[name], codes.module[name])
        kind = codes.kind[name]
        return Thread(forest, nesting.segments(forest), region, recompute, shards, module, kind, frame)


def _carried_down(forest: nesting.Nesting, shards: Flags, module: Ints) -> tuple[Flags, Ints]:
    """A mark holds for everything beneath, a module up to the next one in it."""
    if shards.any() or (module != NONE).any():
        for level in forest.levels:
            above = forest.parent[level]
            inner, above = level[above >= 0], above[above >= 0]
            shards[inner] |= shards[above]
            module[inner] = np.where(module[inner] == NONE, module[above], module[inner])
    return shards, module


def _inherit(
    forest: nesting.Nesting, opens: Ints, again: Flags, node: Flags, forward: Flags
) -> tuple[Ints, Flags]:
    """Regions and recomputing, from the outermost level inwards.

    Beneath a backward node only what runs again in the forward direction has a sequence number: gradients
    are off otherwise. (Of 1,240 ops of a checkpointed step the 308 with one were exactly those in our
    recompute spans.)
    """
    region, recompute, in_backward = opens.copy(), again.copy(), node.copy()
    region[region == RECOMPUTE] = NONE
    for level in forest.levels:
        above = forest.parent[level]
        inner, above = level[above >= 0], above[above >= 0]
        outer, own = region[above], region[inner]
        collective = (own >= 0) & IS_COLLECTIVE[own]
        keep = ~collective & (outer >= 0) & (STRONG[outer] | (own == NONE))
        region[inner] = np.where(keep, outer, own)
        begins = in_backward[above] & forward[inner]
        recompute[inner] = (recompute[inner] | recompute[above] | begins) & ~node[inner]
        in_backward[inner] |= in_backward[above] & ~recompute[inner]
    return region, recompute


class NameCodes:
    """What each host name stands for, by its number."""

    def __init__(self, host_names: list[str]) -> None:
        kinds = [categories.SPAN_KINDS.get(name) or categories.kind_of(name) for name in host_names]
        self.kind = np.array([CODE[kind] for kind in kinds], np.int64)
        opened = (
            name in categories.SPAN_KINDS or kind in _OPENED_BY_NAME or kind in COLLECTIVES
            for name, kind in zip(host_names, kinds, strict=True)
        )
        self.shards = np.array([_SHARDS.search(name) is not None for name in host_names], bool)
        self.module = np.array([_module_code(name) for name in host_names], np.int64)
        self.region = np.where(np.array(list(opened), bool), self.kind, NONE)
        self.reentrant = np.array(["CheckpointFunctionBackward" in name for name in host_names], bool)
        self.node = np.array([categories.is_backward_node(name) for name in host_names], bool)
        self.backward = self.node | np.array([_ends_in_backward(name) for name in host_names], bool)
        self.frame = np.array([categories.is_frame(name) for name in host_names], bool)


_SHARDS: Final = re.compile(
    rf"^FSDP::(all_gather|post_backward_r|foreach_|reduce)|^fsdp::|^({spans.SHARD_GATHER}|{spans.SHARD_SCATTER})$"
    r"|^FullyShardedDataParallel\._(pre_(forward|backward|unshard)|post_backward|post_unshard|unshard|reduce)"
)
"""torch's FSDP2 and FSDP1, and our own spans."""


def _module_code(name: str) -> int:
    """What a module does; NONE for what is no module; OTHER for one that does several things."""
    return CODE[categories.module_kind(name)] if name.startswith(categories.MODULE_PREFIX) else NONE


def _ends_in_backward(name: str) -> bool:
    return name.rstrip("0123456789").endswith("Backward") or "AccumulateGrad" in name
