"""What a name in a trace stands for: patterns, first match wins; the last resort where no span tells.

Kinds are those of schema/hotspots.PARTS. Kernels are in kernel_names.toml, collectives in
schema/collective_kinds.py; here are operators (torch's schemas), autograd functions and modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.resources import files
from itertools import groupby
from typing import Final

import tomli

from tgsbench.schema import collective_kinds, spans

SPAN_KINDS: Final = {
    spans.ATTENTION: "attention_fwd",
    spans.LINEAR_ATTENTION: "linear_attention",
    spans.ROUTER: "router",
    spans.EXPERTS: "experts",
    spans.SHARED_EXPERT: "shared_expert",
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
_NARROWED: Final = [(kind, _any(*kind.groups)) for kind in collective_kinds.KINDS if kind.groups]
_LIBRARY_KERNEL: Final = r"(?<![a-z])(nccl|rccl|msccl)(pp)?\w*?_?kernel"
_COMMUNICATION: Final = _any(
    r"^(nccl|gloo|mpi|ucc|xccl|hccl|rccl|ccl|oneccl|cncl):",
    _LIBRARY_KERNEL,
    r"^c10d::",
    r"^_?c10d_functional(_autograd)?::",
    r"^record_param_comms$",
    r"nvshmem",
    r"(?<![a-z])(rocshmem|mscclpp|oneccl|hccl|cncl)",
    r"(?<![a-z])hcom_",
    r"symm_mem::",
    r"_C_custom_ar::",
    *(marker for kind in collective_kinds.KINDS for marker in kind.markers),
)
_SAYS_NOTHING: Final = _any(
    r"(nccl|rccl)\w*?_?kernel_?(send_?recv|generic)|rcclgenerickernel",
    r"(?<![a-z])msccl(pp)?(_?kernel|::)(?![\w:]*all_?(reduce|gather))",
    r"rccl_main_kernel",
)
"""Kernels that run whatever the library asks them to: only a record tells what it was."""
_NCCL_KERNEL: Final = _any(_LIBRARY_KERNEL)

_FLASH_BACKWARD: Final = (
    r"flash_?(attn|attention)?_?(varlen)?_?(bwd|bprop|backward)",
    r"flash_?attn\w*(bwd|backward)",
    r"flash_?attention\w*(bwd|backward)",
    r"fmha\w*(cutlassB|bwd|backward|bprop)",
    r"(scaled_?dot_?product|efficient_?attention|cudnn_?attention|flex_?attention|fused_?attn)\w*(bwd|backward|bprop)",
    r"sdpa\w*(bprop|bwd|backward)",
    r"attn_bwd",
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
)
_OPERATORS: Final = (
    (
        "linear_attention",
        _any(r"gated_?delta", r"delta_?rule", r"causal_?conv1d", r"selective_?scan", r"chunk_?(scan|state)"),
    ),
    ("attention_bwd", _any(*_FLASH_BACKWARD)),
    ("attention_fwd", _any(*_FLASH_FORWARD)),
    (
        "optimizer",
        _any(
            r"^Optimizer\.(step|zero_grad)",
            r"_foreach_norm",
            r"_?fused_?(adam|adamw|sgd|adagrad|lamb|lion)",
            r"\b(adamw?|lamb|muon|lion)(_|\b)",
            r"cpu_?adam",
            r"clip_grad_norm",
        ),
    ),
    (
        "loss",
        _any(r"cross_?entropy", r"nll_?loss", r"log_?softmax", r"\w*loss(backward\d*)?$", r"linear_cross"),
    ),
    (
        "norm_elementwise",
        _any(r"(layer|rms|group|batch|instance)_?norm", r"norm_?(fwd|bwd|forward|backward)"),
    ),
    (
        "gemm",
        _any(
            r"(?<!fb)gemm",
            r"aten::(mm|addmm|bmm|baddbmm|addbmm|addmv|mv|dot|matmul|linear|einsum)_?\b",
            r"aten::(_scaled_(grouped_)?mm|_grouped_mm|convolution\w*|_convolution|mkldnn_\w+|_mkldnn_linear\w*)",
            r"aten::cudnn_convolution\w*",
            r"(^|[^a-z])(mm|addmm|bmm|baddbmm|linear|mkldnnlinear|matmul|convolution)backward",
        ),
    ),
    ("memcpy", _any(r"aten::(copy_|_to_copy|clone|contiguous|cat|to|stack|pin_memory|_pin_memory)$")),
    (
        "norm_elementwise",
        _any(
            r"^aten::",
            r"rope|rotary|swiglu|geglu|silu|gelu|relu|softmax|embedding|dropout",
            r"(index|gather|scatter)_",
            r"accumulategrad",
            r"\w+backward\d*$",
            r"fsdp::",
        ),
    ),
)
_FUNCTIONS: Final = (
    (
        "linear_attention",
        _any(
            r"^(Fused)?(Chunk|Recurrent|Parallel)\w*(Delta|GLA|GSA|KDA|LinearAttn|LinearAttention|RWKV|HGRN|DPLR)\w*"
            r"Function(Backward)?$",
            r"^CausalConv1d(Fn|Function)(Backward)?$",
            r"^(SelectiveScan|MambaChunkScanCombined)Fn(Backward)?$",
        ),
    ),
    (
        "attention_bwd",
        _any(r"^_?Flash_?Attn\w*Func\w*Backward$", r"^(Ring|Ulysses|ZigZag|Fused)\w*Attn\w*Backward$"),
    ),
    (
        "attention_fwd",
        _any(r"^_?Flash_?Attn\w*Func\w*$", r"^(Ring|Ulysses|ZigZag|Fused)\w*Attn\w*$", r"^_fMHA$"),
    ),
    ("loss", _any(r"(Cross_?Entropy|Loss)(Function|Func|Loss)?(Backward)?$")),
    (
        "norm_elementwise",
        _any(r"^_?(Fused|Liger|Fast)?(RMS|Layer)_?Norm(Affine)?(Function|Func|Fn)?(Backward)?$"),
    ),
)
"""Autograd functions of known libraries (flash-attention, xFormers, Ulysses and ring attention, Liger, Apex,
flash-linear-attention, causal-conv1d, Mamba without those that multiply by the output's weights).

Of others' the name says nothing: a function called after a kernel may run any.
"""
_NODE: Final = re.compile(r"^autograd::engine::evaluate_function: ")
_IDENTIFIER: Final = re.compile(r"^\w+$")
_TORCH_NODE: Final = re.compile(r"^\w+Backward\d+$")
"""A node of torch's own ends in a digit, one of a Python function does not."""
_MODULES: Final = (
    (
        "linear_attention",
        _any(r"GatedDelta(Net|Rule)", r"^DeltaNet", r"Mamba2?(Mixer)?_?\d*$", r"^(Short|CausalConv1d)Conv"),
    ),
    (
        "norm_elementwise",
        _any(r"(RMS|Layer|Group|Batch)_?Norm", r"^(Embedding|Dropout|SiLU|GELU|Rotary\w*)_?\d*$"),
    ),
    ("loss", _any(r"CrossEntropy", r"Loss_?\d*$")),
    ("gemm", _any(r"^(\w*Linear|Conv\dd)_?\d*$")),
)
MODULE_PREFIX: Final = "nn.Module: "
"""How a trace with stacks writes a module's call."""


@cache
def _kernels() -> list[tuple[str, re.Pattern[str]]]:
    """The table of kernel names; neighbours of one kind in one pattern."""
    text = files("tgsbench.traces").joinpath("kernel_names.toml").read_text("utf-8")
    entries = tomli.loads(text)["kernel"]
    return [
        (kind, _any(*(entry["pattern"] for entry in members)))
        for kind, members in groupby(entries, key=lambda entry: str(entry["kind"]))
    ]


_FRAMES: Final = _any(r"^autograd::engine::", r"^torch::autograd::", r"backward\d*$", r"^\w+$")


def is_frame(name: str) -> bool:
    """Is the op's own time on the CPU Python's or a wait's? Autograd nodes and Functions, collectives."""
    return _FRAMES.search(name) is not None or is_communication(name)


def is_backward_node(name: str) -> bool:
    """Does the engine run a node's backward in it?"""
    return name.startswith("autograd::engine::evaluate_function")


@lru_cache(maxsize=1 << 16)
def collective_kind(name: str, group: str = "") -> str:
    """Kind of a collective from its name as NCCL's record, an annotation or an op writes it.

    Some kinds are told by their process group: an all-to-all among the ranks of experts is one of its own.
    """
    found = next((k for k, pattern in _COLLECTIVES if pattern.search(name)), collective_kinds.OTHER.name)
    for kind, groups in _NARROWED:
        if kind.narrows == found and group and groups.search(group):
            return kind.name
    return found


def is_communication(name: str) -> bool:
    """Does the name belong to a communication library, kernel or op?"""
    return _COMMUNICATION.search(name) is not None


def is_nccl_kernel(name: str) -> bool:
    """A device kernel of NCCL, RCCL or MSCCL."""
    return _NCCL_KERNEL.search(name) is not None


def group_of(kind: str, labels: Iterable[str]) -> str:
    """The one group among some that calls of such a kind run on; "" where none or several fit."""
    for narrow, groups in _NARROWED:
        fitting = [label for label in labels if groups.search(label)]
        if narrow.name == kind and len(fitting) == 1:
            return fitting[0]
    return ""


@lru_cache(maxsize=1 << 16)
def kind_of(name: str) -> str:
    """Kind of an operator, an autograd node or an annotation by its name; `other`: it says nothing."""
    if is_communication(name):
        return _communication_kind(name)
    bare = _NODE.sub("", name)
    if bare.startswith("triton_"):
        return _first(bare, _kernels())
    if _IDENTIFIER.match(bare) and not _TORCH_NODE.match(bare):
        return _first(bare, _FUNCTIONS)
    is_free_text = "::" not in bare and not _TORCH_NODE.match(bare) and not bare.startswith("Optimizer.")
    return "other" if is_free_text else _first(bare, _OPERATORS)


@lru_cache(maxsize=1 << 16)
def module_kind(name: str) -> str:
    """What a module does that does one thing, by its class; `other` for those that do several."""
    return _first(name.removeprefix(MODULE_PREFIX), _MODULES)


@lru_cache(maxsize=1 << 16)
def device_kind(category: str, name: str) -> str:
    """Kind of what runs on a device: copies and fills by their category, kernels by their names.

    NCCL runs all-to-all, send and receive (and before 2.18 anything) in kernels called SendRecv, and some
    releases all in one called Generic: those stay `comm_unknown`.
    """
    if category in ("gpu_memcpy", "gpu_memset"):
        return "memcpy"
    return _communication_kind(name) if is_communication(name) else _first(name, _kernels())


def _communication_kind(name: str) -> str:
    return collective_kinds.UNKNOWN.name if _SAYS_NOTHING.search(name) else collective_kind(name)


def _first(name: str, kinds: Iterable[tuple[str, re.Pattern[str]]]) -> str:
    return next((kind for kind, pattern in kinds if pattern.search(name)), "other")
