"""A profile as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from tgsbench import units
from tgsbench.schema.hotspots import COLLECTIVES, PARTS, TITLES, Collective, HotOp, Profile, Skew

_NUM_OPS = 10


def profile_lines(profile: Profile) -> list[str]:
    """Headline, parts, collectives, top, skew, findings."""
    lines = [_headline(profile), ""]
    lines += _parts(profile)
    lines += _table("devices", _devices(profile), _DEVICE_HEAD)
    lines += _table("collectives", [_collective(c) for c in profile.collectives], _COLLECTIVE_HEAD)
    for source, title in (("kernel", "kernels"), ("operator", "operators")):
        ops = [op for op in profile.top if op.source == source][:_NUM_OPS]
        lines += _table(title, [_op(op) for op in ops], _OP_HEAD)
    lines += [_skew(skew) for skew in profile.skew]
    return [*lines, "", *_findings(profile)]


def _headline(profile: Profile) -> str:
    device = profile.device_name or profile.device
    if not all(rank.kernels_recorded for rank in profile.ranks):
        device += ", its work not recorded: host time only"
    ranks = f"{len(profile.ranks)} of {profile.world_size} ranks"
    return f"{profile.source}: step {_ms(profile.step_ms)}, {ranks}, {device}"


def _parts(profile: Profile) -> list[str]:
    present = [p for p in PARTS if profile.shares.get(p, 0) > 0 or profile.comm_ms.get(p, 0) > 0]
    present.sort(key=lambda part: -profile.shares.get(part, 0.0))
    lines = [f"{'part of the step':<24}{'share':>8}{'a step':>12}{'exposed':>12}{'hidden':>12}"]
    for part in present:
        row = f"{TITLES[part]:<24}{units.percent(profile.shares.get(part, 0.0), 1):>8}"
        row += f"{_ms(profile.parts_ms.get(part, 0.0)):>12}"
        if part in COLLECTIVES:
            row += f"{_ms(profile.exposed_ms.get(part, 0.0)):>12}{_ms(profile.hidden_ms.get(part, 0.0)):>12}"
        lines.append(row)
    if profile.recompute_ms:
        inner = sorted(profile.recompute_ms.items(), key=lambda pair: -pair[1])
        lines.append("recompute is " + ", ".join(f"{TITLES[k]} {_ms(v)}" for k, v in inner if v > 0))
    return lines


_DEVICE_HEAD = ("rank", "device", "busy", "compute", "communication", "exposed", "idle")


def _devices(profile: Profile) -> list[tuple[str, ...]]:
    """Each device of the traces that hold several."""
    return [
        (str(rank.rank), d.device, *map(_ms, (d.busy_ms, d.compute_ms, d.comm_ms, d.exposed_ms, d.idle_ms)))
        for rank in profile.ranks
        for d in rank.devices
    ]


def shares_line(profile: Profile, num_parts: int = 6) -> str:
    """The largest parts of the step in one line, attention and all-to-all always among them."""
    shares = dict(profile.shares)
    attention = shares.pop("attention_fwd", 0.0) + shares.pop("attention_bwd", 0.0)
    named = {"attention": attention, **{TITLES[part]: share for part, share in shares.items()}}
    ranked = sorted(named, key=lambda name: -named[name])
    chosen = [name for name in ranked[:num_parts] if named[name] > 0]
    chosen += [name for name in ("attention", TITLES["all_to_all"]) if name not in chosen and named.get(name)]
    return ", ".join(f"{name} {units.percent(named[name])}" for name in chosen)


_COLLECTIVE_HEAD = ("collective", "group", "calls", "bytes", "in flight", "exposed", "bus GB/s", "found by")
_OP_HEAD = ("name", "part", "calls", "total", "share", "mean", "p95", "TFLOPs")


def _collective(c: Collective) -> tuple[str, ...]:
    peak = f" of {c.peak_gb_per_s:g}" if c.peak_gb_per_s else ""
    rate = units.rate(c.bus_gb_per_s) + peak if c.bus_gb_per_s is not None else "-"
    size = units.size(c.bytes) if c.bytes is not None else "-"
    name = TITLES.get(c.name, c.name)
    times = (_ms(c.total_ms), _ms(c.exposed_ms))
    return (name, c.group or "-", f"{c.calls:g}", size, *times, rate, c.resolved_by)


def _op(op: HotOp) -> tuple[str, ...]:
    peak = f" of {op.peak_tflops:g}" if op.peak_tflops else ""
    tflops = units.rate(op.tflops) + peak if op.tflops is not None else "-"
    name = op.name if len(op.name) <= 60 else op.name[:59] + "…"
    times = (_ms(op.total_ms), units.percent(op.share, 1), _ms(op.mean_us / 1e3), _ms(op.p95_us / 1e3))
    return (name, TITLES.get(op.kind, op.kind), f"{op.calls:g}", *times, tflops)


def _table(title: str, rows: list[tuple[str, ...]], head: tuple[str, ...]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["", title]
    for row in [head, *rows]:
        cells = [
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _skew(skew: Skew) -> str:
    who = f"rank {skew.last_rank} last in {units.percent(skew.last_share)} of {skew.calls} calls"
    late = f"by {_ms(skew.mean_skew_us / 1e3)} in the mean, {_ms(skew.max_skew_us / 1e3)} at most"
    return f"skew: {TITLES.get(skew.name, skew.name)} on {skew.group or '-'}: {who}, {late}"


def _findings(profile: Profile) -> Iterator[str]:
    for finding in profile.findings:
        yield f"{units.percent(finding.share, 1):>7}  {finding.text}"
        if finding.hint:
            yield f"         try: {finding.hint}"
    for caveat in profile.caveats:
        yield f"   note  {caveat}"


def _ms(value: float) -> str:
    return units.duration(value / 1000) if value else "-"
