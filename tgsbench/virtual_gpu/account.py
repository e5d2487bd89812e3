"""What ranks on a virtual GPU did, from what the device wrote down and what the ranks said."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from tgsbench.errors import TgsError
from tgsbench.external import observed
from tgsbench.metrics.integrity import (
    expected_all_to_alls,
    expected_expert_exchanges,
    expected_kv_hops,
    expected_ring_sends,
    shard_collectives,
)
from tgsbench.planner.machine import find_constants
from tgsbench.planner.memory import CONTEXT_BYTES, MemoryPlan, memory_plan
from tgsbench.planner.network import gathered_bytes, shard_bytes
from tgsbench.planner.plan import machine_of, pick_kernel
from tgsbench.planner.workload import work_of
from tgsbench.schema.events import Event, Kernel, Phase, Step
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import CallCount, Manifest, PhasePeak, Virtual, VirtualClock
from tgsbench.systems.fsdp_units import is_sharded_by_fsdp
from tgsbench.systems.kv_hops import kv_nodes
from tgsbench.units import GIB
from tgsbench.virtual_gpu.log import Kind, Record, log_path, read_log
from tgsbench.virtual_gpu.projection import clocked, project
from tgsbench.virtual_gpu.trace import write_trace

NOT_KNOWN = [
    "values: nothing is computed, so losses, gradients and overflow say nothing",
    "seconds: a device takes none here; the clock's are the planner's for what this run launched and sent",
    "which attention kernel is fastest: `auto` takes the first that runs, the clock the planner's pick",
    "reserved memory is a best case: blocks that wait for a stream come back at once",
]
OF_OTHERS_NOT_KNOWN = [
    "what other ranks would have sent: groups on CPUs and objects are answered with this rank's own",
    "labels at the loss (a mask chooses everything), and a peak of one phase: memory is the most so far",
    "a clock: it knows our kernels alone",
]
"""Of another system's rank."""
_LAUNCHES = (Kind.KERNEL, Kind.GEMM, Kind.COPY, Kind.MEMSET, Kind.COLLECTIVE)
_MOST_NAMES = 40
_NAME_CHARACTERS = 160
_PLAN_SHARE = 0.03
"""By how much a plan of memory may miss what the allocator held."""


class CountedSteps(Struct, frozen=True):
    """One optimizer step of a rank, in the log's time."""

    begin_ns: int
    end_ns: int


def account(folder: Path, manifest: Manifest, preset: Preset, events: Sequence[Event]) -> Virtual | None:
    """Figures of the first rank that ran, from the device's logs in `folder`; None on real devices."""
    if manifest.virtual is None:
        return None
    rank = manifest.started_ranks[0]
    own = [event for event in events if event.rank == rank]
    records = list(read_log(log_path(folder, rank)))
    found = Virtual(gpu=manifest.virtual.gpu, rank=manifest.virtual.rank, micro_steps=preset.accumulation)
    found.peaks = _peaks(own, [] if preset.is_external else records)
    found.mem_planned_gib = _planned_gib(manifest, preset, own)
    found.unknown_calls = dict(Counter(r.name for r in records if r.kind == Kind.UNKNOWN))
    found.not_known = list(NOT_KNOWN)
    windows = _windows(folder, rank, preset, own, records)
    if windows:
        _count_step(found, preset, records, windows)
        if not preset.is_external:  # the clock knows our kernels, and a step that ends with a wait
            found.clock = _clock(folder, manifest, preset, records, windows[-1])
    if preset.is_external:
        found.not_known += OF_OTHERS_NOT_KNOWN
    else:
        found.problems = _problems(found)
    return found


def _planned_gib(manifest: Manifest, preset: Preset, events: Sequence[Event]) -> float | None:
    """The planner's tensors at the peak, for the attention that ran: `auto` never takes cuDNN here."""
    if manifest.forecast is None:
        return None
    ran = next((event.name for event in events if isinstance(event, Kernel)), "")
    if not ran:
        return manifest.forecast.memory.tensors_gib
    return planned_on_device(preset, ran).tensor_bytes / GIB


def planned_on_device(preset: Preset, ran: str) -> MemoryPlan:
    """Memory of a rank whose attention runs by the kernel of this name: torch's own is FlashAttention 2."""
    return memory_plan(work_of(preset, _PLANNED_AS.get(ran, ran)))


_PLANNED_AS = {"sdpa": "flash2", "varlen": "flash2"}


def _clock(
    folder: Path,
    manifest: Manifest,
    preset: Preset,
    records: Sequence[Record],
    window: CountedSteps,
) -> VirtualClock | None:
    """The last measured step on the clock, written as a trace beside the log."""
    assert manifest.virtual is not None
    gpu, rank = manifest.virtual.gpu, manifest.started_ranks[0]
    line = project(preset, gpu, records, inside(records, window))
    constants = find_constants(gpu)
    if line is None or constants is None or not line.total_s:
        return None
    found = clocked(preset, line, manifest.forecast, constants.error_share)
    ranks = {record.args[0]: record.args[1] for record in records if record.kind == Kind.COMMUNICATOR}
    path = folder / f"rank{rank:05d}.pt.trace.json.gz"
    with contextlib.suppress(OSError):  # a folder that takes nothing more still has its figures
        write_trace(path, line, rank, preset.world_size, ranks, preset.measure.warmup)
        found.trace = f"{folder.name}/{path.name}"
    return found


