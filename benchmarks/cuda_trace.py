"""Synthetic traces in the shape of torch's: one rank of a Llama under FSDP2 and Ulysses, on CUDA with NCCL.

The text is laid out as torch 2.13 writes it with record_shapes, event for event: operators with their
arguments, annotations, runtime calls, flows between launch and kernel, kernels with their launch geometry,
NCCL kernels with the record of their collective. Times come from a small simulation (the host runs ahead;
gathers overlap, all-to-alls hold the compute stream up), so that streams overlap as real ones do. Nothing
here was measured: it is a load for readers, and says nothing about a GPU.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

PID, MAIN, AUTOGRAD = 41_000, 41_000, 41_977
COMPUTE, GATHER, EXCHANGE = 7, 24, 28
TOKENS, HIDDEN, MLP_HIDDEN, HEADS, VOCAB = 16_384, 4096, 11_008, 32, 32_000
NUM_LAYERS = 32
SP, FSDP = 8, 64
_EVALUATE = "autograd::engine::evaluate_function: "
_BASE_US = 4_458_676_522_690
"""Since baseTimeNanoseconds: of the size that torch writes."""


@dataclass(frozen=True)
class Kernel:
    """What one launch runs on the device."""

    name: str
    mean_us: float
    stream: int = COMPUTE
    category: str = "kernel"
    record: str = ""
    """NCCL's record of the collective."""
    launch: str = "cudaLaunchKernel"


@dataclass(frozen=True)
class Op:
    """An operator or annotation, what it launches and what it calls."""

    name: str
    args: str = ""
    inner: tuple[Op | Kernel, ...] = ()
    node: str = ""
    """Autograd node that it makes."""
    category: str = "cpu_op"


def shaped(*tensors: tuple[str, tuple[int, ...]]) -> str:
    """Arguments as record_shapes writes them."""
    dims = ", ".join(str(list(shape)) for _, shape in tensors)
    strides = ", ".join(str(_strides(shape)) for _, shape in tensors)
    concrete, types = ", ".join('""' for _ in tensors), ", ".join(f'"{kind}"' for kind, _ in tensors)
    return (
        f'"Concrete Inputs": [{concrete}], "Input type": [{types}], '
        f'"Input Strides": [{strides}], "Input Dims": [{dims}], '
    )


def _strides(shape: tuple[int, ...]) -> list[int]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return strides[: len(shape)]


BF16, FLOAT = "c10::BFloat16", "float"
ROWS = (BF16, (TOKENS, HIDDEN))


def _elementwise(functor: str, mean_us: float) -> Kernel:
    return Kernel(
        f"void at::native::vectorized_elementwise_kernel<4, at::native::{functor}, std::array<char*, 3ul> "
        f">(int, at::native::{functor}, std::array<char*, 3ul>)",
        mean_us,
    )


def pointwise(name: str, functor: str, mean_us: float, node: str = "", rows: tuple = ROWS) -> Op:
    return Op(f"aten::{name}", shaped(rows, rows), (_elementwise(functor, mean_us),), node)


def view(name: str, node: str = "") -> Op:
    strided = Op("aten::as_strided", shaped(ROWS, ("ScalarList", ()), ("ScalarList", ()), ("Scalar", ())))
    return Op(f"aten::{name}", shaped(ROWS, ("ScalarList", ())), (strided,), node)


def copied(node: str = "") -> Op:
    copy = Op("aten::copy_", shaped(ROWS, ROWS, ("Scalar", ())), (_elementwise("bfloat16_copy_kernel", 60),))
    return Op("aten::clone", shaped(ROWS), (Op("aten::empty_like", shaped(ROWS)), copy), node)


def linear(columns: int, mean_us: float) -> Op:
    weight = (BF16, (HIDDEN, columns))
    product = Kernel("nvjet_tst_256x128_64x4_2x1_v_bz_coopA_TNN", mean_us, launch="cuLaunchKernelEx")
    mm = Op("aten::mm", shaped(ROWS, weight), (product,), "MmBackward0")
    transposed = Op("aten::t", shaped(weight), (view("transpose"),), "TBackward0")
    matmul = Op(
        "aten::matmul", shaped(ROWS, weight), (view("reshape", "ViewBackward0"), mm, view("_unsafe_view"))
    )
    return Op("aten::linear", shaped(ROWS, weight), (transposed, matmul))


