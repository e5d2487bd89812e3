"""One rank's trace, analysed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tgsbench import presets
from tgsbench.profiling import device_time, host_time, shapes, tables, top
from tgsbench.profiling import intervals as iv
from tgsbench.profiling.collectives import Calls
from tgsbench.profiling.scopes import Scopes
from tgsbench.profiling.shares import Parts
from tgsbench.profiling.windows import Window, find_window
from tgsbench.schema.hardware import Gpu
from tgsbench.schema.hotspots import Collective, HotOp, RankProfile

_RANK: Final = re.compile(r"(?:rank[-_]?|_)(\d{1,6})(?=[._-]|$)", re.IGNORECASE)
_GPUS_PER_NODE: Final = 8


@dataclass(frozen=True)
class RankTrace:
    """A rank's figures, and its calls for the comparison between ranks."""

    profile: RankProfile
    calls: Calls
    world_size: int
    has_shapes: bool


def analyse_rank(path: Path, index: int = 0) -> RankTrace:
    """Read and analyse one trace; `index` is its rank where neither the trace nor its name says.

    Raises TgsError when the file is no whole trace.
    """
    table = tables.read(path, shapes.wanted)
    window, scopes = find_window(table), Scopes(table.host)
    gpu = presets.find_gpu(table.head.device_name) if table.head.device_name else None
    parts, calls, hot = _measured(table, scopes, window, gpu)
    profile = _profile(table, window, parts, _rank_of(table, path, index))
    profile.collectives = summarise(calls, window, parts, gpu)
    profile.top = hot
    profile.num_unresolved = calls.kind.count("comm_unknown")
    distributed = table.head.distributed
    world_size = distributed.world_size if distributed is not None else 1
    return RankTrace(profile, calls, world_size, bool(table.host.shapes))


def _measured(
    table: tables.Table, scopes: Scopes, window: Window, gpu: Gpu | None
) -> tuple[Parts, Calls, list[HotOp]]:
    if len(table.device.start):
        found = device_time.analyse(table, scopes, window)
        peak = gpu.bf16_tflops if gpu is not None else None
        return found.parts, found.calls, top.kernels(table, found, window, peak)
    on_cpu = host_time.analyse(table, scopes, window)
    return on_cpu.parts, on_cpu.calls, top.operators(table, on_cpu, window)


def _profile(table: tables.Table, window: Window, parts: Parts, rank: int) -> RankProfile:
    per_step_ms = 1e-6 / window.num_steps
    hidden = {kind: parts.comm_ns[kind] - parts.exposed_ns[kind] for kind in parts.comm_ns}

    def scaled(found: dict[str, int]) -> dict[str, float]:
        return {kind: value * per_step_ms for kind, value in found.items()}

    return RankProfile(
        rank=rank,
        worker=table.head.host,
        path=str(table.path),
        num_bytes=table.num_bytes,
        device="cuda" if len(table.device.start) else "cpu",
        device_name=table.head.device_name,
        steps=window.steps,
        window_ms=window.length_ns / 1e6,
        step_ms=window.length_ns * per_step_ms,
        parts_ms=scaled(parts.parts_ns),
        shares={kind: value / max(1, parts.window_ns) for kind, value in parts.parts_ns.items()},
        comm_ms=scaled(parts.comm_ns),
        exposed_ms=scaled(parts.exposed_ns),
        hidden_ms=scaled(hidden),
        recompute_ms=scaled(parts.recompute_ns),
        comm_total_ms=parts.comm_total_ns * per_step_ms,
        compute_ms=parts.compute_ns * per_step_ms,
        overlap_ms=parts.overlap_ns * per_step_ms,
        idle_ms=parts.idle_ns * per_step_ms,
        python_ms=parts.python_ns * per_step_ms,
        num_events=table.num_events,
        num_broken=table.num_broken,
    )


def _rank_of(table: tables.Table, path: Path, index: int) -> int:
    if table.head.distributed is not None:
        return table.head.distributed.rank
    match = _RANK.search(path.name)
    return int(match[1]) if match else index


def summarise(calls: Calls, window: Window, parts: Parts, gpu: Gpu | None) -> list[Collective]:
    """Calls by kind and process group, the longest in flight first."""
    by_key: dict[tuple[str, str], list[int]] = {}
    for index, key in enumerate(zip(calls.kind, calls.group, strict=True)):
        by_key.setdefault(key, []).append(index)
    found = [_collective(calls, key, at, window, parts, gpu) for key, at in by_key.items()]
    return sorted(found, key=lambda c: -c.total_ms)


def _collective(
    calls: Calls, key: tuple[str, str], at: list[int], window: Window, parts: Parts, gpu: Gpu | None
) -> Collective:
    start = np.array([calls.start[i] for i in at], np.int64)
    end = np.array([calls.end[i] for i in at], np.int64)
    dur, in_flight = end - start, iv.union(start, end)
    hidden_ns = iv.length(iv.intersect(in_flight, parts.computing))
    sizes = [calls.num_bytes[i] for i in at]
    num_bytes = sum(size for size in sizes if size is not None) if None not in sizes else None
    steps, total_ns = window.num_steps, int(dur.sum())
    ranks = calls.ranks.get(key[1], [])
    size = max((calls.group_size[i] for i in at), default=0) or len(ranks)
    rate = num_bytes / total_ns if num_bytes is not None and total_ns else None
    peak, source = _peak(gpu, ranks)
    return Collective(
        name=key[0],
        group=key[1],
        group_ranks=ranks,
        calls=len(at) / steps,
        bytes=num_bytes / steps if num_bytes is not None else None,
        total_ms=total_ns / 1e6 / steps,
        exposed_ms=(iv.length(in_flight) - hidden_ns) / 1e6 / steps,
        hidden_ms=hidden_ns / 1e6 / steps,
        mean_us=total_ns / len(at) / 1e3,
        p95_us=float(np.sort(dur)[int(np.ceil(0.95 * len(at))) - 1]) / 1e3,
        gb_per_s=rate,
        bus_gb_per_s=rate * bus_factor(key[0], size) if rate is not None and size else None,
        peak_gb_per_s=peak,
        peak_source=source,
        resolved_by=max((calls.resolved_by[i] for i in at), key=_WEAKEST.index),
    )


_WEAKEST: Final = ("kernel", "params", "launch", "annotation", "op", "name")


def bus_factor(kind: str, size: int) -> float:
    """Share of a collective's bytes that crosses one rank's link (NCCL tests, PERFORMANCE.md)."""
    if kind == "all_reduce":
        return 2 * (size - 1) / size
    return (size - 1) / size if kind in ("all_to_all", "all_gather", "reduce_scatter") else 1.0


def _peak(gpu: Gpu | None, ranks: list[int]) -> tuple[float | None, str]:
    """The link's peak, for a known GPU and a group whose members are known."""
    if gpu is None or not ranks:
        return None, ""
    if len({rank // _GPUS_PER_NODE for rank in ranks}) == 1:
        return gpu.nvlink_gb_per_s, f"{gpu.name}: link inside a node"
    return gpu.inter_node_gb_per_s, f"{gpu.name}: network between nodes of {_GPUS_PER_NODE}"
