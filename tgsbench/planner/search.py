"""Rank every feasible way to train a model, and find the longest sequence that fits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tgsbench.errors import ExitCode, TgsError
from tgsbench.metrics import figures
from tgsbench.planner.interval import TIGHT_SHARE
from tgsbench.planner.machine import Machine
from tgsbench.planner.memory import MemoryPlan, memory_plan
from tgsbench.planner.plan import RING_KERNEL, Estimate, pick_kernel, timed, why_no_time
from tgsbench.planner.verdict import host_fits, verdict_of
from tgsbench.planner.workload import StepWorkload, work_of
from tgsbench.presets.sequence_chunks import fewest_chunks, least_tokens, most_chunks
from tgsbench.presets.validate import mesh_problems, valid_rings, valid_sp
from tgsbench.schema.forecast import Cost, Verdict
from tgsbench.schema.preset import EngineOptions, Parallel, Preset, Training
from tgsbench.systems import registry
from tgsbench.systems.zero import ZeroOptions
from tgsbench.units import GIB

_MODES = ("full", "selective", "none")
"""Of checkpointing, the one that needs least memory first."""
_MICRO_BATCHES = (1, 2, 4, 8, 16)
MAX_SEQ_LEN = 2**30
"""Lengths beyond are not searched: no model has positions for them."""


class Candidate(Struct, frozen=True, kw_only=True):
    """One way to train, ranked by predicted TGS; a tight one by what it has for certain."""

    engine: str
    zero_stage: int
    offload: str
    """Optimizer states, or everything, in host memory."""
    activation_offload: bool
    tiled_mlp: bool
    sp: int
    dp: int
    ring: int = 1
    """Members of the ring in sp."""
    shard: int = 0
    """GPUs that share one copy; 0: all."""
    ep: int = 1
    """GPUs that share out the experts."""
    sequence_chunks: int = 1
    """Chunks of the sequence that a layer takes one after the other."""
    micro_batch: int
    checkpointing: str
    tgs: float
    step_s: float
    total_gib: float
    host_gib: float
    verdict: Verdict
    card_share: float = 0.0
    """Planned memory over the card's."""
    cost: Cost | None = None
    change: list[str]
    """Assignments for --set."""

    @property
    def sure_tgs(self) -> float:
        """TGS less what a tight memory may cost: what candidates are ranked by."""
        return self.tgs * (1 - TIGHT_SHARE if self.verdict == "tight" else 1.0)


class Found(Struct, frozen=True, kw_only=True):
    """What a search looked at and what fits, fastest first."""

    num_tried: int
    candidates: list[Candidate]


class LongestForecast(Struct, frozen=True, kw_only=True):
    """The longest sequence that fits, and how."""

    seq_len: int
    best: Candidate


def search(preset: Preset, machine: Machine) -> Found:
    """Try every (engine, offload, sp, micro-batch, checkpointing) on the preset's model, length and GPUs.

    Raises TgsError when the hardware has no constants to rank by.
    """
    if machine.constants is None:
        why, remedy = why_no_time(preset, machine)
        raise TgsError(f"{why}: nothing to rank by", hint=remedy, exit_code=ExitCode.UNKNOWN_HARDWARE)
    num_tried, fitting, kernel = 0, [], pick_kernel(preset, machine.constants)
    in_ring = RING_KERNEL if any(s.kernel == RING_KERNEL for s in machine.constants.attention) else kernel
    too_large = set()
    for variant in variants(preset):
        num_tried += 1
        # Memory only grows with the micro-batch, and variants come with the smallest first.
        way = (variant.engine, variant.parallel, variant.training.checkpointing)
        if way in too_large:
            continue
        in_blocks = variant.ring > 1 or variant.engine.sequence_chunks > 1
        work = work_of(variant, in_ring if in_blocks else kernel)
        memory = memory_plan(work)
        if _holds(work, memory, machine):
            fitting.append(_candidate(variant, timed(work, machine, memory)))
        else:
            too_large.add(way)
    fitting.sort(key=lambda candidate: (-candidate.sure_tgs, candidate.total_gib))
    return Found(num_tried=num_tried, candidates=fitting)


def variants(preset: Preset, *, every_ring: bool = False) -> Iterator[Preset]:
    """Every variant of a preset that breaks no rule; `every_ring` with rings inside a node too."""
    engines = [
        registry.change_engine(preset.engine, spec.name, switches)
        for spec in registry.engines()
        if spec.costs
        for switches in spec.variants
    ]
    meshes = _meshes(preset, every_ring)
    trainings = [
        replace(preset.training, micro_batch=micro_batch, checkpointing=mode)
        for micro_batch in _micro_batches(preset)
        for mode in _MODES
    ]
    for engine, parallel in itertools.product(engines, meshes):
        if (parallel.ring and not engine.has_ring) or (parallel.shard and not engine.has_copies):
            continue
        if parallel.ep > 1 and not engine.has_expert_parallel:
            continue
        # What a mode or a micro-batch breaks no rule can see, so the rules are asked once a mesh.
        first = replace(preset, engine=engine, parallel=parallel)
        if mesh_problems(first):
            continue
        ways = [first, *_in_chunks(first)]
        yield from (
            replace(one, training=training)
            for one, training in itertools.product(ways, trainings)
            if _sensible(one.engine, training)
        )


