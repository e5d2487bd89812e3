"""What a name in a trace stands for: patterns, first match wins; the last resort where no span tells.

Kinds are those of schema/hotspots.PARTS. Sources of the names: kernels of PyTorch, flash-attn 2–4, cuDNN,
xFormers, cuBLAS, CUTLASS, Triton, NCCL, Liger and Apex as they show in traces; torch's own op schemas.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from tgsbench.schema import collective_kinds, spans

SPAN_KINDS: Final = {
    spans.ATTENTION: "attention_fwd",
    spans.LOSS: "loss",
    spans.OPTIMIZER: "optimizer",
    spans.RECOMPUTE: "recompute",
    spans.DATA: "data",
}
"""Our own spans; those of forward, backward and MLP say nothing about the kind, those of a collective
hold copies as well: only what communicates in them is of its kind (collective_kinds.BY_SPAN)."""


def _any(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts), re.IGNORECASE)


_COLLECTIVES: Final = [(kind.name, _any(*kind.patterns)) for kind in collective_kinds.KINDS if kind.patterns]
_COMMUNICATION: Final = _any(
    r"^(nccl|gloo|mpi|ucc|xccl|hccl|rccl):",
    r"(nccl|rccl)_?(dev)?_?kernel",
    r"^c10d::",
    r"^_?c10d_functional(_autograd)?::",
    r"^record_param_comms$",
    r"nvshmem",
    r"symm_mem::",
    r"deep_?ep::",
    *(marker for kind in collective_kinds.KINDS for marker in kind.markers),
)
_SEND_RECV_KERNEL: Final = _any(r"(nccl|rccl)_?(dev)?_?kernel_?send_?recv", r"ncclKernel_SendRecv")
_NCCL_KERNEL: Final = _any(r"(nccl|rccl)_?(dev)?_?kernel")

_FLASH_BACKWARD: Final = (
    r"flash_?(attn|attention)?_?(varlen)?_?(bwd|bprop|backward)",
    r"flash_?attn\w*(bwd|backward)",
    r"flash_?attention\w*(bwd|backward)",
    r"fmha\w*(cutlassB|bwd|backward|bprop)",
    r"(scaled_?dot_?product|efficient_?attention|cudnn_?attention|flex_?attention|fused_?attn)\w*(bwd|backward|bprop)",
    r"sdpa\w*(bprop|bwd|backward)",
    r"attn_bwd",
    r"bwd_?dot_?do_?o",
    r"bwd_?convert_?d(q|kv)",
    r"bwd_?(kernel_)?d(q|k|kv)_",
    r"(ring|ulysses)\w*attn\w*(bwd|backward)",
)
_FLASH_FORWARD: Final = (
    r"flash_?(attn|attention|fwd|fprop)",
    r"fmha",
    r"scaled_?dot_?product",
    r"efficient_?attention",
    r"mem_?eff_?attention",
    r"cudnn_?attention",
    r"flex_?attention",
    r"fused_?attn",
    r"sdpa",
    r"attn_fwd",
    r"prepare_varlen",
    r"UlyssesAttn|RingAttn",
)
_KINDS: Final = (
    ("attention_bwd", _any(*_FLASH_BACKWARD)),
    ("attention_fwd", _any(*_FLASH_FORWARD)),
    (
        "optimizer",
        _any(
            r"^Optimizer\.(step|zero_grad)",
            r"multi_tensor_apply",
            r"_foreach_",
            r"_?fused_?(adam|adamw|sgd|adagrad|lamb|lion)",
            r"\b(adamw?|lamb|muon|lion)(_|\b)",
            r"cpu_?adam",
            r"clip_grad_norm",
        ),
    ),
    (
        "loss",
        _any(
            r"cross_?entropy",
            r"nll_?loss",
            r"log_?softmax",
            r"softmaxforward|softmaxbackward.*logsoftmax|cunn_softmax",
            r"\w*loss(backward\d*)?$",
            r"_ChunkedLoss",
            r"linear_cross",
        ),
    ),
    (
        "norm_elementwise",
        _any(
            r"(layer|rms|group|batch|instance)_?norm",
            r"norm_?(fwd|bwd|forward|backward)",
            r"gamma_?beta",
            r"bn_(fw|bw)",
        ),
    ),
    (
        "gemm",
        _any(
            r"(?<!fb)gemm",
            r"gemv",
            r"_[a-z]cudnn_",
            r"nvjet",
            r"xmma",
            r"split_?k",
            r"cublas",
            r"cutlass_\d+",
            r"cutlass::Kernel2?",
            r"Cijk_",
            r"triton_tem_fused_\w*?(mm|addmm|bmm)",
            r"aten::(mm|addmm|bmm|baddbmm|addbmm|addmv|mv|dot|matmul|linear|einsum)\b",
            r"aten::(_scaled_(grouped_)?mm|_grouped_mm|convolution\w*|_convolution|mkldnn_\w+|cudnn_convolution\w*)",
            r"(^|[^a-z])(mm|addmm|bmm|baddbmm|linear|mkldnnlinear|matmul|convolution)backward",
            r"(conv|wgrad|dgrad|implicit_?gemm)\w*(kernel|fprop|dgrad|wgrad)",
        ),
    ),
    (
        "memcpy",
        _any(
            r"^mem(cpy|set)\b",
            r"aten::(copy_|_to_copy|clone|contiguous|cat|to|stack|pin_memory|_pin_memory)$",
        ),
    ),
    (
        "norm_elementwise",
        _any(
            r"elementwise",
            r"vectorized",
            r"unrolled",
            r"reduce_kernel",
            r"triton_(poi|red|per|for)_",
            r"(direct_)?copy_kernel",
            r"CatArray",
            r"cat_?copy|copybackward|catbackward",
            r"split_with_sizes",
            r"softmax",
            r"embedding",
            r"index(_|select|put|fill|kernel)",
            r"(gather|scatter)_",
            r"rope|rotary|swiglu|geglu|silu|gelu|relu",
            r"dropout|distribution_|philox|random",
            r"transpose|permute|nchw|nhwc",
            r"pool(ing|2d|3d)?",
            r"^aten::",
            r"accumulategrad",
            r"\w+backward\d*$",
            r"fsdp::",
            r"cub::|radix_?sort|device_?scan",
        ),
    ),
)

_FRAMES: Final = _any(r"^autograd::engine::", r"^torch::autograd::", r"backward\d*$", r"^\w+$")


def is_frame(name: str) -> bool:
    """Is the op's own time on the CPU Python's or a wait's? Autograd nodes and Functions, collectives."""
    return _FRAMES.search(name) is not None or is_communication(name)


