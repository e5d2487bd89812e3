"""A measured step of a virtual rank on the clock: its seconds, its TGS, what of it is exposed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tgsbench.errors import TgsError
from tgsbench.metrics import figures
from tgsbench.planner.plan import machine_of, pick_kernel
from tgsbench.planner.workload import work_of
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import VirtualClock
from tgsbench.virtual_gpu.clock import DeviceWork, Timeline, simulate
from tgsbench.virtual_gpu.durations import Durations
from tgsbench.virtual_gpu.log import Kind, Record

_STRAGGLERS = "stragglers"


def project(
    preset: Preset, gpu: str, everything: Sequence[Record], step: Sequence[Record]
) -> Timeline | None:
    """One step on the clock; None where no constants are known.

    Attention takes the time of the kernel that the preset names, or of the one that the planner picks for
    `auto`: which one is fastest cannot be measured here. `everything` has the communicators, `step` the calls
    between the synchronisations of one optimizer step.
    """
    try:
        machine = machine_of(preset, gpu)
        if machine.constants is None:
            return None
        work = work_of(preset, pick_kernel(preset, machine.constants))
        return simulate(step, Durations(work, machine, everything))
    except TgsError:  # an attention kernel that was never measured on this GPU
        return None


def clocked(preset: Preset, line: Timeline, forecast: Forecast | None, error_share: float) -> VirtualClock:
    """Figures of a step's timeline; the slowest rank's share is the planner's."""
    straggling = _straggling(forecast)
    step_s = line.total_s * (1.0 + straggling)
    tgs = figures.tgs_of_gpu(preset.tokens_per_step / preset.world_size, step_s)
    computing = [span for span in line.spans if span.record.kind != Kind.COLLECTIVE]
    compute_s, busy_s = covered_s(computing), covered_s(line.spans)
    return VirtualClock(
        step_s=step_s,
        tgs=tgs,
        tgs_low=tgs * (1 - error_share),
        tgs_high=tgs * (1 + error_share),
        compute_s=compute_s,
        exposed_s=busy_s - compute_s,
        idle_s=max(0.0, line.total_s - busy_s),
        stragglers_s=line.total_s * straggling,
        host_s=line.host_s,
        by_kind=_by_kind(line.spans),
    )


def covered_s(spans: Iterable[DeviceWork]) -> float:
    """Seconds in which at least one of the spans goes on."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.begin_s):
        total += max(0.0, span.end_s - max(span.begin_s, until))
        until = max(until, span.end_s)
    return total


def kind_of(record: Record) -> str:
    """What a piece of work is called in sums."""
    if record.kind == Kind.COLLECTIVE:
        return record.name
    if record.kind == Kind.GEMM:
        return "products"
    if record.kind in (Kind.COPY, Kind.MEMSET):
        return "copies"
    return "attention" if "flash" in record.name or "fmha" in record.name else "element-wise"


def _by_kind(spans: Sequence[DeviceWork]) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for span in spans:
        seconds[kind_of(span.record)] += span.end_s - span.begin_s
    return dict(sorted(seconds.items(), key=lambda pair: -pair[1]))


def _straggling(forecast: Forecast | None) -> float:
    """What the planner adds for the slowest rank, as a share of the step without it."""
    times = forecast.time if forecast else {}
    waiting = times.get(_STRAGGLERS, 0.0)
    rest = sum(times.values()) - waiting
    return waiting / rest if rest > 0 else 0.0