def _in_chunks(preset: Preset) -> list[Preset]:
    """The same in few and in many chunks, where it saves all else that it can and is long enough."""
    engine = preset.engine
    if not (engine.activation_offload and engine.tiled_mlp):
        return []
    counts = {fewest_chunks(preset), most_chunks(preset)} - {1}
    ways = [replace(preset, engine=replace(engine, sequence_chunks=chunks)) for chunks in sorted(counts)]
    full = replace(preset.training, checkpointing="full")
    return [way for way in ways if not mesh_problems(replace(way, training=full))]


def _meshes(preset: Preset, every_ring: bool) -> list[Parallel]:
    """Every sp, with the ring that is chosen for it and one across the nodes, with and without copies."""
    world, node = preset.world_size, preset.hardware.gpus_per_node
    shards = (0, node) if world > node and not world % node else (0,)
    found = []
    for sp in valid_sp(replace(preset, parallel=replace(preset.parallel, ring=0))):
        rings = {0, sp // node} if sp > node and not sp % node else {0}
        if every_ring:
            rings |= _rings(preset, sp)
        found += [Parallel(sp=sp, ring=ring, shard=shard) for ring in sorted(rings) for shard in shards]
        found += [Parallel(sp=sp, ep=ep) for ep in _expert_ranks(preset)]
    return found


def _rings(preset: Preset, sp: int) -> set[int]:
    """Rings beside the one that is chosen for this sp, whose Ulysses ranks stay inside a node."""
    engine = registry.change_engine(preset.engine, registry.DEFAULT.name, {})
    chosen = replace(preset, engine=engine, parallel=Parallel(sp=sp))
    node = preset.hardware.gpus_per_node
    return {ring for ring in valid_rings(chosen) if ring not in (1, chosen.ring) and sp // ring <= node}


def _expert_ranks(preset: Preset) -> list[int]:
    """Where there are experts: over how many GPUs of a node to share them out, and over those asked for."""
    if preset.model.experts is None:
        return []
    both = math.gcd(preset.model.experts.num, preset.world_size)
    asked, node = preset.parallel.ep, preset.hardware.gpus_per_node
    return [ep for ep in range(2, both + 1) if not both % ep and (ep == asked or not node % ep)]


def _sensible(engine: EngineOptions, training: Training) -> bool:
    """Without checkpoints there is nothing to offload, and no layer takes chunks."""
    saves = engine.activation_offload or engine.sequence_chunks > 1
    return not (saves and training.checkpointing == "none")


def max_seq_len(preset: Preset, machine: Machine) -> LongestForecast:
    """The longest multiple of 1,024 tokens that some variant fits, and the fastest variant there.

    Raises TgsError when not even the shortest length fits, or the hardware has no constants to rank by.
    """
    longest = leanest_at_longest(preset, machine).workload.seq_len
    return LongestForecast(seq_len=longest, best=search(_at(preset, longest), machine).candidates[0])


def leanest_at_longest(
    preset: Preset, machine: Machine, allows: Callable[[Preset], bool] = lambda _: True
) -> Preset:
    """The longest multiple of 1,024 tokens that some variant fits, as the variant that needs least there.

    Only what it `allows` is looked at. Each sp has lengths of its own, those that it divides, and on these
    memory only grows with length: a bisection for each finds it. In chunks it grows over whole ones, between
    which a length of many divisors is looked for. Raises TgsError when not even the shortest length fits.
    """
    best, leanest = 0, _leanest(preset, allows)

    def in_chunks(variant: Preset) -> list[Preset]:
        return [chunked for chunked in _in_chunks(variant) if allows(chunked)]

    for sp in sorted({variant.parallel.sp for variant in leanest}, reverse=True):
        here = [variant for variant in leanest if variant.parallel.sp == sp]
        best = max(best, _longest(here, math.lcm(1024, 2 * sp), best, machine))
        for step in (sp * least_tokens(here[0]), sp * 1024):
            best = max(best, _longest(here, step, best, machine, in_chunks))
    if best == 0:
        raise TgsError(
            f"{preset.model.name} does not fit {preset.world_size} x {machine.gpu.name} at any length",
            hint="use more GPUs: --num-gpus",
            exit_code=ExitCode.DOES_NOT_FIT,
        )
    at_best = [_at(variant, best) for variant in leanest]
    at_best = [variant for variant in at_best if not mesh_problems(variant)]
    at_best += [chunked for variant in at_best for chunked in in_chunks(variant)]
    return min((variant for variant in at_best if _fits(variant, machine)), key=_peak)


def _leanest(preset: Preset, allows: Callable[[Preset], bool]) -> list[Preset]:
    """The variants that need least memory, for any length: every sp that the heads and GPUs allow."""
    found = [variant for variant in variants(_at(preset, 1024 * preset.world_size)) if allows(variant)]
    least = min(map(_needs, found), default=None)
    return [variant for variant in found if _needs(variant) == least]


def _needs(variant: Preset) -> tuple[int, int]:
    """What its memory grows with on any mesh."""
    return variant.training.micro_batch, _MODES.index(variant.training.checkpointing)


def _longest(
    found: Sequence[Preset],
    step: int,
    least: int,
    machine: Machine,
    ways: Callable[[Preset], list[Preset]] = lambda variant: [variant],
) -> int:
    """The longest multiple of `step` that one of these variants fits; 0 when none beyond `least` does.

    `ways`: what is tried of a variant at a length.
    """

    def fits(length: int) -> bool:
        return any(_fits(way, machine) for variant in found for way in ways(_at(variant, length)))

    low, high = least // step, least // step + 1
    if not fits(high * step):
        return 0
    while high * step < MAX_SEQ_LEN and fits(high * step):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle)
    return low * step


def _at(preset: Preset, seq_len: int) -> Preset:
    return replace(preset, workload=replace(preset.workload, seq_len=seq_len))


def _peak(preset: Preset) -> float:
    return memory_plan(work_of(preset, preset.engine.kernel)).peak.total


def _fits(preset: Preset, machine: Machine) -> bool:
    work = work_of(preset, preset.engine.kernel)
    return _holds(work, memory_plan(work), machine)


def _holds(work: StepWorkload, memory: MemoryPlan, machine: Machine) -> bool:
    """On the card, and what is offloaded on a usual host."""
    ranks = min(work.world, work.gpus_per_node)
    return verdict_of(memory, machine.gpu) != "out of memory" and host_fits(memory, ranks)


def _micro_batches(preset: Preset) -> tuple[int, ...]:
    return tuple(sorted({*_MICRO_BATCHES, preset.training.micro_batch}))


def _candidate(preset: Preset, numbers: Estimate) -> Candidate:
    assert numbers.time is not None and numbers.tgs is not None
    engine = preset.engine
    return Candidate(
        engine=engine.name,
        zero_stage=engine.zero_stage,
        offload=engine.offload,
        activation_offload=engine.activation_offload,
        tiled_mlp=engine.tiled_mlp,
        sp=preset.parallel.sp,
        dp=preset.dp,
        ring=preset.ring,
        shard=preset.parallel.shard,
        ep=preset.parallel.ep,
        sequence_chunks=engine.sequence_chunks,
        micro_batch=preset.training.micro_batch,
        checkpointing=preset.training.checkpointing,
        tgs=numbers.tgs,
        step_s=numbers.time.step_s,
        total_gib=numbers.memory.peak.total / GIB,
        host_gib=numbers.memory.host_bytes / GIB,
        verdict=numbers.verdict,
        card_share=figures.memory_fraction(numbers.memory.peak.total, numbers.machine.gpu) or 0.0,
        cost=figures.cost_of(numbers.tgs, numbers.machine.gpu.price_usd_per_hour),
        change=assignments_of(preset),
    )


def assignments_of(preset: Preset) -> list[str]:
    """What a search changes of a preset, as assignments for --set."""
    engine = preset.engine
    sets = [
        f"engine.name={engine.name}",
        f"parallel.sp={preset.parallel.sp}",
        *([f"parallel.ring={preset.ring}"] if preset.ring > 1 else []),
        *([f"parallel.shard={preset.parallel.shard}"] if preset.parallel.shard else []),
        *([f"parallel.ep={preset.parallel.ep}"] if preset.parallel.ep > 1 else []),
        f"training.micro_batch={preset.training.micro_batch}",
        f"training.checkpointing={preset.training.checkpointing}",
    ]
    if isinstance(engine, ZeroOptions) or engine.zero_stage != 3:
        sets.append(f"engine.zero_stage={engine.zero_stage}")
    sets += [f"engine.offload={engine.offload}"] if engine.offload != "none" else []
    sets += [f"engine.sequence_chunks={engine.sequence_chunks}"] if engine.sequence_chunks > 1 else []
    sets += ["engine.activation_offload=true"] if engine.activation_offload else []
    return sets + (["engine.tiled_mlp=true"] if engine.tiled_mlp else [])