def _windows(
    folder: Path, rank: int, preset: Preset, events: Sequence[Event], records: Sequence[Record]
) -> list[CountedSteps]:
    """The measured steps: by their own events, or as the observer inside another system's rank saw them."""
    if preset.is_external:
        seen = observed.windows_ns(folder.parent / observed.FOLDER, rank)
        return [CountedSteps(*window) for window in seen[preset.measure.warmup :]]
    steps = [event for event in events if isinstance(event, Step) and event.phase == "measure"]
    return [window for step in steps if (window := step_window(step, records))]


def step_window(step: Step, records: Sequence[Record]) -> CountedSteps | None:
    """From the step's own seconds back from the device synchronisation that ended it; None without one."""
    told_ns = int(step.t * 1e9)
    ends = (r.t_ns for r in records if r.kind == Kind.SYNCHRONIZE and r.args[0] == 0 and r.t_ns <= told_ns)
    end_ns = max(ends, default=0)
    return CountedSteps(end_ns - int(step.step_s * 1e9), end_ns) if end_ns else None


def inside(records: Iterable[Record], window: CountedSteps) -> list[Record]:
    """Records of one step."""
    return [record for record in records if window.begin_ns <= record.t_ns <= window.end_ns]


def _peaks(events: Sequence[Event], records: Sequence[Record]) -> list[PhasePeak]:
    """Peak of each phase in its order; a phase that comes again is one."""
    found: dict[str, PhasePeak] = {}
    changes = [record for record in records if record.kind == Kind.MEMORY]
    phases = [event for event in events if isinstance(event, Phase)]
    ends = [*(phase.t for phase in phases[1:]), float("inf")]
    for phase, end_s in zip(phases, ends, strict=False):  # a rank may have ended before its first phase
        used = [r.args[0] for r in changes if phase.t <= r.t_ns / 1e9 < end_s]
        peak = found.setdefault(phase.phase, PhasePeak(phase=phase.phase))
        peak.reserved_gib = max(peak.reserved_gib, (max(used, default=0) - CONTEXT_BYTES) / GIB)
    for event in events:
        if isinstance(event, Step) and event.phase in found:
            peak = found[event.phase]
            peak.allocated_gib = max(peak.allocated_gib or 0.0, event.mem_peak / GIB)
            peak.reserved_gib = max(peak.reserved_gib, event.mem_reserved / GIB)
    return list(found.values())


def _count_step(
    found: Virtual, preset: Preset, records: Sequence[Record], windows: Sequence[CountedSteps]
) -> None:
    """Count the last measured step; processor time of each."""
    steps = [inside(records, window) for window in windows]
    last = steps[-1]
    found.host_s_by_step = [(step[-1].cpu_ns - step[0].cpu_ns) / 1e9 for step in steps if step]
    found.host_s = min(found.host_s_by_step, default=0.0)
    found.launches = sum(record.kind in _LAUNCHES for record in last)
    found.launches_per_s = found.launches / found.host_s if found.host_s else None
    found.kernels = _by_name([record for record in last if record.kind == Kind.KERNEL])
    products = [record.args for record in last if record.kind == Kind.GEMM]
    found.gemms = len(products)
    found.gemm_tflop = sum(2.0 * m * n * k * batch for m, n, k, batch in products) / 1e12
    found.copies = _by_name([r for r in last if r.kind in (Kind.COPY, Kind.MEMSET)], moved=True)
    found.host_waits = sum(
        record.kind == Kind.SYNCHRONIZE or (record.kind == Kind.COPY and record.args[2] == 1)
        for record in last
    )
    ranks = {record.args[0]: record.args[1] for record in records if record.kind == Kind.COMMUNICATOR}
    found.collectives = _collectives(last, ranks)
    if not preset.is_external:  # what another system must send is its own affair
        expect(found.collectives, preset)


def _by_name(records: Sequence[Record], *, moved: bool = False) -> list[CallCount]:
    calls = Counter(record.name for record in records)
    num_bytes: Counter[str] = Counter()
    for record in records:
        num_bytes[record.name] += record.args[0] if moved else 0
    return [
        CallCount(name=name[:_NAME_CHARACTERS], calls=count, gib=num_bytes[name] / GIB)
        for name, count in calls.most_common(_MOST_NAMES)
    ]


