"""Seconds of each piece of work on a device, by the planner's formulas and constants alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tgsbench.metrics import figures
from tgsbench.models.family import seen_keys
from tgsbench.planner.machine import Machine, attention_speed
from tgsbench.planner.network import between_nodes_s, exchange_s, hop_s, ring_s
from tgsbench.planner.time import gemm_rate, stream_s
from tgsbench.planner.workload import StepWorkload
from tgsbench.virtual_gpu.log import Kind, Record

LEAST_S = 2e-6
"""No kernel is shorter: launching and draining an empty grid takes 2 to 3 µs on A100 and H100."""
_ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp8": 1, "fp32": 4, "fp64": 8}
_FP32_SHARE = 1 / 16
"""Of the bf16 tensor-core peak, what fp32 products reach without TF32 (A100: 19.5 of 312 TFLOPs)."""
_CHUNK = 65536
"""Elements of one block of torch's multi-tensor kernels."""
_ADAM_TRAFFIC = 7 / 4
"""Gradient, weight and two moments are read, all but the gradient written."""
_THREAD_BYTES = 32
"""Read and written by a thread of a kernel that nothing is known of: four fp32 values in, four out."""
_FLASH = re.compile(r"flash_(fwd|bwd)_kernel_traits<(\d+), (\d+), (\d+)", re.IGNORECASE)
_FLAGS = re.compile(r"> ?>, \w+, (\w+), (\w+)")
"""Behind dropout: is the kernel causal, and do its queries see a window."""
_NUM_ARRAYS = re.compile(r"std::array<char\*, (\d+)ul>")
_LISTS = re.compile(r"TensorListMetadata<(\d+)>|TensorListScalarListMetadata<[^,]*, (\d+)>")


