"""Events to result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from tgsbench import units
from tgsbench.metrics import figures, integrity, physical, reference, stats, written_twice
from tgsbench.metrics.emulation import emulation
from tgsbench.metrics.expert_tokens import expert_tokens
from tgsbench.metrics.failure import root_cause
from tgsbench.metrics.observe import RunTotals
from tgsbench.metrics.spread import oddities
from tgsbench.metrics.step_total import StepTotal
from tgsbench.metrics.thinned import Thinned
from tgsbench.presets.catalog import find_gpu, load_references
from tgsbench.presets.work import work_digest
from tgsbench.schema.environment import Environment
from tgsbench.schema.events import Data
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import (
    Capture,
    CapturedTrace,
    Integrity,
    LauncherReport,
    Manifest,
    Memory,
    Outcome,
    Packing,
    RankWaitedFor,
    Result,
    Status,
    StepTime,
    Tgs,
)
from tgsbench.units import GIB


def build_result(
    manifest: Manifest,
    preset: Preset,
    observed: RunTotals,
    outcome: Outcome | None,
    launcher: LauncherReport | None,
    environment: Environment,
    stack_texts: Mapping[int, str] | None = None,
    preset_digest: str = "",
    num_skipped: int = 0,
    incomplete_files: Sequence[str] = (),
) -> Result:
    """Derive everything that can be said about a run that is over.

    `preset_digest`: of the preset.toml that it came from. `num_skipped`: lines of its event files that were
    passed over. `incomplete_files`: names of those that lack lines, or the end of their last.
    """
    steps = observed.complete("measure", len(manifest.started_ranks))
    result = _described(manifest, preset, observed, environment)
    if manifest.virtual is not None:
        _virtual(result, preset, manifest, steps, observed)
    else:
        _measure(result, preset, steps, observed)
    if result.sp_spans_nodes:
        result.warnings.append(
            f"sp {result.sp} crosses machines ({', '.join(result.hosts)}): its all-to-alls use the network"
        )
    result.profile = _capture(observed, manifest.world_size, result.step_s)
    result.failure = root_cause(observed, outcome, launcher, manifest.started_ranks, stack_texts)
    whole = not (preset.is_external or manifest.emulated or manifest.virtual)
    if result.failure is None and whole:
        written_twice.check_files(manifest, preset, preset_digest, observed, result.integrity)
    result.warnings += written_twice.differing_versions(observed)
    _mark_damage(result, num_skipped, observed.num_repeated, incomplete_files)
    result.slow_rank = _slow_rank(observed, manifest.world_size)
    result.status = _status(result, outcome)
    if manifest.virtual is not None and result.status == "ok":
        result.status = "virtual"
    if manifest.emulated:
        _emulated(result, preset, observed)
    return result


def _mark_damage(
    result: Result, num_skipped: int, num_repeated: int, incomplete_files: Sequence[str]
) -> None:
    """Say what the figure does not rest on."""
    found = [units.counted(num_skipped, "line") + " of no known kind, damaged or doubled"] * (num_skipped > 0)
    found += [units.counted(num_repeated, "report") + " of a step that had one"] * (num_repeated > 0)
    told = [f"passed over in the event files: {', '.join(found)}"] * bool(found)
    told += [f"lines are missing, or cut off, in {_names(incomplete_files)}"] * bool(incomplete_files)
    if told:
        result.integrity.damaged = "; ".join(told)
        result.warnings.append(result.integrity.damaged)


def _names(files: Sequence[str]) -> str:
    """The first of so many files."""
    more = len(files) - _NAMED_FILES
    return ", ".join(files[:_NAMED_FILES]) + (f" and {more:,} more" if more > 0 else "")


_NAMED_FILES = 4


def _slow_rank(observed: RunTotals, world_size: int) -> RankWaitedFor | None:
    """Who held the others up longest; None: nobody did."""
    found = observed.waits.worst() if world_size > 1 else None
    if found is None:
        return None
    rank, lost_s, share = found
    hello = observed.hellos.get(rank)
    return RankWaitedFor(rank=rank, host=hello.host if hello else "", lost_s=lost_s, share=share)


def throughput(steps: Sequence[StepTotal], world_size: int) -> Tgs:
    """TGS of each step, its median with a 95 % interval, and Σ tokens / Σ time.

    TGS = real tokens / (GPUs · wall seconds) over whole optimizer steps, slowest rank.
    """
    samples, tokens, time_s = Thinned(), 0, 0.0
    for step in steps:
        tokens, time_s = tokens + step.tokens, time_s + step.step_s
        if (rate := figures.tgs(step.tokens, world_size, step.step_s)) is not None:
            samples.append(rate)
    return summarize(samples, tokens, time_s, world_size)


def summarize(samples: Sequence[float], tokens: int, time_s: float, world_size: int) -> Tgs:
    """Median, interval and total of TGS samples that cover `tokens` over all ranks in `time_s`."""
    return Tgs(
        median=stats.median(samples),
        ci95=stats.median_ci95(samples),
        n=len(samples),
        samples=list(samples),
        total=figures.tgs(tokens, world_size, time_s),
    )


def attended_len(preset: Preset, data: Data | None) -> float:
    """Length that attention sees per token: the pack, or Σ len² / Σ len under a document mask."""
    if preset.workload.document_mask and data is not None and data.attended_len:
        return data.attended_len
    return float(preset.workload.seq_len)


def _emulated(result: Result, preset: Preset, observed: RunTotals) -> None:
    """One rank alone: a projection, which is compared with nothing."""
    seen = attended_len(preset, observed.data)
    result.emulated = emulation(preset, observed.depths, result.forecast, result.device, seen)
    for verdict in result.references:
        verdict.verdict, verdict.reasons = (
            "not comparable",
            ["one rank was emulated, not the cluster measured"],
        )
    if result.emulated is not None:
        result.warnings += result.emulated.problems
        if result.status == "ok":
            result.status = "emulated"


def _virtual(
    result: Result, preset: Preset, manifest: Manifest, steps: Sequence[StepTotal], observed: RunTotals
) -> None:
    """Ranks on a virtual GPU: what they held and sent is real, what a device computes is not there."""
    result.mem = _memory(steps, observed, preset.hardware.device)
    if not preset.is_external:
        result.integrity = integrity.check_exchanges(preset, steps, len(manifest.started_ranks))


def _described(manifest: Manifest, preset: Preset, observed: RunTotals, environment: Environment) -> Result:
    hello = observed.hellos.get(manifest.started_ranks[0])
    kernel = observed.kernel.name if observed.kernel else preset.engine.kernel
    versions = dict(hello.versions) if hello else {}
    return Result(
        run_id=manifest.run_id,
        status="running",
        preset=manifest.preset,
        engine=manifest.engine,
        device=hello.device if hello else manifest.device,
        world_size=manifest.world_size,
        dp=preset.dp,
        sp=preset.parallel.sp,
        sharing=preset.sharing,
        seq_len=preset.workload.seq_len,
        document_mask=preset.workload.document_mask,
        attention=f"{preset.engine.name if preset.is_external else preset.attention}/{kernel}",
        checkpointing=preset.training.checkpointing,
        corpus=observed.data.corpus if observed.data else preset.workload.corpus,
        accumulation=preset.accumulation,
        micro_batch=preset.training.micro_batch,
        compute_dtype=preset.training.compute_dtype,
        linear=preset.linear,
        model=preset.model,
        rehearsal_of=preset.rehearsal_of,
        work=work_digest(preset),
        changed=list(manifest.changed),
        repeat_of=manifest.repeat_of,
        start_up_s=_start_up_s(manifest, observed),
        tokens_per_step=preset.tokens_per_step,
        forecast=manifest.forecast,
        claimed=dict(observed.claimed.figures) if observed.claimed else None,
        claimed_tgs=(observed.claimed.tgs or None) if observed.claimed else None,
        claimed_basis=observed.claimed.basis if observed.claimed else "",
        packing=_packing(observed),
        experts=expert_tokens(observed.routing, preset.training.routing),
        warnings=[w.msg for w in observed.warnings] + [text for _, text in _throttles(observed)],
        disturbances=_disturbances(observed),
        hosts=observed.hosts(),
        sp_spans_nodes=_sp_spans_nodes(observed, preset.parallel.sp),
        created_unix=manifest.created_unix,
        environment=replace(environment, versions=versions),
    )


def _start_up_s(manifest: Manifest, observed: RunTotals) -> float | None:
    """None where a clock is missing, or was set back between."""
    passed_s = observed.first_step_unix - manifest.created_unix
    return passed_s if observed.first_step_unix and manifest.created_unix and passed_s > 0 else None


_POWER_CAP = "power cap"
"""A GPU at its power limit is what full load looks like: worth saying, no disturbance."""


def _throttles(observed: RunTotals) -> list[tuple[str, str]]:
    """Why GPU clocks were held down, most frequent first, each with a sentence."""
    return [
        (reason, f"GPU clocks were held down in {count / observed.num_gpu_samples:.0%} of samples: {reason}")
        for reason, count in observed.throttled.most_common()
    ]


def _disturbances(observed: RunTotals) -> list[str]:
    """What makes this a figure of a disturbed machine: foreign load, foreign processes, heat."""
    foreign = [w.msg for w in observed.warnings if w.code.startswith("disturbed")]
    return foreign + [text for reason, text in _throttles(observed) if reason != _POWER_CAP]


def _sp_spans_nodes(observed: RunTotals, sp: int) -> bool:
    """Does a sequence-parallel group, sp consecutive ranks, have ranks on more than one machine?"""
    hosts: dict[int, str] = {}
    return any(hosts.setdefault(rank // sp, h.host) != h.host for rank, h in observed.hellos.items())


def _measure(result: Result, preset: Preset, steps: Sequence[StepTotal], observed: RunTotals) -> None:
    result.tgs = throughput(steps, result.world_size)
    times = Thinned()
    losses = result.loss
    for step in steps:
        losses.first = losses.first if times else step.loss
        losses.last = step.loss
        times.append(step.step_s)
    result.warnings += _thinning(times) + oddities(times, "step" if times.stride == 1 else "sampled step")
    result.step_s = StepTime(median=stats.median(times), samples=list(times))
    result.power_w = observed.power.mean_w
    result.mem = _memory(steps, observed, preset.hardware.device)
    padded = observed.data.tokens_padded if observed.data else 0
    result.integrity = Integrity() if preset.is_external else integrity.check(preset, steps, padded)
    if result.tgs.median is not None:
        result.tflops = figures.tflops_by_convention(
            preset.model,
            attended_len(preset, observed.data),
            preset.training.checkpointing,
            result.tgs.median,
        )
        gpu = find_gpu(result.device)
        result.mfu = figures.mfu(result.tflops["model"], gpu, preset.linear)
        result.mfu_bf16 = figures.mfu(result.tflops["model"], gpu) if preset.linear else None
    if not preset.is_external and steps:
        _check_physics(result, preset, observed)
    rows = load_references().get(preset.rehearsal_of or preset.name, [])
    result.references = [
        reference.compare_with_published(preset, result.device, result.tgs, row) for row in rows
    ]
    if result.references:
        result.reference = result.references[0]


def _thinning(times: Thinned) -> list[str]:
    """What a figure of more steps than are kept rests on."""
    if times.stride == 1:
        return []
    return [
        f"median and interval are those of {len(times):,} of {times.num_told:,} measured steps, one drawn "
        f"from each {times.stride}"
    ]


def _check_physics(result: Result, preset: Preset, observed: RunTotals) -> None:
    measured = physical.Measured(
        preset=preset,
        steps=observed.complete("", result.world_size),
        gpu=find_gpu(result.device),
        device=result.device,
        mfu=result.mfu,
        clocks=observed.clocks,
        packs=observed.packs,
        first_steps=observed.first_steps,
        longest_wait=observed.waits.longest,
        num_packs=observed.data.num_full + observed.data.num_short if observed.data else 0,
    )
    physical.check_physics(measured, result.integrity)


def _memory(steps: Sequence[StepTotal], observed: RunTotals, device: str) -> Memory:
    if not steps:
        return Memory()
    ranks = sorted(observed.measured_peak_by_rank)
    peak = allocated = reserved = 0
    for step in steps:
        peak = max(peak, step.mem_peak)
        allocated, reserved = max(allocated, step.mem_alloc), max(reserved, step.mem_reserved)
    return Memory(
        peak_gib=peak / GIB,
        allocated_gib=allocated / GIB,
        reserved_gib=reserved / GIB,
        kind="cuda" if device == "cuda" else "rss",
        by_rank_gib=[observed.measured_peak_by_rank[rank] / GIB for rank in ranks],
    )


def _capture(observed: RunTotals, world_size: int, measured: StepTime) -> Capture | None:
    """What the capture cost: profiled steps against measured ones, sizes, export times."""
    steps = observed.complete("profile", world_size)
    if not steps:
        return None
    profiled_s = stats.median([s.step_s for s in steps])
    ratio = profiled_s / measured.median if profiled_s and measured.median else None
    traces = [
        CapturedTrace(rank=t.rank, file=t.path, num_bytes=t.num_bytes, export_s=t.export_s, steps=t.steps)
        for t in observed.traces
    ]
    return Capture(num_steps=len(steps), step_s=profiled_s, over_measured=ratio, traces=traces)


def _packing(observed: RunTotals) -> Packing:
    data = observed.data
    if data is None:
        return Packing()
    packed = data.num_tokens + data.tokens_padded
    return Packing(
        num_full=data.num_full,
        num_short=data.num_short,
        mean_pack_tokens=data.mean_pack_tokens,
        share_lost=data.tokens_lost / data.num_tokens if data.num_tokens else 0.0,
        share_padded=data.tokens_padded / packed if packed else 0.0,
        num_documents=data.num_documents,
        num_long=data.num_long,
        tokens_left_out=data.tokens_left_out,
        note=data.note,
    )


_STATUS_BY_KIND: dict[str, Status] = {
    "oom": "oom",
    "host_oom": "oom",
    "nan": "invalid",
    "refused": "refused",
    "cancelled": "cancelled",
    "preempted": "preempted",
    "stalled": "stalled",
}


def _status(result: Result, outcome: Outcome | None) -> Status:
    if result.failure is not None:
        return _STATUS_BY_KIND.get(result.failure.kind, "crashed")
    integrity = result.integrity
    if False in (integrity.tokens_ok, integrity.a2a_ok, integrity.physical_ok, integrity.files_ok):
        return "invalid"
    return "ok"
