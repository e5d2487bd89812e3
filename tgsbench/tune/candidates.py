"""What can be tried: every way to train that the planner knows, and why the rest was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tgsbench.metrics import figures
from tgsbench.planner.machine import Machine
from tgsbench.planner.memory import MemoryPlan, memory_plan
from tgsbench.planner.plan import Estimate, pick_kernel, speed_range, timed
from tgsbench.planner.search import assignments_of, variants
from tgsbench.planner.verdict import breaking_item, host_fits
from tgsbench.planner.workload import StepWorkload, work_of
from tgsbench.schema.forecast import TgsRange
from tgsbench.schema.preset import Preset
from tgsbench.systems import registry
from tgsbench.units import GIB

MEMORY_INTERVAL = 0.06
"""Planned memory may be this share too high: what is planned further above the card is not tried."""
MOST = 400
"""Candidates that are kept, the best planned ones: more cannot be told apart within any budget."""


class TunedSetting(Struct, frozen=True, kw_only=True):
    """One way to train, with what is planned for it."""

    knobs: dict[str, str]
    """What a search changes, by key of the preset."""
    preset: Preset
    forecast: TgsRange | None = None
    """None: no constants of this hardware."""
    memory_gib: float = 0.0
    card_share: float = 0.0
    """Planned memory over the card's; 0 where that is not known."""
    is_tight: bool = False
    """So near the card's memory that it may cost speed, or not fit."""

    @property
    def key(self) -> str:
        """Its name in a journal: all assignments."""
        return " ".join(self.change)

    @property
    def change(self) -> list[str]:
        """Assignments for --set."""
        return [f"{key}={value}" for key, value in self.knobs.items()]


class Space(Struct, frozen=True, kw_only=True):
    """What is worth a trial, the best planned first, and what is not."""

    candidates: list[TunedSetting]
    dropped: dict[str, int]
    """Why -> how many."""
    num_planned: int


def space_of(
    preset: Preset, machine: Machine, engines: Sequence[str] = (), fixed: Collection[str] = ()
) -> Space:
    """Plan every variant of a preset, on `engines` (all that are described where none is named).

    The keys in `fixed` keep the preset's values.

    Left out is what is out of memory beyond the plan's interval, what a usual host cannot hold, and what is
    planned slower than the best beyond both intervals.
    """
    found, dropped, num_planned = [], Counter[str](), 0
    kernel, on_cpu = pick_kernel(preset, machine.constants), machine.gpu.name == "cpu"
    own = _knobs(preset)
    for variant in _crossed(preset, engines, on_cpu):
        if any(_knobs(variant).get(key) != own.get(key) for key in fixed):
            continue
        num_planned += 1
        work = work_of(variant, kernel, on_cpu=on_cpu)
        memory = memory_plan(work)
        if why := _no_room(work, memory, machine):
            dropped[why] += 1
            continue
        found.append(_candidate(variant, timed(work, machine, memory)))
    kept = _worth_a_trial(found, dropped)
    return Space(candidates=kept, dropped=dict(dropped.most_common()), num_planned=num_planned)


def _crossed(preset: Preset, engines: Sequence[str], on_cpu: bool) -> Iterator[Preset]:
    """What a search tries, and each compiled and not where the engine can compile on this device."""
    for variant in variants(preset):
        if engines and variant.engine.name not in engines:
            continue
        yield variant
        if not on_cpu and not variant.engine.compile and variant.engine.name == registry.DEFAULT.name:
            yield replace(variant, engine=replace(variant.engine, compile=True))


def _no_room(work: StepWorkload, memory: MemoryPlan, machine: Machine) -> str:
    """Why a plan cannot hold, beyond its interval; empty where it may."""
    share = figures.memory_fraction(memory.peak.total, machine.gpu)
    if share is not None and share > 1 + MEMORY_INTERVAL:
        return f"out of GPU memory: {breaking_item(memory).replace('_', ' ')}"
    return "" if host_fits(memory, min(work.world, work.gpus_per_node)) else "out of host memory"


def _candidate(preset: Preset, numbers: Estimate) -> TunedSetting:
    total, gpu = numbers.memory.peak.total, numbers.machine.gpu
    return TunedSetting(
        knobs=_knobs(preset),
        preset=preset,
        forecast=speed_range(numbers)[0],
        memory_gib=total / GIB,
        card_share=figures.memory_fraction(total, gpu) or 0.0,
        is_tight=numbers.verdict in ("tight", "out of memory"),
    )


def _knobs(preset: Preset) -> dict[str, str]:
    assignments = assignments_of(preset) + (["engine.compile=true"] if preset.engine.compile else [])
    return dict(assignment.split("=", 1) for assignment in assignments)


def _worth_a_trial(found: list[TunedSetting], dropped: Counter[str]) -> list[TunedSetting]:
    """Candidates whose interval reaches the best one's, fastest first; all where no speed is planned."""
    if any(candidate.forecast is None for candidate in found):
        return found
    found.sort(key=lambda c: -c.forecast.estimate if c.forecast else 0.0)
    sure = max((c.forecast.low for c in found if c.forecast and c.card_share <= 1), default=0.0)
    kept = [c for c in found if c.forecast and c.forecast.high >= sure]
    dropped["planned slower than another beyond both intervals"] += len(found) - len(kept)
    dropped[f"not among the {MOST} best planned"] += max(0, len(kept) - MOST)
    for why in [why for why, count in dropped.items() if not count]:
        del dropped[why]
    return kept[:MOST]
