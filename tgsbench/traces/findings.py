"""What stands out in a profile: one sentence each with its figure, and what to try."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tgsbench import units
from tgsbench.schema.collective_kinds import BY_NAME, UNKNOWN
from tgsbench.schema.hotspots import IMPOSSIBLE, TITLES, Collective, Finding, Profile

_NODE: Final = 8

_PARTS: Final = (
    ("recompute", 0.15, "training.checkpointing=selective keeps attention's results; none if memory allows"),
    ("optimizer", 0.10, "a fused AdamW; more micro-steps an optimizer step spread its cost"),
    ("loss", 0.15, "engine.loss_chunk_tokens, or Liger's fused cross-entropy"),
    ("memcpy", 0.05, "pin host memory; switch off offloading what fits on the device"),
    ("data", 0.02, "prefetch batches: the step waits for them"),
    ("norm_elementwise", 0.25, "engine.compile=true fuses them, or fused norm, rotary and SwiGLU kernels"),
    (UNKNOWN.name, 0.01, UNKNOWN.remedy),
)
_MIN_EXPOSED: Final = 0.05
_LOW_BANDWIDTH: Final = 0.5
_SMALL_CALL: Final = 1 << 20
_MIN_SKEW: Final = 0.03
_MIN_IDLE: Final = 0.10
_LOW_TFLOPS: Final = {"attention_fwd": 0.4, "attention_bwd": 0.3, "gemm": 0.5}


def findings(profile: Profile) -> list[Finding]:
    """Everything that stands out, the largest share of the step first."""
    found = [*_collectives(profile), *_parts(profile), *_idle(profile), *_skew(profile), *_kernels(profile)]
    found += _impossible(profile)
    return sorted(found, key=lambda finding: -finding.share)


def _collectives(profile: Profile) -> Iterator[Finding]:
    for c in profile.collectives:
        share = c.exposed_ms / profile.step_ms if profile.step_ms else 0.0
        if share < _MIN_EXPOSED or c.name == UNKNOWN.name:
            continue
        in_flight = c.exposed_ms + c.hidden_ms
        text = f"{TITLES[c.name]}{f' on {c.group}' if c.group else ''}: {units.percent(share)} of the step"
        text += f", {units.percent(c.exposed_ms / in_flight)} exposed" if in_flight else ""
        why, hint = _why(c)
        rate = f", {units.rate(c.bus_gb_per_s)}" if c.bus_gb_per_s is not None else ""
        rate += f" of {c.peak_gb_per_s:g}" if rate and c.peak_gb_per_s else ""
        text += f"{rate} GB/s" if rate else ""
        yield Finding(code=f"exposed_{c.name}", text=text + why, hint=hint, share=share)


def _why(c: Collective) -> tuple[str, str]:
    kind = BY_NAME[c.name]
    hint, across_nodes = kind.remedy, kind.remedy_across_nodes.format(node=_NODE)
    if across_nodes and len({rank // _NODE for rank in c.group_ranks}) > 1:
        return f": {c.group or 'its'} groups span nodes of {_NODE}", across_nodes
    per_call = c.bytes / c.calls if c.bytes is not None and c.calls else None
    low = c.bus_gb_per_s is not None and c.peak_gb_per_s and c.bus_gb_per_s < _LOW_BANDWIDTH * c.peak_gb_per_s
    if per_call is not None and per_call < _SMALL_CALL:
        return f": calls of {units.size(per_call)} are bound by latency", hint
    return (": far below the link, so ranks wait for each other" if low else ""), hint


def _parts(profile: Profile) -> Iterator[Finding]:
    for part, least, hint in _PARTS:
        share = profile.shares.get(part, 0.0)
        if share > least:
            text = f"{TITLES[part]}: {units.percent(share)} of the step"
            yield Finding(code=part, text=text, hint=hint, share=share)


def _idle(profile: Profile) -> Iterator[Finding]:
    share = profile.shares.get("idle", 0.0)
    if share <= _MIN_IDLE or not all(rank.kernels_recorded for rank in profile.ranks):
        return
    if profile.device == "cpu":
        text, hint = "Python between operators", "a larger model: overheads per operator weigh less"
    else:
        text = "the device waits for the host"
        hint = "engine.compile=true, longer sequences a micro-step, no .item() inside the step"
    yield Finding(
        code="idle", text=f"idle: {units.percent(share)} of the step: {text}", hint=hint, share=share
    )


def _skew(profile: Profile) -> Iterator[Finding]:
    for skew in profile.skew:
        wait_ms = max(skew.wait_ms.values())
        share = wait_ms / profile.step_ms if profile.step_ms else 0.0
        if share < _MIN_SKEW or skew.last_share < 0.6:
            continue
        text = f"{TITLES[skew.name]}{f' on {skew.group}' if skew.group else ''}: others wait for rank"
        text += f" {skew.last_rank}, last in {units.percent(skew.last_share)} of {skew.calls} calls,"
        text += f" up to {units.duration(wait_ms / 1000)} a step"
        hint = f"compare rank {skew.last_rank}'s parts with another's; its GPU's clocks and its host's load"
        yield Finding(code="skew", text=text, hint=hint, share=share)


def _impossible(profile: Profile) -> Iterator[Finding]:
    """Rates above what the hardware can do: the shapes or the times of the trace are wrong."""
    rates = [(op.name, op.tflops, op.peak_tflops, "TFLOPs", op.share) for op in profile.top]
    rates += [(TITLES[c.name], c.bus_gb_per_s, c.peak_gb_per_s, "GB/s", 0.0) for c in profile.collectives]
    for name, rate, peak, unit, share in rates:
        if rate and peak and rate > peak:
            text = f"{name[:48]}: {units.rate(rate)} {unit}, more than the {peak:g} that the hardware can do"
            hint = "do not use this run's figures; `tgsbench verify` finds out whether the work is done"
            yield Finding(code=IMPOSSIBLE, text=text, hint=hint, share=share)


def _kernels(profile: Profile) -> Iterator[Finding]:
    for op in profile.top:
        least = _LOW_TFLOPS.get(op.kind)
        if least is None or op.tflops is None or not op.peak_tflops or op.share < _MIN_EXPOSED:
            continue
        if op.tflops < least * op.peak_tflops and op.source == "kernel":
            name = op.name if len(op.name) <= 48 else op.name[:47] + "…"
            reached = f"{units.rate(op.tflops)} of {op.peak_tflops:g} TFLOPs in {name}"
            text = f"{TITLES[op.kind]}: {reached}, {units.percent(op.share)} of the step"
            hint = "engine.kernel: a newer attention kernel" if op.kind != "gemm" else "larger products"
            yield Finding(code=f"slow_{op.kind}", text=text, hint=hint, share=op.share)
