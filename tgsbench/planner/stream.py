"""What the planner expects of one rank's operator stream, to be held against a dry run."""

from __future__ import annotations

from tgsbench.planner.counts import head_products, layer_counts
from tgsbench.planner.memory import memory_plan
from tgsbench.planner.network import exchanged_bytes, expert_shard_bytes, gathered_bytes, shard_bytes
from tgsbench.planner.workload import StepWorkload
from tgsbench.units import GIB


def planned_stream(work: StepWorkload) -> dict[str, float]:
    """FLOPs, collective bytes and live tensors of one micro-step; the keys of report.plan.dry_run_totals."""
    counts, layers = layer_counts(work), work.dims.num_layers
    again = counts.gemm_recompute.flops if work.checkpointing != "none" else 0.0
    forwards = 2.0 if work.checkpointing == "full" else 1.0
    experts = expert_shard_bytes(work)
    # There and back: in the forward, in its repetition, in the backward.
    passes = 2 * (2 if work.checkpointing == "none" else 3) if work.ep > 1 else 0
    layer = 3 * counts.gemm.flops + counts.gemm_tiled.flops + again
    return {
        "product FLOPs": layers * layer + 3 * head_products(work)[0].flops,
        "attention FLOPs": layers * counts.attention_flops * (forwards + 2.5),
        "all-to-all bytes": exchanged_bytes(work),
        "expert all-to-all bytes": work.dims.routed_layers * passes * work.routed_bytes,
        "all-gather bytes": gathered_bytes(work) + experts.gather_forward + experts.gather_backward,
        "reduce-scatter bytes": shard_bytes(work).scatter + experts.scatter,
        "peak GiB": memory_plan(work).tensor_bytes / GIB,
    }
