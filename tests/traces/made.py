"""Traces made by hand, whose answers are known."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

MAIN, AUTOGRAD, STREAM, COMM_STREAM = 100, 200, 7, 20


class Made:
    """Collects events; times in microseconds."""

    def __init__(self, rank: int = 0, world_size: int = 2, **head: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.head = {
            "schemaVersion": 1,
            "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}],
            "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": world_size},
            **head,
        }
        self._next = 1

    def span(self, cat: str, name: str, ts: float, dur: float, tid: Any = MAIN, **args: Any) -> None:
        self.events.append(
            {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": ts, "dur": dur, "args": args}
        )

    def op(self, name: str, ts: float, dur: float, tid: Any = MAIN, **args: Any) -> None:
        self.span("cpu_op", name, ts, dur, tid, **args)

    def mark(self, name: str, ts: float, dur: float, tid: Any = MAIN, **args: Any) -> None:
        self.span("user_annotation", name, ts, dur, tid, **args)

    def kernel(
        self, name: str, ts: float, dur: float, launch: float | None = None, tid: int = MAIN,
        stream: int = STREAM, cat: str = "kernel", **args: Any,
    ) -> None:  # fmt: skip
        """A kernel, and its launch unless that lies outside the trace."""
        self._next += 1
        if launch is not None:
            self.span("cuda_runtime", "cudaLaunchKernel", launch, 1, tid, correlation=self._next)
        self.span(cat, name, ts, dur, stream, correlation=self._next, **args)

    def document(self) -> dict[str, Any]:
        return {**self.head, "traceEvents": self.events, "traceName": "made"}

    def write(self, path: Path, style: str = "torch") -> Path:
        document = self.document()
        if style == "compact":
            text = json.dumps(document, separators=(",", ":"))
        elif style == "dumps":
            text = json.dumps(document)
        elif style == "indented":
            text = json.dumps(document, indent=2)
        else:
            head = json.dumps({k: v for k, v in document.items() if k not in ("traceEvents", "traceName")})
            body = ",\n".join("  " + json.dumps(event, indent=4) for event in self.events)
            text = head[:-1] + ',\n "traceEvents": [\n' + body + '\n  ],\n"traceName": "made"}\n'
        data = text.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return path


def nccl_step() -> Made:
    """One step of 1000 µs with overlap, nesting, zero-length and missing events; answers in its test.

    compute stream: flash_fwd 100–200, gemm 200–400, flash_bwd 500–650, gemm (recompute) 650–700,
    multi_tensor 800–850; memcpy 350–420 on another stream (20 µs beyond the gemm).
    comm stream: all-to-all (SendRecv, named) 0–100 on sp, all-gather 150–450 on fsdp (130 µs… hidden 270),
    SendRecv without a launch 860–900, reduce-scatter 700–760 on fsdp.
    """
    made = Made()
    made.mark("ProfilerStep#3", 0, 1000)
    made.mark("tgsbench::all_to_all.pre", 1, 4)
    a2a = {
        "Collective name": "all_to_allv", "In msg nelems": 1_000_000, "Out msg nelems": 1_000_000,
        "Group size": 2, "dtype": "BFloat16", "Process Group Name": "1",
        "Process Group Description": "mesh_sp", "Process Group Ranks": "[0, 1]",
    }  # fmt: skip
    made.kernel("ncclDevKernel_SendRecv(args)", 0, 100, launch=2, stream=COMM_STREAM, **a2a)
    made.mark("tgsbench::attention", 10, 20)
    made.op("aten::_flash_attention_forward", 11, 10, **{"Sequence number": 40})
    made.kernel("void pytorch_flash::flash_fwd_kernel<x>", 100, 100, launch=12)
    made.op("aten::mm", 40, 10, **{"Input Dims": [[64, 32], [32, 16]], "Input type": ["c10::BFloat16"] * 2})
    made.kernel("nvjet_tst_256x128", 200, 200, launch=41)
    made.kernel("Memcpy HtoD (Pinned -> Device)", 350, 70, launch=60, stream=30, cat="gpu_memcpy")
    made.op("c10d::_allgather_base_", 70, 10)
    made.op(
        "record_param_comms", 71, 8,
        **{
            "External id": 900, "Collective name": "_allgather_base", "In msg nelems": 500,
            "Out msg nelems": 1000, "Group size": 2, "dtype": "Float", "Process Group Name": "2",
            "Process Group Description": "mesh_fsdp", "Process Group Ranks": "[0, 1]",
        },
    )  # fmt: skip
    made.kernel("ncclDevKernel_AllGather_RING_LL(args)", 150, 300, launch=73, stream=COMM_STREAM)
    made.op(
        "autograd::engine::evaluate_function: FlashBackward0", 300, 50, AUTOGRAD, **{"Sequence number": 40}
    )
    made.kernel("void generic_helper<float>", 500, 150, launch=310, tid=AUTOGRAD)
    made.op("autograd::engine::evaluate_function: MmBackward0", 400, 50, AUTOGRAD, **{"Sequence number": 30})
    made.op("aten::mm", 410, 10, AUTOGRAD, **{"Sequence number": 77})
    made.kernel("nvjet_tst_256x128", 650, 50, launch=411, tid=AUTOGRAD)
    made.op("record_param_comms", 500, 8, AUTOGRAD)
    made.mark("nccl:_reduce_scatter_base", 501, 6, AUTOGRAD)
    made.kernel("ncclDevKernel_ReduceScatter_Sum_f32(args)", 700, 60, launch=502, tid=AUTOGRAD, stream=20)
    made.mark("Optimizer.step#AdamW.step", 600, 50)
    made.kernel("void multi_tensor_apply_kernel<x>", 800, 50, launch=610)
    made.kernel("zero", 820, 0, launch=611)
    made.kernel("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(x)", 860, 40, stream=COMM_STREAM)
    made.events.append({"ph": "s", "id": 1, "pid": 1, "tid": MAIN, "ts": 5, "cat": "ac2g", "name": "ac2g"})
    made.events.append({"ph": "i", "s": "g", "name": "Record Window End", "pid": "", "tid": "", "ts": 1e3})
    return made
