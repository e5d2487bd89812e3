"""Our own span names: the same in every engine, so that a trace can be read without guessing."""

from __future__ import annotations

from typing import Final

ATTENTION: Final = "tgsbench::attention"
LINEAR_ATTENTION: Final = "tgsbench::linear_attention"
"""The recurrence that hybrids have in most layers."""
A2A_PRE: Final = "tgsbench::all_to_all.pre"
"""Sequence shards to head shards, before attention."""
A2A_POST: Final = "tgsbench::all_to_all.post"
"""Head shards to sequence shards, after attention."""
RING: Final = "tgsbench::ring"
"""Keys, values or their gradients on their way round a ring."""
MLP: Final = "tgsbench::mlp"
ROUTER: Final = "tgsbench::router"
"""Scores of a token's experts, and their choice."""
DISPATCH: Final = "tgsbench::experts.dispatch"
"""Tokens on their way to the ranks of their experts."""
COMBINE: Final = "tgsbench::experts.combine"
"""Results of experts on their way back."""
EXPERTS: Final = "tgsbench::experts"
"""Products of the experts, with the sorting of tokens around them."""
SHARED_EXPERT: Final = "tgsbench::shared_expert"
"""The MLP that every token passes beside its experts."""
SHARD_GATHER: Final = "tgsbench::all_gather"
"""FSDP's or ZeRO's parameters."""
SHARD_SCATTER: Final = "tgsbench::reduce_scatter"
"""FSDP's or ZeRO's gradients."""
LOSS: Final = "tgsbench::loss"
OPTIMIZER: Final = "tgsbench::optimizer"
FORWARD: Final = "tgsbench::forward"
BACKWARD: Final = "tgsbench::backward"
RECOMPUTE: Final = "tgsbench::recompute"
DATA: Final = "tgsbench::data"

ALL: Final = (
    ATTENTION, LINEAR_ATTENTION, A2A_PRE, A2A_POST, RING, MLP, ROUTER, DISPATCH, COMBINE, EXPERTS,
    SHARED_EXPERT, SHARD_GATHER, SHARD_SCATTER, LOSS, OPTIMIZER, FORWARD, BACKWARD, RECOMPUTE, DATA,
)  # fmt: skip