def collective(
    op: str, record: str, annotation: str, kernel: str, elements: int, group: int, mean_us: float
) -> Op:
    described, stream = ("mesh_sp", EXCHANGE) if group == SP else ("mesh_fsdp", GATHER)
    says = (
        f'"Collective name": "{record}", "In msg nelems": {elements}, "Out msg nelems": {elements}, '
        f'"Group size": {group}, "dtype": "BFloat16", "In split size": "[]", "Out split size": "[]", '
        f'"Process Group Name": "{1 if group == SP else 2}", "Process Group Description": "{described}", '
        f'"Process Group Ranks": "{list(range(group))}"'
    )
    launched = Op(
        f"nccl:{annotation}", shaped(ROWS),
        (Kernel(f"ncclDevKernel_{kernel}(ncclDevKernelArgsStorage<4096ul>)", mean_us, stream,
                record=f", {says}", launch="cudaLaunchKernelExC"),),
        category="user_annotation",
    )  # fmt: skip
    return Op(f"c10d::{op}", shaped(ROWS, ROWS), (Op("record_param_comms", f"{says}, ", (launched,)),))


def gather() -> Op:
    return collective("_allgather_base_", "_allgather_base", "_all_gather_base", "AllGather_RING_LL",
                      202_000_000, FSDP, 3_800)  # fmt: skip


def scatter() -> Op:
    return collective("_reduce_scatter_base_", "_reduce_scatter_base", "_reduce_scatter_base",
                      "ReduceScatter_Sum_bf16_RING_LL", 202_000_000, FSDP, 3_900)  # fmt: skip


def exchange(which: str) -> Op:
    sent = collective("alltoall_base_", "all_to_all", "all_to_all", "SendRecv",
                      TOKENS * HIDDEN, SP, 420)  # fmt: skip
    inner = (view("permute", "PermuteBackward0"), copied("CloneBackward0"), sent, copied("CloneBackward0"))
    return annotated(f"tgsbench::all_to_all.{which}", *inner)


def annotated(name: str, *inner: Op | Kernel) -> Op:
    return Op(name, "", inner, category="user_annotation")


def norm() -> Op:
    steps = (
        pointwise("pow", "pow_tensor_scalar_kernel_impl<float>", 45, "PowBackward0"),
        pointwise("mean", "MeanOps<float, float, float, float>", 30, "MeanBackward1"),
        pointwise("rsqrt", "rsqrt_kernel_cuda", 4, "RsqrtBackward0"),
        pointwise("mul", "BinaryFunctor<float, float, float, MulFunctor<float> >", 70, "MulBackward0"),
        pointwise(
            "mul", "BinaryFunctor<bfloat16, bfloat16, bfloat16, MulFunctor<float> >", 48, "MulBackward0"
        ),
    )
    return annotated("nn.Module: RMSNorm", Op("aten::to", shaped(ROWS), (copied("ToCopyBackward0"),)), *steps)


def rotary() -> Op:
    parts = (view("slice", "SliceBackward0"), view("slice", "SliceBackward0"),
             pointwise("neg", "neg_kernel_cuda", 22, "NegBackward0"),
             pointwise("cat", "CatArrayBatchedCopy", 45, "CatBackward0"),
             pointwise("mul", "MulFunctor<float>", 48, "MulBackward0"),
             pointwise("mul", "MulFunctor<float>", 48, "MulBackward0"),
             pointwise("add", "CUDAFunctor_add<bfloat16>", 50, "AddBackward0"))  # fmt: skip
    return annotated("nn.Module: Rotary", *parts, *parts)


FLASH_BACKWARD = Kernel(
    "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits<64, 128, 8, 2, "
    "4, 2, false, false, cutlass::bfloat16_t>, true, false>(pytorch_flash::Flash_bwd_params)",
    4_100,
)


