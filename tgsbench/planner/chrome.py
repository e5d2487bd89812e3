"""A predicted optimizer step as a Chrome trace, for the viewer that shows measured ones.

Spans have the names of the trainer's own profiler spans where there are such, so that both open side by
side: https://ui.perfetto.dev or chrome://tracing. Durations are the plan's; the order within a layer is
the real one, and each layer takes what the plan gives it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from tgsbench.planner.counts import kv_heads_traded
from tgsbench.planner.plan import Estimate
from tgsbench.planner.time import LayerTime, StepEstimate
from tgsbench.planner.workload import StepWorkload
from tgsbench.schema import spans as names

_COMPUTE, _NETWORK, _BESIDE = 1, 2, 3
Event = dict[str, Any]


_NOT_HIDDEN = ("ring_exposed", "gather_exposed", "gather_copies", "stragglers", "host", "offload")


def chrome_trace(numbers: Estimate, name: str, max_micro_steps: int = 1) -> dict[str, Any]:
    """Trace document of `max_micro_steps` micro-steps and the optimizer step; times in microseconds.

    The number of micro-steps that an optimizer step really has, and its predicted length, are in `otherData`.
    """
    assert numbers.time is not None
    events = [
        _named(_COMPUTE, "predicted: compute and all-to-all"),
        _named(_NETWORK, "predicted: FSDP traffic"),
        _named(_BESIDE, "predicted: all-to-alls beside work"),
    ]
    shown = min(max_micro_steps, numbers.work.accumulation)
    clock = 0.0
    for index in range(shown):
        spans = list(_micro_step(numbers, numbers.time, index))
        for event in spans:
            event["ts"] += clock
        events += spans
        clock = max(event["ts"] + event["dur"] for event in spans)
    optimizer = sum(numbers.time.items[name] for name in ("optimizer", "gather_step", "step_overhead"))
    events.append(_span(names.OPTIMIZER, clock, optimizer * 1e6, _COMPUTE))
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "predicted": name,
            "micro_steps_shown": shown,
            "micro_steps": numbers.work.accumulation,
            "step_s": numbers.time.step_s,
        },
    }


def _micro_step(numbers: Estimate, time: StepEstimate, index: int) -> Iterator[Event]:
    """Forward, loss, backward of one micro-step, and the parameter traffic beside them."""
    layers, passes = numbers.work.dims.num_layers, time.passes
    mixing = functools.partial(_mixing_of, numbers.work)
    per_micro = {key: 1e6 * s / numbers.work.accumulation for key, s in time.items.items()}
    clock = 0.0
    for layer in range(layers):
        spans, clock = _layer(names.FORWARD, layer, mixing(passes.forward, layer), clock)
        yield from spans
    forward_end = clock
    loss = per_micro["head"] + per_micro["loss"]
    yield _span(names.LOSS, clock, loss, _COMPUTE)
    clock += loss
    for layer in reversed(range(layers)):
        if passes.recompute.total:
            spans, clock = _layer(names.RECOMPUTE, layer, mixing(passes.recompute, layer), clock)
            yield from spans
        spans, clock = _layer(names.BACKWARD, layer, mixing(passes.backward, layer), clock, backward=True)
        yield from spans
    exposed = sum(per_micro.get(key, 0.0) for key in _NOT_HIDDEN)
    exchanged = (passes.forward, passes.recompute, passes.backward)
    across = 1e6 * layers * sum(part.exchange_network for part in exchanged)
    exposed += max(0.0, per_micro["all_to_all_network"] - across)  # cards shared with hidden gathers
    yield _span("waiting: traffic not hidden, copies, stragglers, launches", clock, exposed, _COMPUTE)
    yield from _traffic(1e6 * time.gather_s, forward_end, clock + exposed)
    yield _span(f"micro-step {index}", 0.0, clock + exposed, 0)


def _traffic(gather: float, forward_end: float, end: float) -> Iterator[Event]:
    """A third of the traffic beside the forward, two thirds beside the backward."""
    if not gather:
        return
    yield _span("all-gather parameters", 0.0, min(gather / 3, end), _NETWORK)
    start = max(forward_end, gather / 3)
    yield _span("all-gather, reduce-scatter", start, max(0.0, min(2 * gather / 3, end - start)), _NETWORK)


def _mixing_of(work: StepWorkload, time: LayerTime, layer: int) -> LayerTime:
    """The average layer's time with the attention that this layer has: a hybrid's have one kind each."""
    dims = work.dims
    num_linear = sum(dims.recurrent)
    if not num_linear:
        return time
    is_linear = layer < len(dims.recurrent) and dims.recurrent[layer]
    more = dims.num_layers / (num_linear if is_linear else dims.num_layers - num_linear)
    traded = _traded(work, is_linear)
    return replace(
        time,
        attention=0.0 if is_linear else more * time.attention,
        recurrence=more * time.recurrence if is_linear else 0.0,
        exchange_node=traded * time.exchange_node,
        exchange_network=traded * time.exchange_network,
    )


def _traded(work: StepWorkload, is_linear: bool) -> float:
    """What a layer with linear attention, or without, has in its all-to-alls, by the average layer."""
    kv_heads = kv_heads_traded(work)
    same = [group for group in work.dims.groups if bool(group.scan_flops) == is_linear]
    values = sum(group.num * sum(group.exchange(kv_heads)) for group in same)
    return values / sum(group.num for group in same) / sum(work.dims.exchange(kv_heads))


def _layer(
    name: str, index: int, time: LayerTime, clock: float, *, backward: bool = False
) -> tuple[list[Event], float]:
    """Spans of one layer in the order they run, and when it ends."""
    exchange = 1e6 * (time.exchange_node + time.exchange_network)
    experts = 1e6 * (time.experts_node + time.experts_network)
    linear = 1e6 * (time.gemm + time.elementwise)
    parts = [
        ("projections", 0.25 * linear),
        (names.A2A_PRE, 0.75 * exchange),
        (names.ATTENTION, 1e6 * time.attention),
        (names.LINEAR_ATTENTION, 1e6 * time.recurrence),
        (names.A2A_POST, 0.25 * exchange),
        ("projection and MLP", 0.75 * linear),
        (names.DISPATCH, 0.5 * experts),
        (names.COMBINE, 0.5 * experts),
    ]
    total = sum(duration for _, duration in parts)
    spans = [_span(f"{name} layer {index}", clock, total, _COMPUTE)]
    for part, duration in reversed(parts) if backward else parts:
        if duration:
            spans.append(_span(part, clock, duration, _COMPUTE))
        clock += duration
    return spans + _beside(1e6 * time.exchange_hidden, clock - total, backward), clock


def _beside(hidden: float, begin: float, backward: bool) -> list[Event]:
    """A layer's all-to-alls that go on beside its work, one after the other from the layer's begin."""
    if not hidden:
        return []
    parts = [(names.A2A_PRE, 0.75 * hidden), (names.A2A_POST, 0.25 * hidden)]
    (first, lasting), (second, rest) = reversed(parts) if backward else parts
    return [_span(first, begin, lasting, _BESIDE), _span(second, begin + lasting, rest, _BESIDE)]


def _span(name: str, start: float, duration: float, thread: int) -> Event:
    return {
        "ph": "X",
        "name": name,
        "cat": "predicted",
        "ts": start,
        "dur": duration,
        "pid": 0,
        "tid": thread,
    }


def _named(thread: int, name: str) -> Event:
    return {"ph": "M", "name": "thread_name", "pid": 0, "tid": thread, "args": {"name": name}}
