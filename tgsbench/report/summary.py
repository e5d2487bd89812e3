"""One result as lines of text for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tgsbench import units
from tgsbench.models.spec import num_parameters
from tgsbench.report.forecast import cost_text, forecast_text, mfu_text
from tgsbench.results.rows import Row, from_result, priced
from tgsbench.safe_files import one_line
from tgsbench.schema.run import (
    CallCount,
    ExpertTokens,
    Integrity,
    Packing,
    PhasePeak,
    ReferenceVerdict,
    Result,
    Virtual,
)


def summary_lines(result: Result, price: float | None = None) -> list[str]:
    """TGS with its interval, TFLOPs by convention, memory, cost, integrity, and the published row.

    `price`, USD for an hour of one GPU, replaces that of its hardware file.
    """
    rows = [
        ("run", result.run_id),
        ("status", _status(result)),
        ("preset", _preset(result)),
        ("changed", " ".join(f"--set {shlex.quote(change)}" for change in result.changed)),
        ("model", _model(result)),
        ("engine", _engine(result)),
        ("mesh", _mesh(result)),
        ("TGS", tgs_text(result) if result.emulated is None and result.virtual is None else ""),
        *_emulated(result),
        *_virtual(result),
        ("claimed", _claimed(result)),
        ("TFLOPs", _tflops(result)),
        ("step", _step(result)),
        ("memory", _memory(result) if result.virtual is None else ""),
        ("cost", _cost(result, price)),
        ("predicted", forecast_text(result.forecast, result.tgs.median)),
        ("loss", _loss(result)),
        ("packing", _packing(result)),
        ("data", result.packing.note),
        ("experts", experts_text(result.experts)),
        ("integrity", _integrity(result)),
        ("profile", _profile(result)),
        *((f"vs {ref.source.partition(':')[0]}", _reference(ref)) for ref in result.references),
        ("slow rank", _slow_rank(result)),
        *(("warning", warning) for warning in result.warnings),
    ]
    return [f"{key:<11} {value}" for key, value in rows if value]


def next_command(result: Result) -> str:
    """What to look at next: published rows where one can be compared, else the report."""
    where = shlex.quote(one_line(result.run_dir))
    if any(ref.verdict != "not comparable" for ref in result.references):
        return f"tgsbench compare {where} published:{result.preset}"
    return f"tgsbench report {where} --html report.html"


def _cost(result: Result, price: float | None) -> str:
    """What a billion tokens take and cost; empty for a run without TGS, or on a device without a price."""
    cost = priced(from_result(result), price).cost
    if cost is None:
        return ""
    energy = "" if cost.kwh is not None else "; energy not measured"
    return f"{cost_text(cost)} a billion tokens{energy}"


def _slow_rank(result: Result) -> str:
    slow = result.slow_rank
    if slow is None:
        return ""
    cost = f"{units.duration(slow.lost_s)}, {units.percent(slow.share)} of the steps' time"
    return f"rank {slow.rank} ({slow.host or 'host unknown'}) held the others up: {cost}"


def repeats_lines(row: Row, found: Sequence[Result]) -> list[str]:
    """A group of runs that repeat one measurement: each run's TGS, their mean, the spread between them."""
    lines = [f"{'runs':<11} {len(found)}, {row.label}-1 to {row.label}-{len(found)}"]
    lines += [f"{'':<11} {r.run_id}: {r.status}, {_median(r)}" for r in found]
    if row.tgs is None:
        return [*lines, f"{'TGS':<11} not measured"]
    interval = f"{units.rate(row.ci95[0])} to {units.rate(row.ci95[1])}" if row.ci95 else "none of one run"
    lines.append(
        f"{'TGS':<11} {units.rate(row.tgs)} tokens/GPU/s  (95 % interval {interval}, of {row.repeats} runs)"
    )
    lines += [f"{'warning':<11} {remark}" for remark in row.remarks]
    lines += [f"{'disturbed':<11} {text}" for text in row.disturbances]
    return [*lines, f"{'next':<11} tgsbench compare {row.label} OTHER"]


