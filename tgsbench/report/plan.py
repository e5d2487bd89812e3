"""A plan, a search and a scaling table in lines for people."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tgsbench import units
from tgsbench.report.forecast import cost_text, mfu_text
from tgsbench.schema.forecast import Advice, Forecast, TgsRange
from tgsbench.systems.registry import find_engine
from tgsbench.systems.zero import ZeroOptions
from tgsbench.units import GIB

if TYPE_CHECKING:  # a plan is none of the others
    from tgsbench.planner.calibrate import Calibration
    from tgsbench.planner.scale import ScalePoint
    from tgsbench.planner.search import Candidate, Found, LongestForecast
    from tgsbench.schema.dry_run import DryRun

_BAR = 40
_WIDTH = 110


def plan_lines(plan: Forecast) -> list[str]:
    """Verdict first, then TGS, memory and time by item with where each comes from."""
    sharing = f" ({plan.sharing})" if plan.sharing else ""
    products = f", {plan.linear} products" if plan.linear else ""
    ways = f"{plan.engine}, attention {plan.kernel}, checkpointing {plan.checkpointing}{products}"
    mesh = f"{plan.num_gpus} x {plan.gpu}: dp {plan.dp} x sp {plan.sp}{sharing}, network: {plan.link}"
    lines = [
        f"{'preset':<11} {plan.preset}, {units.length(plan.seq_len)} tokens",
        f"{'machine':<11} {mesh}",
        f"{'engine':<11} {ways}",
        f"{'verdict':<11} {plan.verdict}: {plan.reason}",
        *_speed(plan),
        *(f"{'note':<11} {note}" for note in plan.notes),
        "",
        *_memory(plan),
        "",
        *_time(plan),
    ]
    return lines + _sources(plan) + _advice(plan.advice)


def range_text(tgs: TgsRange | None) -> str:
    """TGS and its error bar."""
    if tgs is None:
        return "not predicted"
    return f"{units.rate(tgs.estimate)} ({units.rate(tgs.low)} to {units.rate(tgs.high)})"


def _speed(plan: Forecast) -> list[str]:
    if plan.tgs is None or plan.step_s is None:
        why = "none: it does not fit" if plan.verdict == "out of memory" else "not predicted"
        return [f"{'TGS':<11} {why}"]
    tflops = ", ".join(f"{units.rate(value)} {name}" for name, value in plan.tflops.items())
    text = mfu_text(plan.mfu, plan.mfu_bf16)
    mfu = f" (MFU {text})" if text else ""
    return [
        f"{'TGS':<11} {range_text(plan.tgs)} tokens/GPU/s; error bar: {plan.error_bar}",
        f"{'TFLOPs':<11} {tflops}{mfu}",
        f"{'cost':<11} {cost_text(plan.cost)} for a billion tokens",
        f"{'step':<11} {units.duration(plan.step_s)} for {plan.tokens_per_step:,} tokens over all GPUs",
    ]


def _memory(plan: Forecast) -> list[str]:
    memory = plan.memory
    lines = [f"memory of one GPU at the peak ({memory.at})"]
    for name, size in sorted(memory.items.items(), key=lambda item: -item[1]):
        lines.append(f"  {name:<20} {size:9.2f} GiB   {_formula(plan, 'memory', name)}")
    lines.append(f"  {'total':<20} {memory.total_gib:9.2f} GiB   live tensors {memory.tensors_gib:.2f}")
    if memory.host_gib:
        lines.append(f"  {'host, per node':<20} {memory.host_gib:9.2f} GiB   offloaded, pinned")
    return lines


def _time(plan: Forecast) -> list[str]:
    if plan.step_s is None:
        out = plan.verdict == "out of memory"
        return ["time: none, it does not fit" if out else "time: not planned, see the note"]
    lines = ["time of one optimizer step"]
    for name, seconds in sorted(plan.time.items(), key=lambda item: -item[1]):
        term = plan.terms.get(f"time.{name}")
        lines.append(
            f"  {name:<20} {units.duration(seconds):>9}  {_share(seconds / plan.step_s):>7}   "
            f"{term.constant if term else ''}"
        )
    lines.append(f"  {'total':<20} {units.duration(plan.step_s):>9}")
    return lines + _hidden(plan)


_EXPOSED = {"all_to_all": ("all_to_all_node", "all_to_all_network"), "gather": ("gather_exposed",)}
"""Hidden kind of communication -> the items of a step that are what of it nothing hides."""


def _hidden(plan: Forecast) -> list[str]:
    """Communication that costs no time, and what of its kind does."""
    lines = []
    for kind, seconds in plan.hidden.items():
        exposed = sum(plan.time.get(name, 0.0) for name in _EXPOSED[kind])
        text = f"beside work, {units.duration(exposed)} exposed"
        lines.append(f"  {kind + ' hidden':<20} {units.duration(seconds):>9}           {text}")
    return lines


def _share(share: float) -> str:
    return units.percent(share) if share >= 0.001 else "<0.1 %"


def _sources(plan: Forecast) -> list[str]:
    """Formula of every term of the step, and the source of its constant."""
    lines = []
    for name, _ in sorted(plan.time.items(), key=lambda item: -item[1]):
        if term := plan.terms.get(f"time.{name}"):
            text = f"{name}: {term.formula}; {term.source}"
            lines += textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="      ")
    return ["", "formula of each term; source of its constant", *lines] if lines else []


def _formula(plan: Forecast, kind: str, name: str) -> str:
    term = plan.terms.get(f"{kind}.{name}")
    return term.formula if term else ""


def _advice(advice: Sequence[Advice]) -> list[str]:
    if not advice:
        return []
    lines = ["", "what to change"]
    for item in advice:
        tgs = f"TGS {units.rate(item.tgs)}, " if item.tgs else ""
        sets = " ".join(f"--set {change}" for change in item.change)
        lines.append(f"  {sets:<44} {item.why}; {tgs}{item.total_gib:.1f} GiB, {item.verdict}")
    return lines


def search_lines(found: Found, top: int) -> list[str]:
    """The fastest ways that fit."""
    head = f"{found.num_tried:,} ways tried, {len(found.candidates):,} fit"
    if not found.candidates:
        return [head + ": use more GPUs, a shorter sequence, or GPUs with more memory"]
    lines = [
        f"{head}; by predicted TGS:",
        _columns(("TGS", "GiB", "host", "sp", "dp", "b", "checkpoints", "engine")),
    ]
    for candidate in found.candidates[:top]:
        lines += [_candidate(candidate), _sets(candidate)]
    return lines


def longest_lines(longest: LongestForecast) -> list[str]:
    """The longest sequence and how it is reached."""
    tokens = longest.seq_len
    columns = _columns(("TGS", "GiB", "host", "sp", "dp", "b", "checkpoints", "engine"))
    return [
        f"longest sequence that fits: {tokens:,} tokens ({tokens / 2**20:.2f}M)",
        columns,
        _candidate(longest.best),
        _sets(longest.best),
    ]


def _candidate(c: Candidate) -> str:
    text = manner(c)
    text += "" if c.verdict == "fits" else f"  [{c.verdict}: {units.percent(c.card_share)} of the card]"
    host = f"{c.host_gib:.0f}" if c.host_gib else "-"
    return _columns(
        (units.rate(c.tgs), f"{c.total_gib:.1f}", host, c.sp, c.dp, c.micro_batch, c.checkpointing, text)
    )


def manner(c: Candidate) -> str:
    """Engine, sharding and offloading: what tells candidates of one mesh and batch apart."""
    told = [f"ring {c.ring}"] if c.ring > 1 else []
    told += [f"shard {c.shard}"] if c.shard else []
    told += [f"ep {c.ep}"] if c.ep > 1 else []
    told += [f"{c.offload} offload"] if c.offload != "none" else []
    told += [f"{c.sequence_chunks} chunks"] if c.sequence_chunks > 1 else []
    told += ["activation offload"] if c.activation_offload else []
    told += ["tiled MLP"] if c.tiled_mlp else []
    by_zero = issubclass(find_engine(c.engine).options, ZeroOptions) or c.zero_stage != 3
    return ", ".join([f"{c.engine} ZeRO-{c.zero_stage}" if by_zero else c.engine, *told])


def _sets(c: Candidate) -> str:
    """What makes a preset this candidate."""
    usd = "" if c.cost is None or c.cost.usd is None else f"{c.cost.usd:,.0f} USD a billion tokens  "
    return " " * 11 + usd + " ".join(f"--set {change}" for change in c.change)


def _columns(values: Sequence[object]) -> str:
    tgs, gib, host, sp, dp, batch, mode, text = map(str, values)
    return f"  {tgs:>8} {gib:>6} {host:>6} {sp:>4} {dp:>5} {batch:>3}  {mode:<11} {text}"


def scale_lines(points: Sequence[ScalePoint]) -> list[str]:
    """A table and a bar chart of TGS over the number of GPUs."""
    lines = [
        f"  {'GPUs':>6} {'sp':>4} {'dp':>5} {'TGS':>9} {'low':>9} {'high':>9} {'kept':>6}"
        f" {'network':>8} {'GiB':>7}  verdict"
    ]
    for point in points:
        tgs = (
            [units.rate(v) for v in (point.tgs.estimate, point.tgs.low, point.tgs.high)]
            if point.tgs
            else ["-"] * 3
        )
        kept = f"{100 * point.efficiency:.0f} %" if point.efficiency is not None else "-"
        lines.append(
            f"  {point.num_gpus:>6} {point.sp:>4} {point.dp:>5} {tgs[0]:>9} {tgs[1]:>9} {tgs[2]:>9} {kept:>6}"
            f" {100 * point.network_share:>6.1f} % {point.total_gib:>7.1f}  {point.verdict}"
        )
    return [*lines, "", *_bars(points)]


def _bars(points: Sequence[ScalePoint]) -> list[str]:
    """TGS as full bars, memory as thin ones, each against its largest."""
    best = max((p.tgs.estimate for p in points if p.tgs), default=0.0)
    most = max(p.total_gib for p in points)
    lines = [f"  {'GPUs':>6}  TGS (full) and GiB (thin)"]
    for point in points:
        out = point.verdict == "out of memory"
        if point.tgs and best:
            bar = "░" if out else "█"
            text = "out of memory" if out else units.rate(point.tgs.estimate)
            lines.append(f"  {point.num_gpus:>6}  {bar * _width(point.tgs.estimate, best)} {text}")
        count = "" if point.tgs and best else point.num_gpus
        lines.append(f"  {count:>6}  {'▁' * _width(point.total_gib, most)} {point.total_gib:.1f} GiB")
    return lines


def _width(value: float, largest: float) -> int:
    return max(1, round(_BAR * value / largest))


def calibration_lines(found: Calibration) -> list[str]:
    """Each run by constants fitted on the others, the interval, what the runs determine and what not."""
    by = "by constants fitted on the others" if len(found.errors) > 1 else "by the constants before"
    lines = [f"  {label:<44} planned {error:+.1%} of measured, {by}" for label, error in found.errors.items()]
    lines += [f"  {label}: disturbed or unsteady, it counts a quarter" for label in found.disturbed]
    moved = ", ".join(f"{name} x {value:.2f}" for name, value in found.moved.items())
    lines.append(f"determined by these runs: {moved or 'nothing'}")
    lines += [f"still guesses: {', '.join(found.guesses)}"] if found.guesses else []
    return [*lines, f"80 % interval of a run like these ±{units.percent(found.constants.error_share)}"]


def dry_run_lines(run: DryRun, planned: dict[str, float]) -> list[str]:
    """The operator stream of one rank beside the plan: FLOPs, collectives, peak of live tensors."""
    measured = dry_run_totals(run)
    lines = [
        f"one micro-step of rank 0 of {run.world_size}, {run.num_ops:,} operators on fake tensors, "
        f"torch {run.torch}, {units.duration(run.wall_s)}",
        f"  {'':<26} {'stream':>14} {'plan':>14} {'plan/stream':>12}",
    ]
    for name, value in measured.items():
        ratio = f"{planned[name] / value:12.4f}" if value else f"{'-':>12}"
        lines.append(f"  {name:<26} {value:14.6g} {planned[name]:14.6g} {ratio}")
    lines += ["", "FLOPs by operator"]
    lines += [f"  {name:<52} {flops:14.6g}" for name, flops in sorted(run.flops.items(), key=lambda i: -i[1])]
    lines += ["", "collectives"]
    lines += [
        f"  {n:<20} {c.calls:6,} calls {units.size(c.num_bytes):>12}" for n, c in run.collectives.items()
    ]
    lines += ["", f"largest live tensors at the peak ({run.peak_bytes / GIB:.2f} GiB, in {run.peak_op})"]
    for block in run.largest[:12]:
        shape = " x ".join(map(str, block.shape))
        lines.append(f"  {units.size(block.num_bytes):>11}  {block.count:>5} of {shape:<26} {block.op}")
    return lines


def dry_run_totals(run: DryRun) -> dict[str, float]:
    """The figures of a stream that a plan can be held against."""
    attention = sum(f for name, f in run.flops.items() if "attention" in name)
    traffic = {name: float(c.num_bytes) for name, c in run.collectives.items()}
    return {
        "product FLOPs": float(sum(run.flops.values()) - attention),
        "attention FLOPs": float(attention),
        "all-to-all bytes": traffic.get("all_to_all", 0.0),
        "expert all-to-all bytes": traffic.get("expert_all_to_all", 0.0),
        "all-gather bytes": traffic.get("all_gather", 0.0),
        "reduce-scatter bytes": traffic.get("reduce_scatter", 0.0),
        "peak GiB": run.peak_bytes / GIB,
    }
