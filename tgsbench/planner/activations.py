"""What one layer keeps and holds: activations, and what its backward needs beside them.

U(x) is a tensor of one micro-step's local tokens and width x in the compute precision.
"""

from __future__ import annotations

from tgsbench.planner.counts import exchange_bytes, tile_tokens
from tgsbench.planner.workload import StepWorkload


def unit(work: StepWorkload, width: float) -> float:
    """U(width)."""
    return float(work.local_tokens) * width * work.compute_bytes


def lse(work: StepWorkload) -> float:
    """Log-sum-exp of attention: fp32 per token and query head."""
    return 4.0 * work.local_tokens * work.dims.query_heads


def layer_activations(work: StepWorkload) -> dict[str, float]:
    """What autograd saves of one layer that is not checkpointed.

    Norms keep their input in fp32, the normed value and the scaled one: 4 U(h) each in bf16. Attention
    keeps q, k, v, its output and LSE; with an all-to-all, the received buffers and the output that came
    back. The gated MLP keeps gate, up, activation and product.
    """
    d = work.dims
    heads = d.query_heads * d.head_dim
    norm = _kept_by_norms(work, d.norm_width)
    received, returned = exchange_bytes(work)
    if work.ulysses == 1:
        kv_heads = d.query_heads if work.system.repeats_kv else d.kv_heads
        attention = unit(work, heads + 2 * kv_heads * d.head_dim)
    else:
        attention = received
    return {
        "activations": norm
        + _mlp_kept(work)
        + unit(work, heads)
        + lse(work)
        + (attention if work.ulysses == 1 else 0.0),
        "all_to_all_buffers": attention + returned if work.ulysses > 1 else 0.0,
    }


def _kept_by_norms(work: StepWorkload, width: float) -> float:
    """What norms of `width` values a token keep, those of heads among them.

    The results of these are rotated, and nobody keeps them.
    """
    rotated = work.dims.head_norm_width if work.system.seen_on_allocator else 0
    return unit(work, width / 2) * _norm_units(work) - unit(work, rotated)


def _norm_units(work: StepWorkload) -> float:
    """What two norms of the hidden width keep, in U(h)."""
    units = work.system.norm_units
    return min(6.0, units) if work.fused_ops or work.compute_bytes == 4 else units


def _mlp_kept(work: StepWorkload) -> float:
    """What the MLP keeps; a tiled one its input alone, which the norm gave."""
    routed = 2.0 * unit(work, work.dims.routed)  # copies of a token for its experts, and what they gave
    if work.tiled_mlp:
        return routed
    units = 2.0 if work.dims.mlp_matrices == 2 or _makes_product_again(work) else work.system.mlp_units
    # One kernel for the gated activation keeps gate and up, and its product for the down projection.
    units = (min(3.0, units) if work.fused_ops else units) + work.dims.gate_kept
    return routed + unit(work, work.dims.intermediate) * units


def _makes_product_again(work: StepWorkload) -> bool:
    """A whole layer that is not checkpointed keeps gate and up alone, and makes their product again."""
    return work.whole_layers and work.checkpointing == "none"


def attention_workspace(work: StepWorkload) -> float:
    """What the attention kernel's backward holds beside its inputs and results.

    FlashAttention 2 sums dq in fp32, a document's rows padded to 128, and with grouped queries writes dk and
    dv at all query heads. FlashAttention 3 and cuDNN sum dk and dv in fp32 at the KV heads instead. A whole
    layer attends to a part of its heads at a time.
    """
    if work.on_cpu:
        return 0.0
    head_tokens = float(work.local_tokens * work.dims.head_dim)
    padded = 1.0 + 128.0 / work.attended_len if work.attended_len < work.seq_len else 1.0
    queries = head_tokens * work.dims.query_heads * work.largest_part
    keys = head_tokens * work.kv_heads_sent / (1 if work.shares_kv else work.head_parts)
    if keys >= queries:  # each query head has its own KV head
        return 4.0 * padded * queries
    if work.kernel in ("flash3", "cudnn"):
        return 4.0 * padded * queries + 8.0 * keys
    expanded = work.compute_bytes * queries
    # torch sums more bytes than 32 bits can index in several passes, and in fp32 beside the result.
    # Alone, DeepSpeed's layers came out 2 % below the plan without it; over 8 ranks 1 % above that with it.
    many = (work.whole_layers or work.ulysses > 1) and work.compute_bytes < 4 and expanded > 2**31
    in_passes = 4.0 * keys if many else 0.0
    return 4.0 * padded * queries + 2.0 * expanded + in_passes


