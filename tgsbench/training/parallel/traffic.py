"""What this rank sends, counted where every engine's calls end: at torch's process groups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from torch._C._distributed_c10d import ProcessGroup

Kind = Literal["ulysses", "experts", "kv_hops", "ring", "gather", "scatter", "copies"]
"""All-to-alls of sequence for heads, of tokens to experts and back, and of keys and values once to each node;
messages round a ring; gathers of parameters, scatters of gradients, and their sums over copies."""


Method = Callable[..., Any]


class _Methods(NamedTuple):
    """Methods of a process group that do one thing, and what their calls are."""

    names: tuple[str, ...]
    """Every call of Python code ends in one of them; torch 2.11 to 2.14."""
    kind: Kind | None
    """None: only calls of groups that are told apart count."""
    whole: int
    """Which argument has the bytes that count."""


_COUNTED = (
    _Methods(("all_to_all_single", "alltoall_base", "alltoall"), "ulysses", 1),
    _Methods(("send",), "ring", 0),
    _Methods(("all_gather_single", "_allgather_base"), "gather", 0),
    _Methods(("reduce_scatter_single", "_reduce_scatter_base"), "scatter", 1),
    _Methods(("allreduce",), None, 0),
)
_COUNTED_AS: dict[Kind, Kind | None] = {"experts": "ulysses", "kv_hops": "ulysses", "copies": None}
"""What calls of a group that is told apart would be otherwise."""


class Sent(NamedTuple):
    """Calls, and the bytes handed to them or taken from them, this rank's own share included."""

    calls: int = 0
    num_bytes: int = 0


class TrafficCounter:
    """Collectives that this process asked its groups for: recomputed ones included, saved ones not."""

    def __init__(self) -> None:
        self._apart: dict[tuple[str, Kind | None], Kind] = {}
        self._sums: dict[Kind, Sent] = {}
        self.uncounted: dict[str, Method] = {}
        """What the methods run as; who puts another there is not seen in what it sends for it."""
        for methods in _COUNTED:
            for name in methods.names:
                if method := getattr(ProcessGroup, name, None):
                    self.uncounted[name] = method
                    setattr(ProcessGroup, name, self._counted(name, methods))

    def tell_apart(self, group: ProcessGroup, kind: Kind) -> None:
        """Count what this group does as something of its own."""
        self._apart[group.group_name, _COUNTED_AS[kind]] = kind

    def take(self) -> Mapping[Kind, Sent]:
        """What was sent since the last take; a kind that was not is missing."""
        sums, self._sums = self._sums, {}
        return sums

    def _counted(self, name: str, methods: _Methods) -> Method:
        _, usual, whole = methods

        @functools.wraps(self.uncounted[name])
        def counted(group: ProcessGroup, *args: Any, **options: Any) -> Any:
            kind = self._apart.get((group.group_name, usual), usual)
            if kind is not None and group.size() > 1:  # alone a rank sends nothing, whoever asks
                tensors = args[whole] if isinstance(args[whole], list) else [args[whole]]
                calls, num_bytes = self._sums.get(kind, (0, 0))
                num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
                self._sums[kind] = Sent(calls + 1, num_bytes)
            return self.uncounted[name](group, *args, **options)

        return counted


_FIELDS: dict[Kind, str] = {
    "ulysses": "a2a", "ring": "ring", "experts": "expert", "kv_hops": "hop", "gather": "gather",
    "scatter": "scatter", "copies": "copy",
}  # fmt: skip
_ALWAYS = ("ulysses", "gather")
"""Told where there were none too: a step without them was looked at."""


def event_fields(sent: Mapping[Kind, Sent]) -> dict[str, int]:
    """The same as fields of an event; what was not sent has none, 33 bytes of each line."""
    found: dict[str, int] = {}
    for kind, name in _FIELDS.items():
        if kind in sent or kind in _ALWAYS:
            found[f"{name}_calls"], found[f"{name}_bytes"] = sent.get(kind, Sent())
    return found


TRAFFIC = TrafficCounter()
"""One engine run per process, so one counter."""