def _median(result: Result) -> str:
    return f"TGS {units.rate(result.tgs.median)}" if result.tgs.median is not None else "not measured"


def tgs_text(result: Result) -> str:
    """Median TGS, its 95 % interval and n."""
    tgs = result.tgs
    if tgs.median is None:
        return "not measured"
    interval = "no 95 % interval below 6 samples"
    if tgs.ci95 is not None:
        interval = f"95 % interval {units.rate(tgs.ci95[0])} to {units.rate(tgs.ci95[1])}"
    return f"{units.rate(tgs.median)} tokens/GPU/s  ({interval}, n = {tgs.n})"


def _emulated(result: Result) -> list[tuple[str, str]]:
    """An emulated rank's figures: what was measured, what was added, what follows."""
    emulated = result.emulated
    if emulated is None:
        return []
    low, high = (units.duration(seconds) for seconds in emulated.layer_ci)
    share = units.percent(emulated.communication_s / emulated.step_s)
    parts = ", ".join(f"{name} {units.duration(s)}" for name, s in emulated.communication.items())
    rows = [
        (
            "layer",
            f"{units.duration(emulated.layer_s)} of computation in a micro-step ({low} to {high}, "
            f"{' and '.join(map(str, emulated.depths))} layers in turn, n = {emulated.n})",
        ),
        ("measured", f"{units.duration(emulated.compute_s)} of computation in a step of all layers"),
        (
            "modelled",
            f"{units.duration(emulated.communication_s)} of communication, {share} of the step: {parts}"
            if parts
            else _no_communication(result),
        ),
        (
            "projected",
            f"{units.rate(emulated.tgs)} tokens/GPU/s ({units.rate(emulated.tgs_low)} to "
            f"{units.rate(emulated.tgs_high)}); compare with nothing that was measured",
        ),
    ]
    if emulated.mfu is not None:
        rows.append(("", f"{units.percent(emulated.mfu)} model MFU projected"))
    if emulated.mem_projected_gib is not None:
        planned = emulated.mem_planned_gib
        against = f", planned {planned:.2f} GiB" if planned is not None else ""
        rows.append(("memory", f"{emulated.mem_projected_gib:.2f} GiB projected for all layers{against}"))
    return rows


def _virtual(result: Result) -> list[tuple[str, str]]:
    """What ranks on a virtual GPU did, and what nobody can know there."""
    virtual = result.virtual
    if virtual is None:
        return []
    whose = "all ranks; rank 0's figures" if virtual.rank is None else f"rank {virtual.rank} alone"
    return [
        ("virtual GPU", f"{virtual.gpu}, {whose}; nothing here is a measurement of speed"),
        *(("memory", _phase_peak(peak)) for peak in virtual.peaks if peak.reserved_gib > 0),
        ("", f"planned {virtual.mem_planned_gib:.2f} GiB in tensors" if virtual.mem_planned_gib else ""),
        ("launches", _launches(virtual)),
        *_clock(virtual),
        *(("kernel", f"{count.calls:>6,} {count.name}") for count in virtual.kernels[:_SHOWN_KERNELS]),
        *(("copy", f"{count.calls:>6,} {count.name}, {count.gib:.3f} GiB") for count in virtual.copies),
        *(("collective", _collective(count)) for count in virtual.collectives),
        *(("not answered", f"{name}, {times} times") for name, times in virtual.unknown_calls.items()),
        *(("problem", problem) for problem in virtual.problems),
        *(("not known", what) for what in virtual.not_known),
    ]


def _clock(virtual: Virtual) -> list[tuple[str, str]]:
    """What the clock says, marked as what it is."""
    clock = virtual.clock
    if clock is None:
        return [("clock", "no constants of this GPU, so no seconds")] if virtual.launches else []
    parts = (
        ("computing", clock.compute_s),
        ("exposed", clock.exposed_s),
        ("waiting for the host", clock.idle_s),
    )
    split = ", ".join(f"{units.percent(seconds / clock.step_s)} {what}" for what, seconds in parts)
    return [
        (
            "clock",
            f"{units.rate(clock.tgs)} tokens/GPU/s projected ({units.rate(clock.tgs_low)} to "
            f"{units.rate(clock.tgs_high)}), a step of {units.duration(clock.step_s)}: {split}",
        ),
        ("", f"trace {clock.trace}" if clock.trace else ""),
    ]