def attention() -> Op:
    q = (BF16, (1, TOKENS * SP, HEADS // SP, 128))
    flash = Kernel(
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false, false, "
        "cutlass::bfloat16_t>, false, true, false, false, true, true, false>"
        "(pytorch_flash::Flash_fwd_params)",
        2_900,
    )
    forward = Op("aten::_flash_attention_forward", shaped(q, q, q, ("Scalar", ())), (flash,))
    sdpa = Op("aten::_scaled_dot_product_flash_attention", shaped(q, q, q), (view("transpose"), forward),
              "ScaledDotProductFlashAttentionBackward0")  # fmt: skip
    return annotated(
        "tgsbench::attention", Op("aten::scaled_dot_product_attention", shaped(q, q, q), (sdpa,))
    )


def layer() -> tuple[Op, ...]:
    """Forward of one layer."""
    residual = pointwise("add", "CUDAFunctor_add<bfloat16>", 52, "AddBackward0")
    mlp = (linear(MLP_HIDDEN, 1_900), pointwise("silu", "silu_kernel", 110, "SiluBackward0"),
           linear(MLP_HIDDEN, 1_900), pointwise("mul", "MulFunctor<float>", 130, "MulBackward0"),
           linear(HIDDEN, 1_950))  # fmt: skip
    return (
        annotated("FSDP::pre_forward", gather()), norm(), *(linear(HIDDEN, 720) for _ in range(3)), rotary(),
        exchange("pre"), attention(), exchange("post"), linear(HIDDEN, 720), residual, norm(),
        annotated("tgsbench::mlp", *mlp), residual,
    )  # fmt: skip


@dataclass
class _Step:
    """Writes one step's events; times go on from step to step."""

    noise: random.Random
    host_us: float = 0.0
    free_us: dict[int, float] = field(default_factory=lambda: dict.fromkeys((COMPUTE, GATHER, EXCHANGE), 0.0))
    next_id: int = 1
    next_sequence: int = 1
    thread: int = MAIN
    nodes: list[tuple[str, int]] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    device_rows: list[str] = field(default_factory=list)

    def run(self, op: Op, sequence: int = -1) -> None:
        begin_us, number = self.host_us, self._number()
        if op.node:
            sequence = self.next_sequence
            self.next_sequence += 1
            self.nodes.append((op.node, sequence))
            self._flow(self.rows, "s", sequence, begin_us, "fwdbwd", self.thread)
        self.host_us += self.noise.uniform(1.0, 3.0)
        tracks = op.name.startswith(_EVALUATE) or not op.name.endswith("Backward0")  # no gradients in a node
        for part in op.inner:
            if isinstance(part, Op):
                inherits = tracks and part.category == "cpu_op" and not part.node
                self.run(part, sequence if inherits else -1)
            else:
                self._launch(part, number)
        self.host_us += self.noise.uniform(0.5, 2.5)
        tracked = f'"Sequence number": {sequence}, "Fwd thread id": 0, ' if sequence >= 0 else ""
        args = f'"External id": {number},"Record function id": 0, {tracked}{op.args}"Ev Idx": {number}'
        dur_us = self.host_us - begin_us
        self._span(self.rows, op.category, op.name, PID, self.thread, begin_us, dur_us, args)

    def _launch(self, kernel: Kernel, external: int) -> None:
        if kernel.record:
            self._call("cudaStreamIsCapturing", 1.0, external)
            self._call("cudaStreamWaitEvent", 1.5, external)
        number = self._call(kernel.launch, self.noise.uniform(3.0, 6.0), external, flow=True)
        dur_us = max(1.0, self.noise.gauss(kernel.mean_us, kernel.mean_us / 12))
        start_us = max(self.host_us + self.noise.uniform(0.5, 2.0), self.free_us[kernel.stream] + 0.8)
        if kernel.stream == EXCHANGE:  # it reads what was computed, and its result is waited for
            start_us = max(start_us, self.free_us[COMPUTE] + 2.0)
            self.free_us[COMPUTE] = start_us + dur_us + 2.0
        self.free_us[kernel.stream] = start_us + dur_us
        if kernel.category != "kernel":
            args = f'"bytes": 12845056, "memory bandwidth (GB/s)": {self.noise.uniform(10, 900):.12f}'
        else:
            warps = self.noise.uniform(1, 60)
            args = (
                f'"registers per thread": 168, "shared memory": 147456, "blocks per SM": {warps / 4:.6f}, '
                f'"warps per SM": {warps:.6f}, "grid": [{self.noise.randint(1, 9999)}, 1, 1], '
                f'"block": [128, 1, 1], "est. achieved occupancy %": {int(warps)}{kernel.record}'
            )
        known = (
            f'"External id": {external}, "queued": 0, "device": 0, "context": 1, "stream": {kernel.stream}'
        )
        self._span(self.device_rows, kernel.category, kernel.name, 0, kernel.stream, start_us, dur_us,
                   f'{known}, "correlation": {number}, {args}')  # fmt: skip
        self._flow(self.device_rows, "f", number, start_us, "ac2g", kernel.stream, pid=0)

    def _call(self, name: str, dur_us: float, external: int, flow: bool = False) -> int:
        number, begin_us = self._number(), self.host_us
        self.host_us += dur_us
        self._span(self.device_rows, "cuda_runtime", name, PID, self.thread, begin_us, dur_us,
                   f'"External id": {external}, "cbid": 211, "correlation": {number}')  # fmt: skip
        self._flow(self.device_rows, "s" if flow else "f", number, begin_us, "ac2g", self.thread)
        return number

    def _number(self) -> int:
        self.next_id += 1
        return self.next_id

    def backward(self, node: str, sequence: int) -> None:
        """One node of autograd: two kernels, some views."""
        if node.startswith(("Mm", "Scaled")):
            kernel = Kernel("nvjet_tst_192x192_64x3_2x1_v_bz_coopB_NNT", 1_050, launch="cuLaunchKernelEx")
            if node.startswith("Scaled"):
                kernel = FLASH_BACKWARD
            inner = (view("t"), Op("aten::mm", shaped(ROWS, ROWS), (kernel,)), view("t"))
        elif node.startswith(("View", "Slice", "Permute", "T")):
            inner = (view("view"),)
        else:
            inner = (pointwise("mul", "MulFunctor<float>", 48), pointwise("sum", "reduce_sum", 40))
        body = Op(node, "", inner)
        self._flow(self.rows, "f", sequence, self.host_us, "fwdbwd", self.thread)
        self.run(Op(_EVALUATE + node, "", (body,)), sequence)

    def _span(self, rows: list[str], cat: str, name: str, pid: int, tid: int, ts: float, dur: float,
              args: str) -> None:  # fmt: skip
        lasts = f"{(round(1000 * (ts + dur)) - round(1000 * ts)) / 1000:.3f}"  # so none ends after its parent
        rows.append(
            f'  {{\n    "ph": "X",\n    "cat": "{cat}",\n    "name": "{name}",\n    "pid": {pid},\n'
            f'    "tid": {tid},\n    "ts": {_written(ts)},\n    "dur": {lasts}\n    ,\n    "args": {{\n'
            f"      {args}\n    }}\n  }}"
        )

    def _flow(
        self, rows: list[str], phase: str, number: int, ts: float, cat: str, tid: int, pid: int = PID
    ) -> None:
        end = ',\n    "bp": "e"\n' if phase == "f" else "\n    \n"
        rows.append(
            f'  {{\n    "ph": "{phase}",\n    "id": {number},\n    "pid": {pid},\n    "tid": {tid},\n'
            f'    "ts": {_written(ts)},\n    "cat": "{cat}",\n    "name": "{cat}"{end}  }}'
        )


def _written(ts: float) -> str:
    """As torch writes a time: whole nanoseconds since the base, finer than a float64 of that size."""
    us, ns = divmod(round(1000 * ts), 1000)
    return f"{_BASE_US + us}.{ns:03d}"


def steps(seed: int) -> Iterator[tuple[str, str]]:
    """Each step events of the host and of the device, for ever; a comma and a line break between events."""
    step, number, forward = _Step(random.Random(seed)), 10, layer()
    adam = "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>"
    fused = Op("aten::_fused_adamw_", shaped(*[(FLOAT, (TOKENS, 64))] * 12), (Kernel(adam, 900),))
    upload = Kernel("Memcpy HtoD (Pinned -> Device)", 60, category="gpu_memcpy", launch="cudaMemcpyAsync")
    while True:
        begin_us = step.host_us
        step.thread = MAIN
        step.run(Op("aten::copy_", shaped(ROWS, ROWS), (upload,)))
        for _ in range(NUM_LAYERS):
            for op in forward:
                step.run(op)
        step.run(
            annotated("tgsbench::loss", linear(VOCAB, 5_000), pointwise("nll_loss", "nll_loss_forward", 90))
        )
        step.thread, step.nodes = AUTOGRAD, []
        for _ in range(NUM_LAYERS):
            step.run(annotated("FSDP::pre_backward", gather()))
            step.run(annotated("tgsbench::recompute", *forward[1:]))
            while step.nodes:
                step.backward(*step.nodes.pop())
            step.run(annotated("FSDP::post_backward", scatter()))
        step.thread = MAIN
        step.run(annotated("Optimizer.step#AdamW.step", *[fused] * 8))
        step.host_us = max(step.host_us, *step.free_us.values()) + 20  # the loss is read
        args, dur_us = '"External id": 1,"Record function id": 0, "Ev Idx": 0', step.host_us - begin_us
        step._span(step.rows, "user_annotation", f"ProfilerStep#{number}", PID, MAIN, begin_us, dur_us, args)
        yield ",\n".join(step.rows), ",\n".join(step.device_rows)
        step.rows, step.device_rows, number = [], [], number + 1


def head(rank: int) -> str:
    """What stands before the events."""
    groups = ", ".join(
        f'{{"pg_name": "{number}", "pg_desc": "{name}", "backend_config": "cuda:nccl", "pg_size": {size}, '
        f'"ranks": {list(range(size))}}}'
        for number, (name, size) in enumerate((("default_pg", FSDP), ("mesh_sp", SP), ("mesh_fsdp", FSDP)))
    )
    return (
        '{\n  "schemaVersion": 1,\n'
        '  "deviceProperties": [\n    {"id": 0, "name": "NVIDIA H100 80GB HBM3"}\n  ],\n'
        '  "record_shapes": 1,\n'
        f'  "distributedInfo": {{"backend": "nccl", "rank": {rank}, "world_size": {FSDP}, "pg_count": 3, '
        f'"pg_config": [{groups}], "nccl_version": "2.27.5"}},\n  "host_name": "synthetic",\n'
        '  "displayTimeUnit": "ms",\n  "baseTimeNanoseconds": 1790857026000000000,\n  "traceEvents": [\n'
    )


TAIL = '\n  ],\n  "traceName": "synthetic"\n}\n'


def write(path: Path, num_bytes: int, rank: int = 0) -> int:
    """Write whole steps until the trace has at least `num_bytes`; returns how many bytes it has."""
    return next(growing(path, [num_bytes], rank))


def growing(path: Path, sizes: Sequence[int], rank: int = 0) -> Iterator[int]:
    """Write one trace that grows: at each size it is whole, and the bytes that it has are yielded."""
    made, comma = steps(rank), ""
    with path.open("w", encoding="utf-8") as file:
        end = file.write(head(rank))
        for num_bytes in sizes:
            file.seek(end)
            while end < num_bytes:
                end += file.write(comma + ",\n".join(next(made)))
                comma = ",\n"
            file.write(TAIL)
            file.flush()
            yield end + len(TAIL)


def write_by_kind(path: Path, num_bytes: int, rank: int = 0) -> int:
    """The same trace in the order of Kineto's files: all that the host did, then all of the device's."""
    made, size = steps(rank), 0
    with path.open("w", encoding="utf-8") as file, TemporaryFile("w+", encoding="utf-8") as device:
        file.write(head(rank))
        while size < num_bytes:
            host_rows, device_rows = next(made)
            file.write((",\n" if size else "") + host_rows)
            device.write(",\n" + device_rows)
            size += len(host_rows) + len(device_rows)
        device.seek(0)
        shutil.copyfileobj(device, file, 1 << 20)
        file.write(TAIL)
    return path.stat().st_size