def _collectives(records: Sequence[Record], ranks: dict[int, int]) -> list[CallCount]:
    """Whole-tensor bytes by kind and group; several sends of one group call are one all-to-all.

    A single one is a message round a ring.
    """
    sends = Counter((r.thread, r.args[2]) for r in records if r.kind == Kind.COLLECTIVE and r.name == "send")
    calls: dict[tuple[str, int], set[tuple[int, int]]] = defaultdict(set)
    num_bytes: Counter[tuple[str, int]] = Counter()
    for record in records:
        if record.kind != Kind.COLLECTIVE or record.name == "receive":
            continue
        size, communicator, call, _ = record.args
        name = record.name
        if name == "send":
            name = "ring" if sends[record.thread, call] == 1 else "all_to_all"
        key = name, ranks.get(communicator, 0)
        calls[key].add((record.thread, call))
        num_bytes[key] += size * key[1] if name == "all_gather" else size
    return [
        CallCount(name=name, group=f"{size} ranks", calls=len(made), gib=num_bytes[name, size] / GIB)
        for (name, size), made in sorted(calls.items())
    ]


def expect(collectives: Sequence[CallCount], preset: Preset) -> None:
    """Write beside each kind what the shapes and the planner demand of it in an optimizer step."""
    if is_sharded_by_fsdp(preset):
        _expect_shards(collectives, preset)
    else:
        _expect_planned(collectives, preset)
    demanded = _demanded_exchanges(preset)
    for count in collectives:
        if count.name == "all_to_all" and count.group in demanded:
            calls, num_bytes = demanded[count.group]
            count.calls_expected, count.gib_expected = calls, num_bytes / GIB
    messages = [count for count in collectives if count.name == "ring"]
    sends, sent_bytes = expected_ring_sends(preset)
    if messages and sends:
        messages[0].calls_expected, messages[0].gib_expected = sends, sent_bytes / GIB


def _demanded_exchanges(preset: Preset) -> dict[str, tuple[int, int]]:
    """Calls and bytes of all-to-alls by the size of their group: of Ulysses, its two hops, and of experts."""
    found: dict[str, tuple[int, int]] = {}
    nodes, (hops, hop_bytes) = kv_nodes(preset), expected_kv_hops(preset)
    inside = preset.ulysses // nodes
    # Inside a node as many keys and values go as would have gone straight: a head for each rank.
    copied = hops and hop_bytes * preset.ulysses // max(preset.model.num_kv_heads, nodes)
    all_calls, all_bytes = expected_all_to_alls(preset)
    of_groups = (
        (preset.ulysses, (all_calls - hops, all_bytes - copied)),
        (nodes, (hops, hop_bytes)),
        (inside, (hops, copied)),
        (preset.parallel.ep, expected_expert_exchanges(preset)),
    )
    for ranks, (calls, num_bytes) in of_groups:
        if calls:
            before = found.get(f"{ranks} ranks", (0, 0))
            found[f"{ranks} ranks"] = before[0] + calls, before[1] + num_bytes
    return found


def _expect_shards(collectives: Sequence[CallCount], preset: Preset) -> None:
    """Calls and bytes of what FSDP sends, by kind and by how many ranks take part."""
    for found in collectives:
        of_group = [
            each
            for each in shard_collectives(preset)
            if (each.kind, f"{each.ranks} ranks") == (found.name, found.group)
        ]
        calls = sum(each.calls for each in of_group)
        # Where copies are as many as the ranks of one, the norm of all gradients goes round as many, too.
        is_mixed = found.name == "all_reduce" and preset.shard**2 == preset.world_size
        if calls and not is_mixed:
            found.calls_expected = calls
            found.gib_expected = sum(each.num_bytes for each in of_group) / GIB


def _expect_planned(collectives: Sequence[CallCount], preset: Preset) -> None:
    """Whole-tensor bytes of an optimizer step's gathers and scatters as the planner has them."""
    with contextlib.suppress(TgsError):
        work = work_of(preset, pick_kernel(preset, machine_of(preset).constants))
        planned = {"all_gather": gathered_bytes(work), "reduce_scatter": shard_bytes(work).scatter}
        for kind, num_bytes in planned.items():
            of_kind = [count for count in collectives if count.name == kind and count.group != "1 ranks"]
            if of_kind and num_bytes:
                of_kind[-1].gib_expected = preset.accumulation * num_bytes / GIB


def _problems(found: Virtual) -> list[str]:
    problems = []
    measured = [peak.allocated_gib for peak in found.peaks if peak.phase == "measure"]
    peak = next((gib for gib in measured if gib), 0.0)  # a run that ended early did not reach its peak
    if found.mem_planned_gib and peak and abs(peak / found.mem_planned_gib - 1) > _PLAN_SHARE:
        problems.append(
            f"{peak:.2f} GiB in tensors at the peak where {found.mem_planned_gib:.2f} were planned"
        )
    return problems + [
        f"{count.calls:,} {count.name} calls where {count.calls_expected:,} must be"
        for count in found.collectives
        if count.calls_expected not in (None, count.calls)
    ]