def is_backward_node(name: str) -> bool:
    """Does the engine run a node's backward in it?"""
    return name.startswith("autograd::engine::evaluate_function")


@lru_cache(maxsize=1 << 16)
def collective_kind(name: str) -> str:
    """Kind of a collective from its name as NCCL's record, an annotation or an op writes it."""
    for kind, pattern in _COLLECTIVES:
        if pattern.search(name):
            return kind
    return collective_kinds.OTHER.name


def is_communication(name: str) -> bool:
    """Does the name belong to a communication library, kernel or op?"""
    return _COMMUNICATION.search(name) is not None


def is_nccl_kernel(name: str) -> bool:
    """A device kernel of NCCL or RCCL."""
    return _NCCL_KERNEL.search(name) is not None


@lru_cache(maxsize=1 << 16)
def kind_of(name: str) -> str:
    """Kind of a kernel, op or annotation from its name alone.

    NCCL runs all-to-all, send and receive (and before 2.18 anything) in kernels called SendRecv: those stay
    `comm_unknown`.
    """
    if is_communication(name):
        is_ambiguous = _SEND_RECV_KERNEL.search(name)
        return collective_kinds.UNKNOWN.name if is_ambiguous else collective_kind(name)
    for kind, pattern in _KINDS:
        if pattern.search(name):
            return kind
    return "other"


def device_kind(category: str, name: str) -> str:
    """The same for what runs on a device: copies and fills are known by their category."""
    return "memcpy" if category in ("gpu_memcpy", "gpu_memset") else kind_of(name)