_SHOWN_KERNELS = 5


def _phase_peak(peak: PhasePeak) -> str:
    allocated = f"{peak.allocated_gib:.2f} GiB in tensors, " if peak.allocated_gib is not None else ""
    return f"{peak.phase}: {allocated}{peak.reserved_gib:.2f} GiB reserved at the peak"


def _launches(virtual: Virtual) -> str:
    if not virtual.launches:
        return ""
    each = f" ({virtual.launches // virtual.micro_steps:,} a micro-step)" if virtual.micro_steps > 1 else ""
    rate = f", {units.rate(virtual.launches_per_s)}/s" if virtual.launches_per_s else ""
    return (
        f"{virtual.launches:,} in an optimizer step{each}, {virtual.gemms:,} products of "
        f"{virtual.gemm_tflop:,.1f} TFLOP, {units.duration(virtual.host_s)} of host time{rate}, "
        f"{virtual.host_waits:,} waits for the device"
    )


def _collective(count: CallCount) -> str:
    planned = [f"{count.calls_expected:,} calls"] if count.calls_expected is not None else []
    planned += [f"{count.gib_expected:.3f} GiB"] if count.gib_expected is not None else []
    against = f" (predicted {', '.join(planned)})" if planned else ""
    return f"{count.calls:>6,} {count.name} over {count.group}, {count.gib:.3f} GiB{against}"


def _no_communication(result: Result) -> str:
    alone = result.world_size == 1 or bool(result.forecast and result.forecast.time)
    return "no communication" if alone else "nothing: communication has no forecast here and counts as 0"


def _status(result: Result) -> str:
    reason = f": {result.failure.reason}" if result.failure else ""
    return f"{result.status}{reason}"


def _model(result: Result) -> str:
    if result.model is None:
        return ""
    billions = num_parameters(result.model) / 1e9
    size = f"{billions:.2f} B" if billions >= 0.1 else f"{1000 * billions:.2f} M"
    return f"{result.model.name}, {size} parameters in {result.model.num_layers} layers"


def _preset(result: Result) -> str:
    mask = "document mask" if result.document_mask else "causal over the whole pack"
    text = f"{result.preset}, {units.length(result.seq_len)} tokens, {mask}, corpus {result.corpus}"
    return f"{text}  [REHEARSAL: shrunken, compare with nothing]" if result.rehearsal_of else text


def _tflops(result: Result) -> str:
    figures = ", ".join(f"{units.rate(value)} {name}" for name, value in result.tflops.items())
    if not figures:
        return ""
    mfu = mfu_text(result.mfu, result.mfu_bf16)
    return f"{figures} ({f'MFU {mfu}' if mfu else 'no MFU: no peak known for this device'})"


def _claimed(result: Result) -> str:
    """Another system's own figures, in its words."""
    figures = (result.claimed or {}).items()
    told = [f"{value:,.6g} ({name})" for name, value in figures]
    return f"{'; '.join(told)}, as {result.engine} counts" if told else ""


def _step(result: Result) -> str:
    if result.step_s.median is None:
        return ""
    return f"{units.duration(result.step_s.median)} for {result.tokens_per_step:,} tokens over all ranks"


def _memory(result: Result) -> str:
    if result.mem.peak_gib is None:
        return ""
    kind = "allocated at the peak" if result.mem.kind == "cuda" else "resident"
    return f"{result.mem.peak_gib:.2f} GiB {kind}, largest rank"


def _loss(result: Result) -> str:
    if result.loss.first is None or result.loss.last is None:
        return ""
    return f"{result.loss.first:.4f} -> {result.loss.last:.4f}"


