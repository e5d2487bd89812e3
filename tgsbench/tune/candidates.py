"""What can be tried: every way to train that the planner knows, and why the rest was left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tgsbench.metrics import figures
from tgsbench.planner.machine import CPU, Machine
from tgsbench.planner.memory import MemoryPlan, memory_plan
from tgsbench.planner.nominal import nominal_machine
from tgsbench.planner.plan import Estimate, pick_kernel, speed_range, timed
from tgsbench.planner.search import assignments_of, variants
from tgsbench.planner.time import StepEstimate
from tgsbench.planner.verdict import breaking_item, host_fits, item_in_words
from tgsbench.planner.workload import StepWorkload, work_of
from tgsbench.schema.forecast import TgsRange
from tgsbench.schema.preset import Preset
from tgsbench.systems import registry
from tgsbench.units import GIB

MEMORY_INTERVAL = 0.06
"""Planned memory may be this share too high: what is planned further above the card is not tried."""
MOST = 400
"""Candidates that are kept, the best planned ones: more cannot be told apart within any budget."""
_KINDS_OF_WORK = (
    ("gemm", "head"),
    ("attention_forward", "attention_recompute", "attention_backward"),
    ("linear_attention",),
    ("elementwise", "loss"),
    ("all_to_all_node", "all_to_all_network", "ring_exposed"),
    ("gather_exposed", "gather_copies", "gather_step"),
    ("host", "step_overhead"),
    ("optimizer", "offload"),
)
"""Items of a planned step whose rates are wrong together."""


class TunedSetting(Struct, frozen=True, kw_only=True):
    """One way to train, with what is planned for it."""

    knobs: dict[str, str]
    """What a search changes, by key of the preset."""
    preset: Preset
    forecast: TgsRange | None = None
    """None: no constants of this hardware."""
    counted_log: float = 0.0
    """Logarithm of the planned TGS; without constants of that which counted work would have at guessed rates:
    it orders settings and is no figure."""
    time_shares: tuple[float, ...] = ()
    """Of the step as planned, by kind of work; they add up to 1 but for stragglers."""
    usd_per_hour: float = 0.0
    """Price of one GPU; 0: not known."""
    price_log: float = 0.0
    """Its logarithm where settings are ranked by tokens for a price; 0: by TGS alone."""
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


class LongestSeen(Struct, frozen=True, kw_only=True):
    """The longest sequence, in tokens, and what that rests on."""

    seq_len: int | None
    """None: none has trained yet."""
    too_long: int | None = None
    """The shortest that was tried and did not train; None: none did not."""
    change: list[str]
    """The way that it was tried with: the leanest as planned, as assignments for --set."""
    is_measured: bool
    """Did it train, or is it planned to fit?"""
    why: str = ""
    """Why no longer one was tried."""


class Space(Struct, frozen=True, kw_only=True):
    """What is worth a trial, the best planned first, and what is not."""

    candidates: list[TunedSetting]
    dropped: dict[str, int]
    """Why -> how many."""
    num_planned: int
    longest: LongestSeen | None = None
    """The length at which all this is, where the longest was looked for."""


class Base(Struct, frozen=True, kw_only=True):
    """A preset whose variants are planned on a machine."""

    preset: Preset
    machine: Machine
    tried: dict[str, str] = {}
    """Values that only this one of several bases has, by key."""
    by_price: bool = False
    """Are settings ranked by tokens for the price of an hour of one GPU?"""


def space_of(
    preset: Preset, machine: Machine, engines: Sequence[str] = (), fixed: Collection[str] = ()
) -> Space:
    """Plan every variant of one preset; see `space_over`."""
    return space_over([Base(preset=preset, machine=machine)], engines, fixed)


def space_over(bases: Sequence[Base], engines: Sequence[str] = (), fixed: Collection[str] = ()) -> Space:
    """Plan every variant of these presets, on `engines` (all that are described where none is named).

    The keys in `fixed` keep each preset's values. Left out is what is out of memory beyond the plan's
    interval, what a usual host cannot hold, and what is planned slower than the best beyond both intervals.
    Where no speed can be planned, all that fits is ordered by counted work.
    """
    found, dropped, num_planned = [], Counter[str](), 0
    for base in bases:
        allows = allowed(base, engines, fixed)
        rates = nominal_machine(base.machine, base.preset)
        for variant in filter(allows, _crossed(base.preset, rates.gpu.name == CPU.name)):
            num_planned += 1
            setting = _planned(base, variant, rates)
            if isinstance(setting, str):
                dropped[setting] += 1
            else:
                found.append(setting)
    kept = _worth_a_trial(found, dropped)
    return Space(candidates=kept, dropped=dict(dropped.most_common()), num_planned=num_planned)


def allowed(base: Base, engines: Sequence[str] = (), fixed: Collection[str] = ()) -> Callable[[Preset], bool]:
    """May a variant be tried where only `engines` may and the keys in `fixed` keep the preset's values?"""
    own, on_cpu = _knobs(base.preset), base.machine.gpu.name == CPU.name
    held = {key: own.get(key) for key in (*fixed, *base.tried)}

    def allows(variant: Preset) -> bool:
        if engines and variant.engine.name not in engines:
            return False
        if on_cpu and _offloads_more(variant, base.preset):
            return False  # into the memory that it comes from
        knobs = _knobs(variant)
        return all(knobs.get(key) == value for key, value in held.items())

    return allows


