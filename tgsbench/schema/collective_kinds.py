"""The kinds of collective communication: all that is known of each stands in this table and nowhere else.

To add a kind, add a row before the last two. It is then classified in traces, titled in every front end,
rated against the link, explained in findings, and counted by the planner's trace on fake tensors.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from tgsbench.schema import spans


class CollectiveKind(Struct, frozen=True, kw_only=True):
    """One kind of collective; patterns are regular expressions, searched without regard to case."""

    name: str
    """As profiles on disk write it."""
    title: str
    """As people read it."""
    patterns: tuple[str, ...] = ()
    """How NCCL's "Collective name", a gloo or NCCL annotation, an operator or a kernel writes it."""
    markers: tuple[str, ...] = ()
    """Names that communicate though no library's prefix says so (operators and kernels of their own)."""
    blocking_ops: tuple[str, ...] = ()
    """Operators, whole names, in which the calling thread waits until the collective is over."""
    operators: tuple[str, ...] = ()
    """Operators, whole names, that torch dispatches for it: their payload counts under fake tensors."""
    narrows: str = ""
    """Kind that this one is a special case of: it is meant where a call's group is one of `groups`."""
    groups: tuple[str, ...] = ()
    """Regular expressions of those groups' labels."""
    is_local: bool = False
    """Copies into and out of a collective's buffers: shard traffic that crosses no link."""
    spans: tuple[str, ...] = ()
    """Our own spans around it: what communicates in one is of this kind, whatever its launch says."""
    span_group: str = ""
    """Process group of what is launched in those spans, for gloo, whose records do not name it."""
    gloo_runs_as: str = ""
    """Kind that gloo's annotation shows in its place."""
    link_passes: int = 0
    """How often (n−1)/n of its bytes cross a rank's link in a group of n (NCCL tests, PERFORMANCE.md);
    0: its bytes cross once, whatever n is."""
    remedy: str = ""
    """What to try when it costs much of the step."""
    remedy_across_nodes: str = ""
    """What to try when its groups span nodes of {node} GPUs; empty: that is as good as it gets."""

    def bus_factor(self, group_size: int) -> float:
        """Bytes that cross one rank's link for each byte of a call, in a group of so many ranks."""
        return self.link_passes * (group_size - 1) / group_size if self.link_passes else 1.0


OTHER: Final = CollectiveKind(name="comm_other", title="other communication")
"""Named, but none of ours."""
UNKNOWN: Final = CollectiveKind(
    name="comm_unknown",
    title="unknown communication",
    remedy="capture one step more: their launches lie outside the trace",
)
"""Communication whose name could not be found."""

