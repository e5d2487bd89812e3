"""From one rank's times at several depths to the step of the whole mesh."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import UNSET, Struct
from msgspec.structs import replace

from tgsbench.metrics import figures, stats
from tgsbench.metrics.integrity import (
    expected_all_to_alls,
    expected_copy_sums,
    expected_gathers,
    expected_kv_hops,
    expected_ring_sends,
    expected_scatters,
)
from tgsbench.presets.catalog import find_gpu
from tgsbench.schema.events import Depth
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Emulation
from tgsbench.units import GIB

COMMUNICATION = (
    "all_to_all_node",
    "all_to_all_network",
    "ring_exposed",
    "experts_node",
    "experts_network",
    "gather_exposed",
    "gather_step",
    "stragglers",
)
"""Items of the planner's step time that one process cannot show."""
_COMMUNICATION_ERROR = 0.4
"""Datasheet rates of links may be off by this share: the planner's own error bar for networks."""


class _Line(Struct, frozen=True):
    """Seconds of one repetition: fixed + layers · each."""

    micro_fixed_s: float
    micro_layer_s: float
    step_fixed_s: float
    step_layer_s: float


def emulation(
    preset: Preset,
    events: Iterable[Depth],
    forecast: Forecast | None,
    device: str,
    seen_len: float,
) -> Emulation | None:
    """Project one rank's measurement; None below two depths. `seen_len`: what attention sees per token.

    Each repetition timed all depths in turn, so each gives one line through its depths and one projection;
    the interval is that of the projections (order statistics from 6 on, all of them below), widened by 40 %
    of the communication either way.
    """
    by_depth = _by_depth(events)
    if len(by_depth) < 2:
        return None
    lines = _lines(by_depth)
    communication = _communication(forecast)
    comm_s = sum(communication.values())
    compute_s = [_compute_s(preset, line) for line in lines]
    low_s, high_s = _interval(compute_s)
    tokens_per_gpu = preset.tokens_per_step / preset.world_size
    step_s = statistics.median(compute_s) + comm_s
    tgs = figures.tgs_of_gpu(tokens_per_gpu, step_s)
    tflops = figures.tflops_by_convention(preset.model, seen_len, preset.training.checkpointing, tgs)
    return Emulation(
        depths=sorted(by_depth),
        n=len(lines),
        layer_s=statistics.median(line.micro_layer_s for line in lines),
        layer_ci=_interval([line.micro_layer_s for line in lines]),
        micro_fixed_s=statistics.median(line.micro_fixed_s for line in lines),
        optimizer_s=statistics.median(_optimizer_s(preset, line) for line in lines),
        compute_s=statistics.median(compute_s),
        communication_s=comm_s,
        communication=communication,
        step_s=step_s,
        tgs=tgs,
        tgs_low=figures.tgs_of_gpu(tokens_per_gpu, high_s + comm_s * (1 + _COMMUNICATION_ERROR)),
        tgs_high=figures.tgs_of_gpu(tokens_per_gpu, low_s + comm_s * (1 - _COMMUNICATION_ERROR)),
        tflops=tflops,
        mfu=figures.mfu(tflops["model"], find_gpu(device), preset.linear),
        problems=_problems(preset, by_depth, forecast),
        mem_measured_gib=_peaks_gib(preset, by_depth),
        mem_projected_gib=_projected_gib(preset, by_depth),
        mem_planned_gib=forecast.memory.tensors_gib if forecast else None,
    )


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least-squares line through (x, y): intercept and slope."""
    mean_x, mean_y = (statistics.fmean(axis) for axis in zip(*points, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y - slope * mean_x, slope


def _by_depth(events: Iterable[Depth]) -> dict[int, list[Depth]]:
    """Events of the largest model built, whose repetition all depths completed."""
    found: dict[int, list[Depth]] = {}
    every = list(events)
    built = min((e.built_layers for e in every), default=0)  # fewer after an attempt that ran out of memory
    for event in every:
        if event.built_layers == built:
            found.setdefault(event.num_layers, []).append(event)
    whole = min((len(events) for events in found.values()), default=0)
    return {depth: events[:whole] for depth, events in found.items() if whole}


def _lines(by_depth: Mapping[int, list[Depth]]) -> list[_Line]:
    lines = []
    for repetition in zip(*by_depth.values(), strict=True):
        micro = fit([(e.num_layers, e.micro_step_s) for e in repetition])
        step = fit([(e.num_layers, e.optimizer_s) for e in repetition])
        lines.append(_Line(*micro, *step))
    return lines


def _compute_s(preset: Preset, line: _Line) -> float:
    micro_s = line.micro_fixed_s + preset.model.num_layers * line.micro_layer_s
    return preset.accumulation * micro_s + _optimizer_s(preset, line)


def _optimizer_s(preset: Preset, line: _Line) -> float:
    return line.step_fixed_s + preset.model.num_layers * line.step_layer_s


def _interval(samples: Sequence[float]) -> tuple[float, float]:
    return stats.median_ci95(samples) or (min(samples), max(samples))


def _communication(forecast: Forecast | None) -> dict[str, float]:
    times = forecast.time if forecast else {}
    return {name: times[name] for name in COMMUNICATION if times.get(name)}


def _peaks_gib(preset: Preset, by_depth: Mapping[int, list[Depth]]) -> dict[int, float]:
    """Peak by depth; none on a CPU, whose resident set says nothing about tensors."""
    if preset.hardware.device != "cuda":
        return {}
    return {depth: max(e.mem_peak for e in events) / GIB for depth, events in by_depth.items()}


def _projected_gib(preset: Preset, by_depth: Mapping[int, list[Depth]]) -> float | None:
    """Peak with all layers: activations grow by the slope, states by what a layer's shard holds.

    The slope is that of memory at one moment, the end of the forward: peaks of two depths may lie at
    different moments, and say nothing of a layer together. Gradients of all layers are there from the second
    micro-step on, a third of what parameters and two moments take; the measured one has none beside them.
    """
    peaks = _peaks_gib(preset, by_depth)
    if not peaks:
        return None
    _, slope = fit(list(_growing_gib(by_depth, peaks).items()))
    deepest = max(by_depth)
    event = by_depth[deepest][0]
    num_layers, shard_gib = preset.model.num_layers, event.state_bytes_per_layer / GIB
    gradients = num_layers * shard_gib / 3 if preset.accumulation > 1 and event.mem_forward else 0.0
    states = (num_layers - event.built_layers) * shard_gib
    return peaks[deepest] + (num_layers - deepest) * slope + states + gradients


def _growing_gib(by_depth: Mapping[int, list[Depth]], peaks: dict[int, float]) -> dict[int, float]:
    """Memory at the end of the forward by depth; runs from before it was told have their peaks."""
    at_end = {depth: max(e.mem_forward for e in events) / GIB for depth, events in by_depth.items()}
    return at_end if all(at_end.values()) else peaks


def _problems(preset: Preset, by_depth: Mapping[int, list[Depth]], forecast: Forecast | None) -> list[str]:
    """What keeps the projection from being believed."""
    problems = []
    for depth, events in by_depth.items():
        shallow = _of_depth(preset, depth)
        for what, ran, wanted in _traffic(shallow, events):
            if any(of_step != wanted for of_step in ran):
                problems.append(f"{depth} layers did not make the {wanted[0]} {what} that they must")
        if not all(e.finite for e in events):
            problems.append(
                f"{depth} layers gave a loss or gradients that are not finite: their time says nothing"
            )
    if not (forecast and forecast.time) and preset.world_size > 1:
        problems.append("no forecast of time for this hardware: communication counts as 0")
    if any(line.micro_layer_s <= 0 for line in _lines(by_depth)):
        problems.append("a repetition was slower with fewer layers: the machine is too noisy or busy")
    return problems


def _of_depth(preset: Preset, num_layers: int) -> Preset:
    """The first layers of a preset in one micro-step: what a repetition runs."""
    model, training = preset.model, preset.training
    return replace(
        preset,
        model=replace(model, num_layers=num_layers),
        training=replace(training, accumulation=1),
    )


def _traffic(
    preset: Preset, events: Sequence[Depth]
) -> Iterator[tuple[str, list[tuple[int, int]], tuple[int, int]]]:
    """What each repetition sent, by kind, and what it must: calls and bytes."""
    yield "all-to-alls", [(e.a2a_calls, e.a2a_bytes) for e in events], expected_all_to_alls(preset)
    yield "messages of a ring", [(e.ring_calls, e.ring_bytes) for e in events], expected_ring_sends(preset)
    between = [(e.hop_calls, e.hop_bytes) for e in events]
    yield "all-to-alls of keys and values between nodes", between, expected_kv_hops(preset)
    if any(e.gather_calls is UNSET for e in events):  # stored before these were counted
        return
    has_more = any(e.num_layers < e.built_layers for e in events)
    gathers = [(e.gather_calls or 0, e.gather_bytes) for e in events]
    yield "gathers", gathers, expected_gathers(preset, has_more)
    yield "reduce-scatters", [(e.scatter_calls, e.scatter_bytes) for e in events], expected_scatters(preset)
    yield "sums over copies", [(e.copy_calls, e.copy_bytes) for e in events], expected_copy_sums(preset)
