"""Decoder layers that fsdp2 runs as one autograd function, and the all-to-alls that such a layer makes."""

from __future__ import annotations

from tgsbench.schema.preset import Preset
from tgsbench.systems.engines import fsdp2

FAMILIES = frozenset({"llama"})
"""Families whose layers are norm, attention with RoPE, norm, SwiGLU, and nothing else."""


def runs_whole_layers(preset: Preset) -> bool:
    """Does the training run this preset's decoder layers as one function each?

    A compiler and Liger bring their own kernels, DeepSpeed its own layers.
    """
    engine = preset.engine
    return engine.name == fsdp2.ENGINE.name and not (engine.compile or engine.liger) and _can_be_whole(preset)


def _can_be_whole(preset: Preset) -> bool:
    """A ring stands where the kernel does, on shards that no chunk of heads cuts."""
    model = preset.model
    return model.family in FAMILIES and not (model.window or model.attention_bias) and preset.ring == 1


def head_chunks(num_query_heads: int, num_kv_heads: int, sp: int, tiled: bool = False) -> int:
    """Parts of a rank's heads whose attention runs one after the other, so that exchanges hide behind it.

    Two where the query heads of a rank, and its KV heads unless it has one, are even in number. A rank with
    all heads has nothing to hide; with a `tiled` MLP it takes two KV heads at a time, for the workspace of
    attention's backward: four times the queries' bytes where they share KV heads.
    """
    if sp == 1:
        return max(1, num_kv_heads // 2) if tiled and num_kv_heads % 2 == 0 else 1
    query, kv = num_query_heads // sp, max(num_kv_heads, sp) // sp
    return 2 if query % 2 == 0 and (kv == 1 or kv % 2 == 0) else 1


def most_attention_calls(preset: Preset) -> int:
    """Times that attention runs in a layer's forward, each for some heads of a rank, whatever the engine."""
    shape = preset.model
    if not _can_be_whole(preset):
        return 1
    tiled = preset.engine.tiled_mlp
    return head_chunks(shape.num_query_heads, shape.num_kv_heads, preset.parallel.sp, tiled)


def exchanges_of_a_pass(num_query_heads: int, num_kv_heads: int, sp: int) -> int:
    """All-to-alls of a whole layer's forward: k and v together, and for each chunk one of q and one out."""
    return 1 + 2 * head_chunks(num_query_heads, num_kv_heads, sp)
