"""Stacks whose published rows the planner was held against; tgsbench does not run them.

What they shard, save and recompute is from their own sources; speeds are fitted on their rows by
benchmarks/planner_fit.py.
"""

from __future__ import annotations

from msgspec.structs import replace

from tgsbench.systems.costs import OWN, ElementwiseTraffic, System

LLM_FOUNDRY = System(
    name="llm_foundry",
    measured=True,
    parameter_bytes=4,
    gradient_bytes=4,
    optimizer_bytes=8,
    reduce_bytes=2,
    copy_bytes=32.0,
    whole_logits=True,
    sequence_parallel=False,
    allocator_share=0.06,
    logits_bytes=4.0,
    norm_units=4.0,
    traffic=ElementwiseTraffic(hidden=(20.0, 24.0), rotary=(0.0, 0.0), mlp=(8.0, 12.0), logits=22.592),
    attention_share=0.5226,
    product_share=1.0432,
    step_overhead_s=0.033,
)
"""FSDP, fused LayerNorm, GELU, attention that computes masked blocks; bytes by its kernels' operands."""

TORCHTITAN = System(
    name="torchtitan",
    measured=True,
    parameter_bytes=4,
    gradient_bytes=4,
    optimizer_bytes=8,
    copy_bytes=32.0,
    whole_logits=True,
    sequence_parallel=False,
    norm_units=4.0,
    mlp_units=3.0,
    recompute_share=0.5,
    product_share=1.0731,
    step_overhead_s=0.015,
)
"""FSDP2; selective checkpointing saves attention and every second product of a layer."""

FMS_FSDP = replace(
    TORCHTITAN,
    name="fms_fsdp",
    recompute_share=1.0,
    checkpointed_share=0.5,
    product_share=0.9407,
    step_overhead_s=0.005,
)
"""FSDP; selective checkpointing covers a share of the blocks, which its table does not say."""

INTERNEVO = System(
    name="internevo",
    measured=True,
    parameter_bytes=2,
    gradient_bytes=2,
    optimizer_bytes=12,
    reduce_bytes=2,
    whole_logits=True,
    sequence_parallel=False,
    gradients_resident=True,
    norm_units=4.0,
    traffic=OWN,
    broadcast_hop_s=8.59e-6,
    product_share=1.0239,
    step_overhead_s=0.438,
)
"""Hybrid ZeRO in bf16 with an fp32 master copy; norms, rotary embedding and loss in one kernel each.

Its ZeRO-1 gives whole tensors to ranks, the largest first to the rank with least; each broadcasts its own.
"""

TRL_RING = System(
    name="trl_ring",
    measured=True,
    parameter_bytes=2,
    gradient_bytes=2,
    optimizer_bytes=4,
    copy_bytes=32.0,
    ring_kernel="cudnn",
    product_share=0.9229,
    step_overhead_s=0.021,
)
"""TRL's FSDP2 with torch's context parallelism: a ring over the ranks, on cuDNN's kernel, which torch
takes on an H100. All of it is in bf16, for 46 GB of a GPU hold an eighth of 30.5 B parameters. (The engine of
that name shards with DeepSpeed.)"""

STACKS = {stack.name: stack for stack in (LLM_FOUNDRY, TORCHTITAN, FMS_FSDP, INTERNEVO, TRL_RING)}