KINDS: Final[tuple[CollectiveKind, ...]] = (
    CollectiveKind(
        name="expert_all_to_all",
        title="expert all-to-all",
        patterns=(
            r"expert_?all_?to_?all",
            r"(?<![a-z])(intranode|internode)(_ll)?::",
            r"deep_?ep|hybrid_?ep|(?<![a-z])(mori|uccl|pplx)::|pplx_garden|elastic_?ep",
            r"moe_?(a2a|all_?to_?all|comm)|(?<![a-z])Ep(Dispatch|Combine)\w*Kernel|trtllm_alltoall",
            r"(cached_?)?notify_?(dispatch|combine)",
            r"a2a_(dispatch|combine)|all_?to_?all_?vdev_?2d|allToAllV_?2d",
            r"(moe_?)?distribute_?(dispatch|combine)",
        ),
        markers=(
            r"(?<![a-z])(intranode|internode)(_ll)?::(cached_)?(notify_)?(dispatch|combine|barrier|clean)",
            r"deep_?ep::(?!layout)|hybrid_?ep::|(?<![a-z])(mori|uccl|pplx|pplx_garden)::",
            r"moe_?(a2a|all_?to_?all|comm)\w*(kernel|dispatch|combine|prepare)|trtllm_alltoall",
            r"(?<![a-z])Ep(Dispatch|Combine)\w*Kernel",
            r"(?<![a-z])(cached_?)?notify_?(dispatch|combine)",
            r"a2a_(dispatch|combine)_?(send|recv)|all_?to_?all_?vdev|allToAllV",
            r"moe_?distribute_?(dispatch|combine)",
        ),
        blocking_ops=("tgsbench::expert_all_to_all",),
        operators=("tgsbench::expert_all_to_all",),
        narrows="all_to_all",
        groups=(r"(^|[_.-])e?t?ep(_|-|\d|$)", r"expert"),
        spans=(spans.DISPATCH, spans.COMBINE),
        span_group="ep",
        link_passes=1,
        remedy="dispatch in fp8; overlap it with the shared expert or another micro-batch",
        remedy_across_nodes="experts limited to few nodes a token; groups of at most {node} inside a node",
    ),
    CollectiveKind(
        name="all_to_all",
        title="all-to-all",
        patterns=(r"all_?to_?all", r"alltoall"),
        markers=(r"^tgsbench::all_to_all$",),
        blocking_ops=("tgsbench::all_to_all",),
        operators=("tgsbench::all_to_all", "c10d::alltoall_base_"),
        spans=(spans.A2A_PRE, spans.A2A_POST),
        span_group="sp",
        link_passes=1,
        remedy="a smaller sp; fewer KV heads are sent where sp ≤ KV heads",
        remedy_across_nodes="sp of at most {node}, inside a node",
    ),
    CollectiveKind(
        name="all_gather",
        title="all-gather",
        patterns=(r"all_?gather",),
        markers=(
            r"multimem_\w*all_?gather",
            r"(?<![a-z])(vllm|sglang|aiter)::\w*all_?gather",
            r"all_?gather_(push|pull)",
            r"(?<![a-z])(mscclpp|ccl|oneccl|ub)(::|_)[\w:]*all_?gather|(?<![a-z_])allgather\d+(?![a-z0-9])",
        ),
        operators=("c10d::_allgather_base_", "_c10d_functional::all_gather_into_tensor"),
        link_passes=1,
        remedy="prefetch the next layer's parameters; more tokens a micro-step hide them",
    ),
    CollectiveKind(
        name="reduce_scatter",
        title="reduce-scatter",
        patterns=(r"reduce_?scatter",),
        markers=(
            r"(multimem|one_shot|two_shot)_\w*reduce_?scatter",
            r"(?<![a-z])(vllm|sglang|aiter)::\w*reduce_?scatter",
            r"(?<![a-z])(mscclpp|ccl|oneccl|ub)(::|_)[\w:]*reduce_?scatter",
        ),
        operators=("c10d::_reduce_scatter_base_", "_c10d_functional::reduce_scatter_tensor"),
        spans=(spans.SHARD_SCATTER,),
        span_group="fsdp",
        gloo_runs_as="all_reduce",
        link_passes=1,
        remedy="accumulate over more micro-steps; reduce in bf16 if the loss allows",
    ),
    CollectiveKind(
        name="all_reduce",
        title="all-reduce",
        patterns=(
            r"all_?reduce", r"(one|two)_?shot_?all", r"cross_device_reduce", r"quick_?reduce",
            r"userbuffers_\w*sum",
        ),
        markers=(
            r"multimem_\w*(all_?reduce|one_shot)",
            r"(one|two)_?shot_?\w*all_?reduce",
            r"all_?reduce_?(fusion|one_?shot|two_?shot|push|pull|prototype|\w*lamport|multimem|nvls|all_?pairs)",
            r"(?<![a-z])(mscclpp|ccl|oneccl|ub)(::|_)[\w:]*all_?reduce|(?<![a-z_])allreduce\d+(?![a-z0-9])",
            r"cross_device_reduce",
            r"quick_?reduce|(?<![a-z])quickreduce::",
            r"(?<![a-z])(vllm|sglang|sgl_kernel|aiter|flashinfer|tensorrt_llm|trtllm\w*)::\w*all_?reduce",
            r"userbuffers_\w*sum",
        ),
        operators=("c10d::allreduce_", "_c10d_functional::all_reduce"),
        link_passes=2,
        remedy="shard instead of replicating; fewer small reductions (clip the norm once)",
    ),
    CollectiveKind(
        name="broadcast",
        title="broadcast",
        patterns=(r"broadcast",),
        remedy="no broadcast inside a step",
    ),
    CollectiveKind(
        name="ring",
        title="ring send/recv",
        patterns=(r"(^|:)ring$", r"ring_?(flash_?)?attn|ring_?attention"),
        narrows="p2p",
        groups=(r"(^|[_.-])(ring|cp)(_|-|\d|$)", r"context_?parallel"),
        spans=(spans.RING,),
        span_group="ring",
        remedy="longer sequences hide a step's keys; fewer members and more Ulysses ranks send less",
        remedy_across_nodes="Ulysses ranks fill the node, members are one a node",
    ),
    CollectiveKind(
        name="p2p",
        title="send/recv",
        patterns=(
            r"\b_?i?(send|recv)(_|any|\b)", r"send_?recv", r"batch_isend_irecv", r"coalesced_p2p",
            r"userbuffers_push", r"hcom_(send|receive)", r"batchSendRecv",
        ),
        markers=(r"userbuffers_push(send|recv)",),
        remedy="more chunks in flight",
    ),
    CollectiveKind(
        name="barrier",
        title="barrier",
        patterns=(r"barrier",),
        remedy="no barrier inside a step",
    ),
    CollectiveKind(
        name="shard_copy",
        title="shard copies",
        patterns=(r"shard_?cop(y|ies)",),
        is_local=True,
        remedy="fewer, larger FSDP units; reshard_after_forward=False saves the second copies",
    ),
    OTHER,
    UNKNOWN,
)  # fmt: skip
"""In order: where several are in flight at once, the first has the instant; where a name fits several, the
first is meant."""

BY_NAME: Final = {kind.name: kind for kind in KINDS}
BY_SPAN: Final = {span: kind for kind in KINDS for span in kind.spans}
"""Our own spans around a collective -> its kind."""
BY_OPERATOR: Final = {operator: kind.name for kind in KINDS for operator in kind.operators}
"""Operator that torch dispatches -> name of its kind."""
