"""Keys and values in two hops: once to each node, and inside it to every rank that needs a copy."""

from __future__ import annotations

from msgspec.structs import replace

from tgsbench.schema.preset import Preset
from tgsbench.systems.whole_layers import runs_whole_layers


def can_hop(preset: Preset) -> bool:
    """Would copies of a KV head cross between nodes, and can nodes share the heads out evenly?"""
    return (
        preset.ring == 1
        and runs_whole_layers(preset)
        and splits_evenly(preset.model.num_kv_heads, preset.ulysses, preset.hardware.gpus_per_node)
    )


def splits_evenly(num_kv_heads: int, ulysses: int, node_ranks: int) -> bool:
    """Do as many ranks on nodes of this size need copies of as many heads, each node of equally many?"""
    nodes, rest = divmod(ulysses, node_ranks)
    if rest or nodes < 2 or node_ranks < 2 or num_kv_heads >= ulysses:
        return False
    return not (num_kv_heads % nodes and nodes % num_kv_heads)


def kv_nodes(preset: Preset) -> int:
    """Nodes that each get a KV head once and copy it inside; 1: it goes straight to every rank."""
    if getattr(preset.engine, "kv_hops", 1) == 1 or not can_hop(preset):
        return 1
    return preset.ulysses // preset.hardware.gpus_per_node


def with_hops_of(preset: Preset, small: Preset) -> Preset:
    """`small` on two made-up nodes where the preset that it stands for has two hops and it can have them."""
    half = small.ulysses // 2
    if kv_nodes(preset) == 1 or half < 2:
        return small
    apart = replace(small, hardware=replace(small.hardware, gpus_per_node=half))
    return apart if can_hop(apart) else small
