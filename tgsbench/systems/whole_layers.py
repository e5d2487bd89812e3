"""Decoder layers that fsdp2 runs as one autograd function, and the all-to-alls that such a layer makes."""

from __future__ import annotations

from msgspec.structs import replace

from tgsbench.schema.preset import Preset
from tgsbench.systems.engines import fsdp2

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "seed_oss", "smollm3"})
"""Families whose layers are norm, attention, norm, SwiGLU, and nothing else.

Attention may have biases of its projections, norms of every query's and key's head, a window, and no RoPE.
"""


def families_in_words() -> str:
    """These families, for whoever asks of another one."""
    *others, last = sorted(FAMILIES)
    return f"{', '.join(others)} and {last}"


def runs_whole_layers(preset: Preset) -> bool:
    """Does the training run this preset's decoder layers as one function each?

    A compiler and Liger bring their own kernels, DeepSpeed its own layers.
    """
    engine = preset.engine
    return engine.name == fsdp2.ENGINE.name and not (engine.compile or engine.liger) and _can_be_whole(preset)


def _can_be_whole(preset: Preset) -> bool:
    """A ring stands where the kernel does."""
    if preset.engine.sequence_chunks > 1:
        return can_be_chunked(preset)
    return preset.model.family in FAMILIES


def can_be_chunked(preset: Preset) -> bool:
    """Can the layers take the sequence in chunks through host memory?"""
    return preset.model.family in FAMILIES and preset.ring == 1


def most_head_parts(num_query_heads: int, num_kv_heads: int, sp: int) -> int:
    """Parts into which the attention of a rank's heads can be cut.

    Two where a rank has several query heads, and its KV heads, unless it has one, are even in number.
    """
    if sp == 1:
        return 1
    query, kv = num_query_heads // sp, max(num_kv_heads, sp) // sp
    return 2 if query > 1 and (kv == 1 or kv % 2 == 0) else 1


WORTH_BYTES, WORTH_BYTES_BETWEEN_NODES = 16 << 20, 2 << 20
"""Bytes of q in one layer and pass from which exchanges are hidden behind the attention of other heads.

A second part costs 33 launches a layer under full checkpointing (a virtual H100), 0.2 ms of a host. Exchanges
of q and of the output in three passes take longer from 16 MiB on at 300 GB/s in a node, from an eighth of it
between nodes.
"""


def is_worth_parts(q_bytes: int, is_inside_node: bool) -> bool:
    """Do exchanges of q of this size take longer than what it costs to hide them?"""
    return q_bytes >= (WORTH_BYTES if is_inside_node else WORTH_BYTES_BETWEEN_NODES)


def head_parts(preset: Preset) -> int:
    """Parts of a rank's heads whose attention runs one after the other, so that exchanges hide behind it."""
    return _parts(preset) if runs_whole_layers(preset) else 1


def _parts(preset: Preset) -> int:
    """Parts of a rank's heads in a layer that runs whole.

    In a ring each would send keys and values round again, or in more and smaller messages.
    """
    if preset.engine.sequence_chunks > 1 or preset.ring > 1:
        return 1
    if preset.ulysses == 1:
        return _alone_in_parts(preset)
    asked = getattr(preset.engine, "head_parts", 0)
    if not asked and preset.engine.tiled_mlp:
        return _smallest_parts(preset)
    return min(asked or 2, most_parts(preset)) if asked or _is_worth_it(preset) else 1


def _alone_in_parts(preset: Preset) -> int:
    """Parts of two KV heads on a rank that has all heads and runs its MLP in tiles.

    Nothing is hidden: attention's backward takes four times the bytes of queries that share KV heads.
    """
    kv_heads = preset.model.num_kv_heads
    if not preset.engine.tiled_mlp or kv_heads % 2:
        return 1
    return max(1, kv_heads // 2)


def _smallest_parts(preset: Preset) -> int:
    """Parts of one KV head, or where a rank has one alone of one query head: its MLP runs in tiles, so memory
    is what counts.

    Queries that share a KV head take 12 bytes a value in flash attention's backward, and 2 more where their
    gradients are past 2^31 bytes; one that has its own takes 4.
    """
    shape, sp = preset.model, preset.ulysses
    kv_heads = max(shape.num_kv_heads, sp) // sp
    return kv_heads if kv_heads > 1 else shape.num_query_heads // sp


def most_parts(preset: Preset) -> int:
    """Parts that a rank's heads can be cut into, whatever the engine."""
    shape = preset.model
    return most_head_parts(shape.num_query_heads, shape.num_kv_heads, preset.ulysses)


def _is_worth_it(preset: Preset) -> bool:
    shape = preset.model
    rows = preset.training.micro_batch * preset.local_seq_len
    of_value = 2 if preset.training.compute_dtype == "bfloat16" else 4
    num_bytes = rows * shape.num_query_heads * shape.head_dim * of_value
    return is_worth_parts(num_bytes, preset.ulysses <= preset.hardware.gpus_per_node)


def can_have_parts(preset: Preset) -> bool:
    """Do the layers run whole, with heads that can be cut?"""
    takes_one_kernel = preset.ring == 1 and preset.engine.sequence_chunks == 1
    return takes_one_kernel and runs_whole_layers(preset) and most_parts(preset) > 1


def with_parts_of(preset: Preset, small: Preset) -> Preset:
    """`small` with as many parts of a rank's heads as the preset that it stands for, or as it can have.

    Parts for the sake of memory come of themselves.
    """
    if not hasattr(small.engine, "head_parts") or (small.engine.tiled_mlp and not small.engine.head_parts):
        return small
    parts = head_parts(preset) if can_have_parts(small) else 0
    return replace(small, engine=replace(small.engine, head_parts=parts))


def most_attention_calls(preset: Preset) -> int:
    """Times that attention runs in a layer's forward, each for some heads of a rank, whatever the engine."""
    return _parts(preset) if _can_be_whole(preset) else 1


def exchanges_of_a_pass(parts: int) -> int:
    """All-to-alls of a whole layer's forward: k and v together, and for each part one of q and one out."""
    return 1 + 2 * parts
