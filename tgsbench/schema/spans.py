"""Our own span names: the same in every engine, so that a trace can be read without guessing."""

from __future__ import annotations

from typing import Final

ATTENTION: Final = "tgsbench::attention"
A2A_PRE: Final = "tgsbench::all_to_all.pre"
"""Sequence shards to head shards, before attention."""
A2A_POST: Final = "tgsbench::all_to_all.post"
"""Head shards to sequence shards, after attention."""
RING: Final = "tgsbench::ring"
"""Keys, values or their gradients on their way round a ring."""
MLP: Final = "tgsbench::mlp"
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
    ATTENTION, A2A_PRE, A2A_POST, RING, MLP, SHARD_GATHER, SHARD_SCATTER, LOSS, OPTIMIZER, FORWARD, BACKWARD,
    RECOMPUTE, DATA,
)  # fmt: skip