def experts_text(experts: ExpertTokens | None) -> str:
    """How unevenly tokens went to experts, and what decided it; empty without experts."""
    if experts is None:
        return ""
    rank = f", the busiest rank {experts.busiest_rank:.2f}" if experts.busiest_rank is not None else ""
    how = "uniform: tokens are dealt in turn" if experts.routing == "uniform" else "by the router's weights"
    return f"a layer's busiest was sent {experts.busiest_expert:.2f} times the mean{rank} ({how})"


def _packing(result: Result) -> str:
    packing = result.packing
    if not packing.num_documents:
        return ""
    return (
        f"{packing.num_documents:,} documents in {packing.num_full:,} full and "
        f"{packing.num_short:,} short packs, "
        f"{units.percent(packing.share_lost)} lost, {units.percent(packing.share_padded)} padding"
        f"{_long_documents(packing)}"
    )


def _long_documents(packing: Packing) -> str:
    """What became of documents longer than a sequence."""
    if not packing.num_long:
        return ""
    done = f"{packing.tokens_left_out:,} tokens left out" if packing.tokens_left_out else "in pieces"
    return f"; {units.counted(packing.num_long, 'document')} longer than a pack, {done}"


def _engine(result: Result) -> str:
    text = f"{result.engine}, attention {result.attention}, checkpointing {result.checkpointing}"
    emulated = ", emulated" if result.device == "cpu" else ""
    return f"{text}, {result.linear} products of projections{emulated}" if result.linear else text


def _mesh(result: Result) -> str:
    sharing = f", {result.sharing}" if result.sharing else ""
    return f"{result.world_size} ranks on {result.device}: dp {result.dp} x sp {result.sp}{sharing}"


def _integrity(result: Result) -> str:
    integrity = result.integrity
    damaged = f"; {integrity.damaged}" if integrity.damaged else ""
    if integrity.problems:
        return "FAILED: " + "; ".join(integrity.problems) + damaged
    if integrity.tokens_ok is None:
        return ""
    unknown = f"; not checked: {'; '.join(integrity.not_checked)}" if integrity.not_checked else ""
    return (
        f"ok: {integrity.tokens_seen:,} distinct tokens, {integrity.a2a_calls:,} all-to-alls, "
        f"{units.size(integrity.a2a_bytes)}{_apart(integrity)}, as predicted{unknown}{damaged}"
    )


def _apart(integrity: Integrity) -> str:
    """What is sent beside the all-to-alls of every sequence-parallel run, where there is any."""
    kinds = (
        (integrity.ring_calls, "messages of a ring", integrity.ring_bytes),
        (integrity.expert_calls, "of experts", integrity.expert_bytes),
        (integrity.hop_calls, "of keys and values between nodes", integrity.hop_bytes),
        (integrity.gather_calls, "gathers", integrity.gather_bytes),
        (integrity.scatter_calls, "reduce-scatters", integrity.scatter_bytes),
        (integrity.copy_calls, "sums over copies", integrity.copy_bytes),
    )
    return "".join(f", {calls:,} {what}, {units.size(sent)}" for calls, what, sent in kinds if calls)


def _profile(result: Result) -> str:
    if result.profile is None:
        return ""
    traces = result.profile.traces
    size = units.size(sum(trace.num_bytes for trace in traces))
    export_s = max((trace.export_s for trace in traces), default=0.0)
    if not traces:
        return "no trace was written"
    text = f"{units.counted(len(traces), 'trace')}, {size}, written in {units.duration(export_s)}"
    ratio = result.profile.over_measured
    return text + (f"; a profiled step takes {ratio:.2f} of a measured one" if ratio else "")


def _reference(ref: ReferenceVerdict) -> str:
    published = units.as_published(ref.tgs) if ref.tgs is not None else "out of memory"
    ratio = f" ({ref.ratio:.3f}x)" if ref.ratio is not None else ""
    reasons = f": {'; '.join(ref.reasons)}" if ref.reasons else ""
    return f"{ref.verdict}{ratio}, published {published}{reasons}"
