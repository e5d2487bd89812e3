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
    traffic=ElementwiseTraffic(hidden=(20.0, 24.0), rotary=(0.0, 0.0), mlp=(8.0, 12.0), logits=22.73),
    attention_share=0.5224,
    product_share=1.025,
    step_overhead_s=0.0324,
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
    product_share=1.0554,
    step_overhead_s=0.0155,
)
"""FSDP2; selective checkpointing saves attention and every second product of a layer."""

FMS_FSDP = replace(
    TORCHTITAN,
    name="fms_fsdp",
    recompute_share=1.0,
    checkpointed_share=0.5,
    product_share=0.9287,
    step_overhead_s=0.0071,
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
    product_share=1.0037,
    step_overhead_s=0.4674,
)
"""Hybrid ZeRO in bf16 with an fp32 master copy; norms, rotary embedding and loss in one kernel each."""

STACKS = {stack.name: stack for stack in (LLM_FOUNDRY, TORCHTITAN, FMS_FSDP, INTERNEVO)}
