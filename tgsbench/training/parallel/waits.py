"""How long this rank's thread, or on a GPU its communication streams, stand in collectives, by group.

On gloo a collective blocks the thread that calls it, or the one that waits for its handle: the clock around
that is the wait for the slowest rank and the transfer. On NCCL the call only queues: two events around it on
the stream that it is called on are apart by the same, or, where it goes on beside other work, two events
around the wait for its handle. They are recorded in sampled steps alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as functional

from tgsbench.schema.events import Waits

_CALLS: Final = (
    "all_to_all_single", "all_gather_into_tensor", "all_gather_single", "reduce_scatter_tensor",
    "reduce_scatter_single", "all_reduce", "all_gather", "reduce_scatter", "broadcast", "barrier",
    "_all_gather_base", "_reduce_scatter_base",
)  # fmt: skip
SAMPLED_EVERY: Final = 4
ALL_SAMPLED: Final = 8
"""On a GPU the first steps record events, then one in so many."""
LONG_STEP_S: Final = 0.5
ALL_REPORTED: Final = 64
REPORTED_EVERY: Final = 4
"""Of short steps all are reported in the beginning, then one in so many: a log of such steps stays short."""
MAX_EVENTS: Final = 4096
"""Pairs of events of one step; beyond, calls are passed over."""


class CollectiveClock:
    """Times collectives of this process; `install` puts it around torch's calls, once."""

    def __init__(self) -> None:
        self._wait_s: dict[str, float] = {}
        self._names: dict[str, str] = {}
        self._labels: dict[Any, str] = {}
        self._inside = False
        self._on_gpu = False
        self._recording = False
        self._pairs: list[tuple[str, Any, Any]] = []
        self._events: list[tuple[Any, Any]] = []
        """Kept for the next step: making one takes longer than recording it."""
        self._installed = False

    def install(self, device: torch.device, labels: dict[str, Any], patch: bool = True) -> None:
        """Time every collective from now on; `labels`: name of a group -> the group. `patch`: put the clock
        around torch's calls."""
        self._on_gpu = device.type == "cuda"
        self._names = {group.group_name: label for label, group in labels.items() if group is not None}
        if self._installed:
            return
        self._installed = True
        for name in _CALLS if patch else ():
            if hasattr(dist, name):
                setattr(dist, name, self._timed(getattr(dist, name)))
        # What DTensor waits in: the reductions of a gradient norm.
        if patch:
            functional.wait_tensor = self._timed(functional.wait_tensor)

    def begin_step(self, index: int) -> None:
        """An optimizer step begins: is it one of those that are looked at?"""
        self._recording = not self._on_gpu or index < ALL_SAMPLED or index % SAMPLED_EVERY == 0
        self._pairs.clear()
        self._wait_s.clear()

    def end_step(self, index: int, step_s: float) -> Waits | None:
        """The step is over and the device done with it: what to report; None for a step not looked at."""
        if not self._installed or not self._recording:
            return None
        for label, begin, end in self._pairs:
            self._wait_s[label] = self._wait_s.get(label, 0.0) + begin.elapsed_time(end) / 1e3
        if step_s < LONG_STEP_S and index >= ALL_REPORTED and index % REPORTED_EVERY:
            return None
        return Waits(step=index, step_s=step_s, wait_s=dict(self._wait_s))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Costs 4 µs a call on two loaded cores; of calls inside a call the outer one counts."""
        # With dp 1 the ranks of both groups are the same, and torch has one group for them.
        fixed = "sp" if call.__name__.startswith("all_to_all") else ""
        clock, wait_s, labels = time.perf_counter, self._wait_s, self._labels

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside or not self._recording:
                return call(*args, **kwargs)
            self._inside = True
            try:
                if self._on_gpu:
                    label = fixed or self._label(kwargs)
                    if not kwargs.get("async_op"):
                        return self._on_stream(label, call, args, kwargs)
                    return self._watched(call(*args, **kwargs), label)
                begin = clock()
                work = call(*args, **kwargs)
                seconds = clock() - begin
            finally:
                self._inside = False
            label = fixed or labels.get(kwargs.get("group")) or self._label(kwargs)
            wait_s[label] = wait_s.get(label, 0.0) + seconds
            return self._watched(work, label) if kwargs.get("async_op") else work

        timed.__name__ = call.__name__
        timed.__doc__ = call.__doc__
        return timed

    def _label(self, kwargs: Any) -> str:
        """A group by the object it is, which torch may make anew, or by its name."""
        group = kwargs.get("group")
        label = self._names.get(getattr(group, "group_name", ""), "world")
        self._labels[group] = label
        return label

    def _watched(self, work: Any, label: str) -> Any:
        """The handle of a call; torch gives none where this process is not of the group."""
        return None if work is None else _TimedWork(work, label, self)

    def _on_stream(self, label: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if len(self._pairs) >= MAX_EVENTS:
            return call(*args, **kwargs)
        if len(self._events) == len(self._pairs):
            timing = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._events.append(timing)
        begin, end = self._events[len(self._pairs)]
        stream = torch.cuda.current_stream()
        begin.record(stream)
        work = call(*args, **kwargs)
        end.record(stream)
        self._pairs.append((label, begin, end))
        return work

    def wait_for(self, label: str, wait: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Wait for a handle, and time it: on a GPU the stream waits, and this thread does not."""
        if self._on_gpu:
            return self._on_stream(label, wait, args, kwargs) if self._recording else wait(*args, **kwargs)
        begin = time.perf_counter()
        try:
            return wait(*args, **kwargs)
        finally:
            self._wait_s[label] = self._wait_s.get(label, 0.0) + time.perf_counter() - begin


class _TimedWork:
    """The handle of a collective that goes on: the wait is where it is waited for."""

    def __init__(self, work: Any, label: str, clock: CollectiveClock) -> None:
        self._work, self._label, self._clock = work, label, clock

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """FSDP waits for handles that `isinstance` calls torch's own, and passes over all others."""
        return type(self._work)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        return self._clock.wait_for(self._label, self._work.wait, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


COLLECTIVE_CLOCK = CollectiveClock()
"""One engine run per process, so one clock."""
