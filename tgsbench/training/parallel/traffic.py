"""What this rank sends, counted where every engine's calls end: at torch's process groups."""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

from torch._C._distributed_c10d import ProcessGroup

_ALL_TO_ALLS = ("all_to_all_single", "alltoall_base", "alltoall")
"""Methods of a process group, one of which every all-to-all of Python code ends in; torch 2.11 to 2.13."""


Kind = Literal["ulysses", "experts", "kv_hops"]
"""Of an all-to-all: sequence for heads, tokens to experts and back, keys and values once to each node."""


class AllToAllCounter:
    """All-to-alls that this process asked its groups for: recomputed ones included, saved ones not."""

    def __init__(self) -> None:
        self.apart: dict[str, Kind] = {}
        """Names of groups whose all-to-alls are counted apart, each with what they are."""
        self._sums: dict[Kind, list[int]] = {kind: [0, 0] for kind in get_args(Kind)}
        for name in _ALL_TO_ALLS:
            if method := getattr(ProcessGroup, name, None):
                setattr(ProcessGroup, name, self._counted(method))

    def take(self, kind: Kind = "ulysses") -> tuple[int, int]:
        """Calls since the last take, and the bytes handed to them, this rank's own share included."""
        calls, num_bytes = self._sums[kind]
        self._sums[kind] = [0, 0]
        return calls, num_bytes

    def _counted(self, method: Any) -> Any:
        @functools.wraps(method)
        def counted(group: ProcessGroup, received: Any, sent: Any, *rest: Any) -> Any:
            sums = self._sums[self.apart.get(group.group_name, "ulysses")]
            sums[0] += 1
            for tensor in sent if isinstance(sent, list) else [sent]:
                sums[1] += tensor.numel() * tensor.element_size()
            return method(group, received, sent, *rest)

        return counted


class SendCounter:
    """Messages that this process handed to its groups for another rank: those of a ring."""

    def __init__(self) -> None:
        self._calls = self._num_bytes = 0
        method = ProcessGroup.send

        @functools.wraps(method)
        def counted(group: ProcessGroup, tensors: list[Any], *rest: Any) -> Any:
            self._calls += 1
            self._num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            return method(group, tensors, *rest)

        ProcessGroup.send = counted  # type: ignore[method-assign, assignment]

    def take(self) -> tuple[int, int]:
        """Messages since the last take, and their bytes."""
        taken = self._calls, self._num_bytes
        self._calls = self._num_bytes = 0
        return taken


SEND_COUNTER = SendCounter()
ALL_TO_ALL_COUNTER = AllToAllCounter()
"""One engine run per process, so one counter."""


def begin_counting() -> None:
    """What is sent from here on is what the next `take` of each kind tells."""
    for kind in get_args(Kind):
        ALL_TO_ALL_COUNTER.take(kind)
    SEND_COUNTER.take()
