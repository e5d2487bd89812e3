"""Switches of the engines that shard as ZeRO does, and what the planner tries and advises of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Literal

from tgsbench.schema.preset import EngineOptions
from tgsbench.systems.costs import System
from tgsbench.systems.spec import AdvisedChange


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

ON_THE_HOST = (
    AdvisedChange(switches={"offload": "optimizer"}, effort=21, what="optimizer states in host memory"),
    AdvisedChange(
        switches={"offload": "all"}, effort=22, what="optimizer states and parameters in host memory"
    ),
)
"""What engines with `offload` advise."""


def variants_of(sharding: Iterable[tuple[int, str]]) -> tuple[dict[str, Any], ...]:
    """Switches that a search tries: (ZeRO stage, offload), each with inputs on the host and MLP in tiles."""
    return tuple(
        {"zero_stage": stage, "offload": offload, "activation_offload": away, "tiled_mlp": tiled}
        for (stage, offload), away, tiled in itertools.product(sharding, (False, True), (False, True))
    )
