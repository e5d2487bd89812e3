"""One rank's trace, analysed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tgsbench import presets
from tgsbench.schema.collective_kinds import BY_NAME, UNKNOWN
from tgsbench.schema.hardware import GpuSpec
from tgsbench.schema.hotspots import Collective, DeviceProfile, HotOp, RankProfile
from tgsbench.traces import device_time, host_time, missing, shapes, tables, top
from tgsbench.traces.collectives import Calls
from tgsbench.traces.device_time import DeviceTime
from tgsbench.traces.host_time import HostTime
from tgsbench.traces.row_store import DiskTables, Ints
from tgsbench.traces.step_window import StepWindow, find_window

_GPUS_PER_NODE: Final = 8


@dataclass(frozen=True)
class RankTrace:
    """A rank's figures, and its calls for the comparison between ranks."""

    profile: RankProfile
    calls: Calls
    world_size: int


def analyse_rank(path: Path, rank: int = 0, on_read: Callable[[int], None] = lambda got: None) -> RankTrace:
    """Read and analyse one trace; `rank` is whose it is where the trace does not say.

    Memory does not grow with the trace but for 20 bytes a call of a collective. Raises TgsError when the file
    is no whole trace, or when its tables do not fit the temporary folder.
    """
    with DiskTables() as scratch:
        table = tables.read(path, shapes.wanted, scratch, on_read)
        gpu = presets.find_gpu(table.head.device_name) if table.head.device_name else None
        window = find_window(table)
        found, hot = _measured(table, window, gpu)
        profile = _profile(table, found, _rank_of(table, rank))
        profile.caveats = missing.complaints(table, window, found, hot)
    profile.collectives = summarise(found, gpu)
    profile.top = hot
    kinds = found.calls.by_kind_and_group()
    profile.num_unresolved = sum(len(at) for (kind, _), at in kinds.items() if kind == UNKNOWN.name)
    distributed = table.head.distributed
    world_size = distributed.world_size if distributed is not None else 1
    return RankTrace(profile, found.calls, world_size)


def _measured(
    table: tables.Table, window: StepWindow, gpu: GpuSpec | None
) -> tuple[DeviceTime | HostTime, list[HotOp]]:
    if table.device.num_rows:
        on_device = device_time.analyse(table, window)
        return on_device, top.kernels(table, on_device, gpu.bf16_tflops if gpu is not None else None)
    on_host = host_time.analyse(table, window)
    hot = top.operators(table, on_host)
    if missing.is_gpu_job(table):
        missing.without_rates(hot)
    return on_host, hot


def _profile(table: tables.Table, found: DeviceTime | HostTime, rank: int) -> RankProfile:
    window, parts = found.window, found.parts
    num_devices = _num_devices(found)
    per_step_ms = 1e-6 / window.num_steps / num_devices
    hidden = {kind: parts.comm_ns[kind] - parts.exposed_ns[kind] for kind in parts.comm_ns}

    def scaled(values: dict[str, int]) -> dict[str, float]:
        return {kind: value * per_step_ms for kind, value in values.items()}

    return RankProfile(
        rank=rank,
        worker=table.head.host,
        path=str(table.path),
        num_bytes=table.num_bytes,
        device="cuda" if table.device.num_rows or missing.is_gpu_job(table) else "cpu",
        device_name=table.head.device_name,
        kernels_recorded=isinstance(found, DeviceTime) or not missing.is_gpu_job(table),
        steps=window.steps,
        window_ms=window.length_ns / 1e6,
        step_ms=window.length_ns / 1e6 / window.num_steps,
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
        devices=_devices(table, found) if isinstance(found, DeviceTime) and num_devices > 1 else [],
    )


def _num_devices(found: DeviceTime | HostTime) -> int:
    return len(found.by_device) if isinstance(found, DeviceTime) else 1


def _devices(table: tables.Table, found: DeviceTime) -> list[DeviceProfile]:
    """The figures of each of several devices."""
    rows, per_step_ms = [], 1e-6 / found.window.num_steps
    for device, parts in zip(table.devices, found.by_device, strict=True):
        busy_ns = parts.compute_ns + parts.comm_total_ns - parts.overlap_ns
        rows.append(
            DeviceProfile(
                device=str(device),
                busy_ms=busy_ns * per_step_ms,
                compute_ms=parts.compute_ns * per_step_ms,
                comm_ms=parts.comm_total_ns * per_step_ms,
                exposed_ms=(parts.comm_total_ns - parts.overlap_ns) * per_step_ms,
                idle_ms=(parts.window_ns - busy_ns) * per_step_ms,
            )
        )
    return rows


def _rank_of(table: tables.Table, by_name: int) -> int:
    distributed = table.head.distributed
    return distributed.rank if distributed is not None and distributed.rank is not None else by_name


def summarise(found: DeviceTime | HostTime, gpu: GpuSpec | None) -> list[Collective]:
    """Calls by kind and process group, the longest in flight first."""
    rows = [_collective(found, pair, at, gpu) for pair, at in found.calls.by_kind_and_group().items()]
    return sorted(rows, key=lambda c: -c.total_ms)


def _collective(
    found: DeviceTime | HostTime, pair: tuple[str, str], at: Ints, gpu: GpuSpec | None
) -> Collective:
    calls, flight = found.calls, found.flights[pair]
    dur = calls.end[at] - calls.start[at]
    kinds, counts = np.unique(calls.what[at], return_counts=True)
    alike = [calls.described[kind] for kind in kinds.tolist()]
    sizes = [what.num_bytes for what in alike]
    known = [size * count for size, count in zip(sizes, counts.tolist(), strict=True) if size is not None]
    num_bytes = sum(known) if None not in sizes else None
    steps, total_ns = found.window.num_steps * _num_devices(found), int(dur.sum())
    ranks = calls.ranks.get(pair[1], [])
    size = max(what.group_size for what in alike) or len(ranks)
    rate = num_bytes / total_ns if num_bytes is not None and total_ns else None
    factor = BY_NAME[pair[0]].bus_factor(size) if size else None
    peak, source = _peak(gpu, ranks)
    return Collective(
        name=pair[0],
        group=pair[1],
        group_ranks=ranks,
        calls=len(at) / steps,
        bytes=num_bytes / steps if num_bytes is not None else None,
        total_ms=total_ns / 1e6 / steps,
        exposed_ms=(flight.total - flight.hidden) / 1e6 / steps,
        hidden_ms=flight.hidden / 1e6 / steps,
        mean_us=total_ns / len(at) / 1e3,
        p95_us=float(np.sort(dur)[int(np.ceil(0.95 * len(at))) - 1]) / 1e3,
        gb_per_s=rate,
        bus_gb_per_s=rate * factor if rate is not None and factor is not None else None,
        peak_gb_per_s=peak,
        peak_source=source,
        resolved_by=max((what.resolved_by for what in alike), key=_WEAKEST.index),
    )


_WEAKEST: Final = ("kernel", "params", "launch", "annotation", "op", "name", "stream")


def _peak(gpu: GpuSpec | None, ranks: list[int]) -> tuple[float | None, str]:
    """The link's peak, for a known GPU and a group whose members are known."""
    if gpu is None or not ranks:
        return None, ""
    if len({rank // _GPUS_PER_NODE for rank in ranks}) == 1:
        return gpu.nvlink_gb_per_s, f"{gpu.name}: link inside a node"
    return gpu.inter_node_gb_per_s, f"{gpu.name}: network between nodes of {_GPUS_PER_NODE}"