def setting_of(preset: Preset, machine: Machine) -> TunedSetting | str:
    """One way to train with what is planned for it, or why it cannot hold."""
    return _planned(Base(preset=preset, machine=machine), preset, nominal_machine(machine, preset))


def _planned(base: Base, variant: Preset, rates: Machine) -> TunedSetting | str:
    on_cpu = rates.gpu.name == CPU.name
    work = work_of(variant, pick_kernel(variant, rates.constants), on_cpu=on_cpu)
    memory = memory_plan(work)
    return _no_room(work, memory, rates) or _setting(base, variant, timed(work, rates, memory))


def _crossed(preset: Preset, on_cpu: bool) -> Iterator[Preset]:
    """What a search tries, and each compiled and not where the engine can compile on this device."""
    for variant in variants(preset, every_ring=True):
        yield variant
        can_compile = not (on_cpu or variant.engine.compile or variant.engine.sequence_chunks > 1)
        if can_compile and variant.engine.name == registry.DEFAULT.name:
            yield replace(variant, engine=replace(variant.engine, compile=True))


def _offloads_more(variant: Preset, preset: Preset) -> bool:
    """Is anything put into host memory that the preset itself leaves where it is?"""
    asked, own = ((one.engine.offload, one.engine.activation_offload) for one in (variant, preset))
    return asked not in (own, ("none", False))


def _no_room(work: StepWorkload, memory: MemoryPlan, machine: Machine) -> str:
    """Why a plan cannot hold, beyond its interval; empty where it may."""
    share = figures.memory_fraction(memory.peak.total, machine.gpu)
    if share is not None and share > 1 + MEMORY_INTERVAL:
        whose = "a rank's" if machine.gpu.name == CPU.name else "GPU"
        return f"out of {whose} memory: {item_in_words(breaking_item(memory))}"
    return "" if host_fits(memory, min(work.world, work.gpus_per_node)) else "out of host memory"


def _setting(base: Base, preset: Preset, numbers: Estimate) -> TunedSetting:
    assert numbers.tgs is not None and numbers.time is not None
    total, gpu = numbers.memory.peak.total, numbers.machine.gpu
    return TunedSetting(
        knobs=base.tried | _knobs(preset),
        preset=preset,
        forecast=speed_range(numbers)[0] if base.machine.constants is not None else None,
        counted_log=math.log(numbers.tgs),
        time_shares=_time_shares(numbers.time),
        usd_per_hour=gpu.price_usd_per_hour,
        price_log=math.log(gpu.price_usd_per_hour) if base.by_price else 0.0,
        memory_gib=total / GIB,
        card_share=figures.memory_fraction(total, gpu) or 0.0,
        is_tight=numbers.verdict in ("tight", "out of memory"),
    )


def _time_shares(time: StepEstimate) -> tuple[float, ...]:
    """Of a step's seconds, by what they are spent on."""
    return tuple(sum(time.items.get(name, 0.0) for name in names) / time.step_s for names in _KINDS_OF_WORK)


def _knobs(preset: Preset) -> dict[str, str]:
    assignments = assignments_of(preset) + (["engine.compile=true"] if preset.engine.compile else [])
    return dict(assignment.split("=", 1) for assignment in assignments)


def _worth_a_trial(found: list[TunedSetting], dropped: Counter[str]) -> list[TunedSetting]:
    """Candidates whose interval reaches the best one's, fastest first; all where no speed is planned."""
    found.sort(key=lambda c: c.price_log - c.counted_log)
    sure = max(
        (_worth(c, c.forecast.low) for c in found if c.forecast and c.card_share <= 1), default=-math.inf
    )
    kept = [c for c in found if c.forecast is None or _worth(c, c.forecast.high) >= sure]
    dropped["planned slower than another beyond both intervals"] += len(found) - len(kept)
    by_what = "planned" if all(c.forecast for c in kept) else "by counted work"
    dropped[f"not among the {MOST} best {by_what}"] += max(0, len(kept) - MOST)
    for why in [why for why, count in dropped.items() if not count]:
        del dropped[why]
    return kept[:MOST]


def _worth(candidate: TunedSetting, tgs: float) -> float:
    """Logarithm of what settings are ranked by."""
    return math.log(tgs) - candidate.price_log
