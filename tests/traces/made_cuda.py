"""A CUDA trace made by hand as torch 2 writes it: ids, NCCL's records and annotations, copies on the device.

The layout (which event holds which id) is that of real traces of two GPUs; times and sizes are made up.
"""

from __future__ import annotations

from typing import Any

from tests.traces.made import COMM_STREAM, MAIN, STREAM, Made

STEP_US = 1000
STEPS = (3, 4)
A2A_ELEMENTS = 4_000_000
DEVICE = {
    "id": 0, "name": "NVIDIA H100 80GB HBM3 (made up)", "totalGlobalMem": 85_017_493_504, "computeMajor": 9,
    "computeMinor": 0, "numSms": 132, "maxThreadsPerMultiprocessor": 2048,
}  # fmt: skip


class Cuda(Made):
    """Operators, launches and kernels with the ids that Kineto gives them."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank, deviceProperties=[DEVICE])
        self._id = 0

    def number(self) -> int:
        self._id += 1
        return self._id

    def operator(self, name: str, ts: float, dur: float, **args: Any) -> int:
        self.op(name, ts, dur, **{"External id": (number := self.number()), **args})
        return number

    def launch(self, operator: int, at: float, name: str, ts: float, dur: float, **more: Any) -> None:
        """A launch at `at`, and the kernel or copy that it started."""
        correlation = 10_000 + self.number()
        ids = {"External id": operator, "correlation": correlation}
        self.span("cuda_runtime", "cudaLaunchKernel", at, 2, MAIN, **ids)
        cat, stream = more.pop("cat", "kernel"), more.pop("stream", STREAM)
        shape = {"grid": [264, 1, 1], "block": [256, 1, 1], "registers per thread": 168}
        usage = {"shared memory": 1024, "blocks per SM": 2.0, "est. achieved occupancy %": 25}
        self.span(cat, name, ts, dur, stream, **ids, **shape, **usage, device=0, stream=stream, **more)
        self.events[-1]["pid"] = 0  # the device's number

    def collective(self, kind: str, kernel: str, host: float, ts: float, dur: float, elements: int) -> None:
        """c10d's operator, NCCL's record in it, the annotation in that, the kernel with the record's id."""
        record = {
            "Collective name": kind, "In msg nelems": elements, "Out msg nelems": elements, "Group size": 2,
            "dtype": "BFloat16", "Process Group Name": "1", "Process Group Description": "mesh_sp",
            "Process Group Ranks": "[0, 1]",
        }  # fmt: skip
        self.operator(f"c10d::{kind}_", host, 20)
        number = self.operator("record_param_comms", host + 1, 18, **record)
        annotation = f"nccl:{kind}"
        self.mark(annotation, host + 2, 16, **{"External id": self.number()})
        self.launch(number, host + 8, kernel, ts, dur, stream=COMM_STREAM, **record)
        self.span("gpu_user_annotation", annotation, ts, dur, COMM_STREAM, **{"External id": self._id})


def cuda_rank(rank: int) -> Cuda:
    """Two steps of 1000 µs; per step, counted from its start, on the device:

    flash_fwd 100–200, gemm 200–400, all-to-all 380 (rank 1: 390)–480, all-gather 500–560, gemm 560–700,
    optimizer 700–800, copy 810–830. So compute 540, communication 160, of it 20 (rank 1: 10) hidden.
    """
    made = Cuda(rank)
    for number, step in enumerate(STEPS):
        at = number * STEP_US
        made.mark(f"ProfilerStep#{step}", at, STEP_US, **{"External id": made.number()})
        made.span("gpu_user_annotation", f"ProfilerStep#{step}", at + 100, 730, STREAM)
        flash = made.operator("aten::_flash_attention_forward", at + 10, 10)
        made.launch(flash, at + 12, "void pytorch_flash::flash_fwd_kernel<x>", at + 100, 100)
        made.launch(made.operator("aten::mm", at + 30, 10), at + 31, "nvjet_tst_256x128", at + 200, 200)
        start = at + 380 + 10 * rank
        made.collective(
            "all_to_allv", "ncclDevKernel_SendRecv(x)", at + 50, start, at + 480 - start, A2A_ELEMENTS
        )
        made.collective(
            "_allgather_base", "ncclDevKernel_AllGather_RING_LL(x)", at + 80, at + 500, 60, 1_000_000
        )
        made.launch(made.operator("aten::mm", at + 110, 10), at + 111, "nvjet_tst_256x128", at + 560, 140)
        adam = made.operator("aten::_fused_adamw_", at + 130, 10)
        made.launch(adam, at + 131, "void multi_tensor_apply_kernel<x>", at + 700, 100)
        copy = made.operator("aten::copy_", at + 150, 10)
        made.launch(copy, at + 151, "Memcpy DtoH (Device -> Pinned)", at + 810, 20, cat="gpu_memcpy", bytes=4)
    return made
