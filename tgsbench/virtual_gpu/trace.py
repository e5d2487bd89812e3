"""Writes a step on the virtual clock as a trace in torch's own format, for every tool that reads those."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgspec

from tgsbench.virtual_gpu.clock import DeviceWork, Timeline
from tgsbench.virtual_gpu.log import Kind, Record

_US = 1e6
_HOST_THREAD = 1
_LAUNCH_US = 1.0
_CATEGORIES = {Kind.COPY: "gpu_memcpy", Kind.MEMSET: "gpu_memset"}
_COLLECTIVES = {
    "all_gather": ("_allgather_base", "ncclDevKernel_AllGather_RING_LL"),
    "reduce_scatter": ("_reduce_scatter_base", "ncclDevKernel_ReduceScatter_Sum_f32_RING_LL"),
    "all_reduce": ("allreduce", "ncclDevKernel_AllReduce_Sum_f32_RING_LL"),
    "all_to_all": ("all_to_all", "ncclDevKernel_SendRecv"),
    "send": ("send", "ncclDevKernel_SendRecv"),
    "receive": ("recv", "ncclDevKernel_SendRecv"),
    "broadcast": ("broadcast", "ncclDevKernel_Broadcast_RING_LL"),
    "reduce": ("reduce", "ncclDevKernel_Reduce_Sum_f32_RING_LL"),
}
"""Kind -> torch's word for it, and NCCL's kernel."""


def write_trace(path: Path, line: Timeline, rank: int, world: int, ranks: dict[int, int], step: int) -> None:
    """Write one step; `ranks` are those of each communicator. Raises OSError when it cannot be written."""
    events = [_step_mark(line, step)]
    for number, span in enumerate(line.spans, 1):
        events += _events(span, number, ranks)
    document = {
        "schemaVersion": 1,
        "deviceProperties": [{"id": 0, "name": "virtual GPU"}],
        "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": world},
        "traceEvents": events,
    }
    with gzip.open(path, "wb", compresslevel=3) as file:
        file.write(msgspec.json.encode(document))


def _step_mark(line: Timeline, step: int) -> dict[str, Any]:
    return _complete("user_annotation", f"ProfilerStep#{step}", 0.0, line.total_s, _HOST_THREAD, 1)


def _events(span: DeviceWork, number: int, ranks: dict[int, int]) -> list[dict[str, Any]]:
    """The launch on the host and the work on the device, joined by their correlation."""
    record = span.record
    ids = {"External id": number, "correlation": number}
    launch = _complete("cuda_runtime", "cudaLaunchKernel", span.asked_s, _LAUNCH_US / _US, _HOST_THREAD, 1)
    launch["args"] = ids
    stream = 7 if record.stream == 0 else 8 + record.stream // 16 % 1000
    category = _CATEGORIES.get(Kind(record.kind), "kernel")
    work = _complete(category, _name(record), span.begin_s, span.end_s - span.begin_s, stream, 0)
    work["args"] = {**ids, "device": 0, "stream": stream, **_details(record, ranks)}
    return [launch, work]


def _complete(
    category: str, name: str, at_s: float, for_s: float, thread: int, process: int
) -> dict[str, Any]:
    return {
        "ph": "X", "cat": category, "name": name, "pid": process, "tid": thread,
        "ts": at_s * _US, "dur": for_s * _US,
    }  # fmt: skip


def _name(record: Record) -> str:
    if record.kind == Kind.COLLECTIVE:
        return _COLLECTIVES.get(record.name, ("", record.name))[1]
    if record.kind == Kind.GEMM:
        m, n, k, _ = record.args
        return f"{record.name} {m}x{n}x{k}"
    return record.name


def _details(record: Record, ranks: dict[int, int]) -> dict[str, Any]:
    size = record.args[0]
    if record.kind == Kind.COLLECTIVE:
        group, word = ranks.get(record.args[1], 1), _COLLECTIVES.get(record.name, (record.name, ""))[0]
        received = size * group if record.name == "all_gather" else size
        return {
            "Collective name": word, "Group size": group, "dtype": "Byte",
            "In msg nelems": size, "Out msg nelems": received,
        }  # fmt: skip
    if record.kind in (Kind.COPY, Kind.MEMSET):
        return {"bytes": size}
    if record.kind == Kind.GEMM:
        return {}
    rest, threads = record.args[1], record.args[2] & 0xFFFFFFFF
    return {"grid": [size, rest & 0xFFFFFFFF, rest >> 32], "block": [threads, 1, 1]}