def attention_backward(work: StepWorkload) -> float:
    """Live while attention's backward runs: the MLP is through, and so may be the norm before it."""
    d = work.dims
    heads, kv = d.query_heads * d.head_dim, 2 * work.kv_heads_sent * d.head_dim
    if work.system.seen_on_allocator:
        # Of the norm before attention its results are left, and what heads' norms took.
        results = 0.0 if work.lets_inputs_go else unit(work, d.hidden)
        kept = _kept_by_norms(work, d.hidden + d.head_norm_width) - 2 * unit(work, d.hidden) + results
    else:
        kept = _kept_by_norms(work, d.norm_width) / 2 + (
            0.0 if work.system.norm_keeps_checkpoint else unit(work, d.hidden)
        )
    if work.checkpointing == "none":
        kept = 0.0
    elif work.checkpointing == "full":
        kept += unit(work, heads) + lse(work) + (unit(work, heads + kv) if work.ulysses == 1 else 0.0)
    elif work.ulysses == 1:
        kept += unit(work, heads + kv)
    # Gradients of the residual, of attention's output, of q, k and v.
    gradients = unit(work, d.hidden + 2 * heads + kv)
    return kept + gradients + attention_workspace(work)


def freed_by_mlp(work: StepWorkload) -> float:
    """Of what all layers keep, what is gone when the MLP and the norm before it are through.

    A layer that is one function holds it to its end; what a checkpoint makes again no other layer keeps.
    """
    if work.whole_layers or work.checkpointing != "none" or not work.system.seen_on_allocator:
        return 0.0
    return _mlp_kept(work) + unit(work, work.dims.hidden / 2) * _norm_units(work)


def mlp_gradients(work: StepWorkload) -> float:
    """What is live in the MLP's backward beside what it kept.

    In tiles: six tensors of a tile's width, the fp32 sums of the weights' gradients, the input's gradient
    and, when the tiles are through, that of the norm before them.
    """
    d = work.dims
    if not work.tiled_mlp:
        again = 1.0 if _makes_product_again(work) else 0.0
        return (work.system.mlp_gradients + again) * unit(work, d.intermediate)
    tiles = mlp_tiles(work)
    if work.whole_layers:  # the norm's result makes room for its gradient
        return unit(work, d.hidden) + tiles
    return unit(work, d.hidden) + max(tiles, unit(work, d.hidden))


def mlp_tiles(work: StepWorkload) -> float:
    """Six tensors of a tile's width, and the fp32 sums of the weights' gradients."""
    d = work.dims
    return 6.0 * float(tile_tokens(work) * d.intermediate * work.compute_bytes) + 4.0 * d.mlp_weights


def attention_saved(work: StepWorkload) -> tuple[float, float]:
    """Per layer under selective checkpointing: output and LSE, and the results of both all-to-alls."""
    heads = work.dims.query_heads * work.dims.head_dim
    return unit(work, heads) + lse(work), sum(exchange_bytes(work))


def mlp_backward(work: StepWorkload) -> tuple[float, float]:
    """Activations and buffers of all-to-alls that a layer holds while its MLP's backward runs."""
    d = work.dims
    recomputed = layer_activations(work)
    activations, exchanged = recomputed["activations"], recomputed["all_to_all_buffers"]
    if work.system.norm_keeps_checkpoint:
        activations -= unit(work, d.hidden)
    if work.lets_inputs_go:
        activations -= unit(work, d.hidden)
    if work.checkpointing == "selective":
        attention, received = attention_saved(work)
        activations -= attention
        if work.whole_layers and work.ulysses == 1:  # q, k and v are made again when the MLP is through
            activations -= unit(work, (d.query_heads + 2 * d.kv_heads) * d.head_dim)
        # What came back from attention is copied once into the layout that the projection takes.
        exchanged -= received - (unit(work, d.query_heads * d.head_dim) if work.ulysses > 1 else 0.0)
    gradients = mlp_gradients(work) + unit(work, d.hidden)
    if work.checkpointing == "none":  # nothing is made again: it is among what all layers keep
        return gradients, 0.0
    return activations + gradients, exchanged