class Durations:
    """Durations of one rank's work on one machine."""

    def __init__(self, work: StepWorkload, machine: Machine, records: Sequence[Record]) -> None:
        self._work, self._machine = work, machine
        self._ranks = {r.args[0]: r.args[1] for r in records if r.kind == Kind.COMMUNICATOR}
        self._between = _between_nodes(work, records)
        self._gathered = 0.0
        """Bytes of the last all-gather, which the next copy-out moves."""
        self._norm_elements = 0
        self._window = max((group.window for group in work.dims.groups), default=0)

    def __call__(self, record: Record) -> float:
        """Seconds of one piece of work; called in the order of the calls."""
        match record.kind:
            case Kind.GEMM:
                return self._product(record)
            case Kind.COPY if record.args[1] in (1, 2):
                return max(LEAST_S, record.args[0] / (self._machine.gpu.host_gb_per_s * 1e9))
            case Kind.COPY:
                return self._stream(2.0 * record.args[0])
            case Kind.MEMSET:
                return self._stream(float(record.args[0]))
            case Kind.COLLECTIVE:
                return self._collective(record)
            case _:
                return self._kernel(record)

    def _stream(self, num_bytes: float) -> float:
        return max(LEAST_S, stream_s(num_bytes, self._machine))

    def _product(self, record: Record) -> float:
        m, n, k, batch = record.args
        dtype = record.name.removeprefix("gemm ")
        operand, result = _ELEMENT_BYTES.get(dtype, 2), 2 if dtype == "fp8" else _ELEMENT_BYTES.get(dtype, 2)
        num_bytes = batch * ((m * k + k * n) * operand + m * n * result)
        short = self._machine.fitted.product_half_width * 2.0 * m * n * batch
        flops_s = (2.0 * m * n * k * batch + short) / self._rate(dtype)
        return max(LEAST_S, flops_s + stream_s(num_bytes, self._machine))

    def _rate(self, dtype: str) -> float:
        """FLOPs per second of long products of a type."""
        rate, gpu = gemm_rate(self._work, self._machine), self._machine.gpu
        if dtype == "fp8":  # at the same share of its own peak: this clock counts its casts as kernels
            return rate * figures.peak_flops_per_s(gpu, dtype) / figures.peak_flops_per_s(gpu)
        return rate * (_FP32_SHARE if dtype in ("fp32", "fp64") else 1.0)

    def _collective(self, record: Record) -> float:
        size, communicator, _, _ = record.args
        ranks = self._ranks.get(communicator, 1)
        if ranks == 1:
            return LEAST_S
        if record.name == "all_to_all":
            if communicator == self._between:
                taken = between_nodes_s(float(size), self._work, self._machine)
            else:
                taken = exchange_s(float(size), self._work, self._machine, ranks)
            return taken.node_s + taken.network_s
        if record.name in ("send", "receive") and ranks == self._work.ring:
            return hop_s(float(size), self._work, self._machine)
        whole = size * ranks if record.name == "all_gather" else size
        if record.name == "all_gather":
            self._gathered = whole
        rounds = 2.0 if record.name == "all_reduce" else 1.0
        return rounds * ring_s(float(whole), 1, ranks, self._work, self._machine)

    def _kernel(self, record: Record) -> float:
        attention = _FLASH.search(record.name)
        is_product = "flash_fwd" in record.name or "dq_dk_dv" in record.name
        if attention and is_product and "combine" not in record.name:
            return self._attention(record, attention)
        return self._stream(self._bytes(record))

    def _attention(self, record: Record, traits: re.Match[str]) -> float:
        """By the grid: blocks of the sequence, batch, heads; and by the kernel's flags."""
        is_forward = traits[1].lower() == "fwd"
        head_dim, block_q, block_k = (int(traits[i]) for i in (2, 3, 4))
        blocks, rest = record.args[:2]
        batch, heads = rest & 0xFFFFFFFF, rest >> 32
        rows = batch * heads if "splitkv" not in record.name else heads
        length = blocks * (block_q if is_forward else block_k)
        speed = attention_speed(self._machine.fitted, self._work.kernel, head_dim)
        reached = length / (length + speed.half_len) * self._work.system.attention_share * 1e12
        flops = 4.0 * rows * length * self._keys_of_query(record.name, length) * head_dim
        if is_forward:
            return flops / (speed.forward_tflops * reached)
        return 2.5 * flops / (speed.backward_tflops * reached)

    def _keys_of_query(self, name: str, length: int) -> float:
        """Keys that a query sees in the mean: a window, the causal half, or all of a block.

        The grid does not tell how many these are: as many as queries where a chunk of the sequence meets
        an earlier one, and of what a member of a ring holds, half of all pairs of queries and keys.
        """
        flags = _FLAGS.search(name)
        is_causal, is_local = (flag == "true" for flag in flags.groups()) if flags else (True, False)
        if is_local:
            return seen_keys(length, self._window)
        if is_causal:
            return seen_keys(length, 0)
        held = self._work.seq_len / self._work.ring
        return held * held / 2 / length if self._work.ring > 1 else float(length)

    def _bytes(self, record: Record) -> float:
        """What a kernel without products reads and writes."""
        name, (blocks, rest, block, elements) = record.name, record.args
        yz = (rest & 0xFFFFFFFF) * (rest >> 32)
        if "layer_norm" in name:
            return self._norm_bytes(name, blocks, elements)
        if elements:
            return float(elements) * _element_traffic(name)
        if "split_with_sizes_copy_out" in name:
            return 2.0 * self._gathered * self._machine.fitted.gather_contention
        if lists := _LISTS.search(name):
            depth = int(lists[1] or lists[2])
            return blocks * _CHUNK * 4.0 * depth * (_ADAM_TRAFFIC if "Optimizer" in name else 1.0)
        return float(blocks) * yz * (block & 0xFFFFFFFF) * _THREAD_BYTES

    def _norm_bytes(self, name: str, blocks: int, width: int) -> float:
        """Forward: in and out; backward, whose kernels do not tell the width, reads two and writes one."""
        if width:
            self._norm_elements = blocks * width
            return 4.0 * self._norm_elements
        return 6.0 * self._norm_elements


def _between_nodes(work: StepWorkload, records: Sequence[Record]) -> int:
    """The communicator of the first hop of keys and values; 0: there is none.

    It has one rank a node, and is made before the one inside a node, which may have as many.
    """
    exchanging = {r.args[1] for r in records if r.kind == Kind.COLLECTIVE and r.name in _EXCHANGES}
    made = (r.args for r in records if r.kind == Kind.COMMUNICATOR)
    of_hop = (handle for handle, ranks, *_ in made if ranks == work.kv_nodes and handle in exchanging)
    return next(of_hop, 0) if work.kv_nodes > 1 else 0


_EXCHANGES = ("all_to_all", "send")
"""As torch asks NCCL for an all-to-all: by its own call, or by messages."""


def _element_traffic(name: str) -> float:
    """Bytes an element of an element-wise kernel moves, by its functor's types."""
    arrays = _NUM_ARRAYS.search(name)
    operands = int(arrays[1]) if arrays else 3 if "Binary" in name or "add" in name else 2
    if "bfloat16_copy_kernel" in name or "float16_copy_kernel" in name:
        return 6.0  # fp32 read, half written
    half = "BFloat16" in name or "Half" in name
    return operands * (2.0 if half else 8.0 if "<long" in name else 4.0)
