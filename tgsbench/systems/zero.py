"""Switches of the engines that shard by DeepSpeed's ZeRO, and what the planner tries of them."""

from __future__ import annotations

from typing import Literal

from tgsbench.schema.preset import EngineOptions
from tgsbench.systems.costs import System


class ZeroOptions(EngineOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far ZeRO shards, and what it keeps in host memory."""

    zero_stage: Literal[1, 2, 3] = 3
    offload: Literal["none", "optimizer", "all"] = "none"
    """Optimizer states, or optimizer states and parameters, in host memory."""


ZERO3 = System(
    name="",
    parameter_bytes=2,
    gradient_bytes=2,
    optimizer_bytes=12,
    reduce_bytes=2,
    live_parameters=1_000_000_000,
    gradients_resident=True,
    allocator_share=0.06,
)
"""ZeRO with DeepSpeed's defaults: 1e9 live parameters, gradients in bf16, master copy and moments in fp32."""
