"""What a layer computes, moves and sends per micro-step: FLOPs and bytes, before any speed is known."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

from tgsbench.models.family import Weight
from tgsbench.planner.workload import StepWorkload
from tgsbench.systems.costs import FUSED, ElementwiseTraffic
from tgsbench.systems.whole_layers import exchanges_of_a_pass


class Product(Struct, frozen=True):
    """Matrix products of equal number of rows: FLOPs, and the bytes of their operands and results."""

    flops: float
    num_bytes: float
    short: float = 0.0
    """Sum over the products of FLOPs per value of the inner width that they sum over."""


class LayerCounts(Struct, frozen=True, kw_only=True):
    """One layer, one micro-step, one rank."""

    gemm: Product
    """Forward."""
    gemm_backward: Product
    """Gradients of inputs and of weights."""
    gemm_recompute: Product
    gemm_tiled: Product
    """What the backward of a tiled MLP computes again, and the traffic of its fp32 sums over tiles."""
    attention_flops: float
    """Forward; the backward is 2.5 times that (FlashAttention's convention)."""
    scan: Product
    """Linear attention, forward; the backward is three times that: states once more, then the gradients."""
    elementwise_forward: float
    elementwise_backward: float
    elementwise_recompute: float
    exchange_in: float
    """Bytes of q, k and v in the all-to-all before attention."""
    exchange_out: float
    kv_between: float
    """Bytes of k and v in the all-to-all between nodes that comes first; 0: they go straight."""
    exchanges_forward: int
    """All-to-alls in one forward pass of the layer."""
    ring_message: float = 0.0
    """Bytes of the keys and values that go round a ring in one hop."""
    ring_merged: float = 0.0
    """Memory traffic of one merge of a ring's step into what came before, forward."""
    ring_summed: float = 0.0
    """The same of gradients, backward."""


def layer_counts(work: StepWorkload) -> LayerCounts:
    """Count one layer."""
    traffic = FUSED if work.fused_ops else work.system.traffic
    forward = _elementwise(work, traffic, 0)
    weights = run_here(work, work.dims.attention + work.dims.mlp)
    gemm = products(work, weights)
    again = gemm
    if work.system.early_stop and not work.tiled_mlp:
        again = products(work, run_here(work, work.dims.run_again))
    if work.whole_layers:
        again = products(work, _whole_layer_again(work))
    recompute = forward - (6.0 * work.local_tokens * work.dims.hidden if work.system.early_stop else 0.0)
    send_in, send_out = exchange_bytes(work)
    message, merged, summed = _ring(work)
    of_chunks = _of_chunks(work)
    return LayerCounts(
        gemm=gemm,
        gemm_backward=backward_products(work, weights),
        gemm_recompute=again,
        gemm_tiled=_tiled_again(work),
        attention_flops=attention_flops(work),
        scan=_scan(work),
        elementwise_forward=forward + of_chunks[0],
        elementwise_backward=_elementwise(work, traffic, 1) + of_chunks[1],
        elementwise_recompute=recompute + of_chunks[0],
        exchange_in=send_in,
        exchange_out=send_out,
        kv_between=kv_between_bytes(work),
        exchanges_forward=_exchanges_forward(work),
        ring_message=message,
        ring_merged=merged,
        ring_summed=summed,
    )


def run_here(work: StepWorkload, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
    """The weights that a rank reads: its part of the experts, which as many tokens meet as all of them."""
    if work.ep == 1:
        return weights
    return tuple(w._replace(num=w.num // work.ep) if w.num > 1 else w for w in weights)


def _exchanges_forward(work: StepWorkload) -> int:
    if work.ulysses == 1:
        return 0
    if work.whole_layers:
        return exchanges_of_a_pass(work.head_parts) * work.sequence_chunks
    return 2 if work.system.fused_exchange else 4


def _whole_layer_again(work: StepWorkload) -> tuple[Weight, ...]:
    """What a whole layer computes again: no projection whose exchange is saved, no MLP that runs in tiles.

    Norms of heads ask for q and k once more where nothing kept them.
    """
    attention, mlp = work.dims.attention, work.dims.mlp
    is_saved = work.checkpointing == "selective" and work.ulysses > 1
    is_made_again = is_saved or work.tiled_mlp or work.sequence_chunks > 1
    of_norms = attention[:2] if work.dims.head_norm_width and is_made_again else ()
    if is_saved:
        attention = attention[-1:]
    return of_norms + attention + (() if work.tiled_mlp else mlp[:-1])


def products(work: StepWorkload, weights: tuple[Weight, ...]) -> Product:
    """Forward products of one micro-step with these weights."""
    rows = work.local_tokens
    sums = _sums(weights)
    num_bytes = float(work.compute_bytes) * (rows * sums.edges + sums.stored)
    return Product(2.0 * rows * sums.active, num_bytes, 2.0 * rows * sums.outs)


def backward_products(work: StepWorkload, weights: tuple[Weight, ...]) -> Product:
    """Backward products of one micro-step: gradients of the inputs, and of the weights over all rows."""
    rows = work.local_tokens
    sums = _sums(weights)
    num_bytes = 2.0 * work.compute_bytes * (rows * sums.edges + sums.stored)
    return Product(4.0 * rows * sums.active, num_bytes, 2.0 * rows * sums.ins + 2.0 * sums.active)


class _Sums(NamedTuple):
    active: float
    """Weights that a token meets."""
    stored: float
    """Weights that are read."""
    outs: float
    """Values that come out for each token."""
    ins: float
    """Values that go in."""

    @property
    def edges(self) -> float:
        """Values that go in and out for each token."""
        return self.outs + self.ins


@lru_cache(maxsize=256)
def _sums(weights: tuple[Weight, ...]) -> _Sums:
    return _Sums(
        active=sum(weight.active for weight in weights),
        stored=sum(weight.size for weight in weights),
        outs=sum(weight.share * weight.used * weight.out_width for weight in weights),
        ins=sum(weight.share * weight.used * weight.in_width for weight in weights),
    )


def tile_tokens(work: StepWorkload) -> int:
    """Tokens of the MLP that are live at once."""
    if not work.tiled_mlp:
        return work.local_tokens
    return min(work.local_tokens, work.system.mlp_tile_tokens or work.dims.hidden)


_SUM_BYTES = 10.0
"""Per weight and tile: the bf16 gradient of the tile is read, the fp32 sum read and written."""


def _tiled_again(work: StepWorkload) -> Product:
    if not work.tiled_mlp:
        return Product(0.0, 0.0)
    mlp, again = products(work, work.dims.mlp), work.system.mlp_tile_again
    tiles = -(-work.local_tokens // tile_tokens(work))
    sums = _SUM_BYTES * tiles * work.dims.mlp_weights
    return Product(again * mlp.flops, again * mlp.num_bytes + sums, again * mlp.short)


def head_products(work: StepWorkload) -> tuple[Product, Product]:
    """Forward and backward of the output projection."""
    head = (Weight(work.dims.vocab, work.dims.hidden),)
    return products(work, head), backward_products(work, head)


def attention_flops(work: StepWorkload) -> float:
    """Q·Kᵀ and P·V of one layer over the causal half: heads are split by sp, the sequence is whole."""
    return work.local_tokens * work.dims.mixing(work.attended_len)


def _scan(work: StepWorkload) -> Product:
    """The average layer's linear attention: heads are split by sp, as those of attention."""
    flops, values = work.dims.scan
    return Product(work.local_tokens * flops, float(work.compute_bytes) * work.local_tokens * values)


def exchange_bytes(work: StepWorkload) -> tuple[float, float]:
    """Bytes of this rank's all-to-all buffers before and after attention, this rank's own part included.

    Of the average layer: linear attention trades heads, too (Megatron-LM, pull request 2614).
    """
    if work.ulysses == 1:
        return 0.0, 0.0
    per_value = float(work.local_tokens * work.compute_bytes)
    before, after = work.dims.exchange(kv_heads_traded(work))
    return per_value * before, per_value * after


def kv_between_bytes(work: StepWorkload) -> float:
    """Bytes of k and v that a rank hands to the all-to-all between nodes; 0 where they go straight."""
    if work.kv_nodes == 1:
        return 0.0
    return _kv_bytes(work) * max(work.dims.kv_heads, work.kv_nodes) / work.ulysses


def _kv_bytes(work: StepWorkload) -> float:
    """Bytes of k and v in the all-to-all before attention."""
    return float(work.local_tokens * work.compute_bytes * 2 * work.kv_heads_sent * work.dims.head_dim)


def kv_heads_traded(work: StepWorkload) -> int:
    """KV heads in an all-to-all: those of the model, repeated up to the ranks or to the query heads."""
    return work.dims.query_heads if work.system.repeats_kv else work.kv_heads_sent


_MERGE_BYTES = 26.0
"""Per value of half the queries: the output is weighed (8), the part weighed (6) and added (12), in fp32."""
_SUM_GRADIENT_BYTES = 10.0
"""Per gradient that a step gives: the fp32 sum is read and written, the part read."""


def _ring(work: StepWorkload) -> tuple[float, float, float]:
    """Bytes of a hop, and of memory traffic that each of its steps costs, forward and backward."""
    if work.ring == 1:
        return 0.0, 0.0, 0.0
    d = work.dims
    keys = float(work.local_tokens * 2 * work.kv_heads_sent * d.head_dim)
    queries = work.local_tokens * d.query_heads * d.head_dim / 2
    return keys * work.compute_bytes, _MERGE_BYTES * queries, _SUM_GRADIENT_BYTES * (queries + keys / 2)


def _of_chunks(work: StepWorkload) -> tuple[float, float]:
    """Bytes of memory traffic that chunks of the sequence add, forward and backward.

    Merges and sums as in a ring; weights that each chunk reads again, and its gradients of them in fp32.
    """
    if work.sequence_chunks == 1:
        return 0.0, 0.0
    d, weights = work.dims, work.dims.layer_weights
    read = float(work.compute_bytes * weights * (work.sequence_chunks - 1))
    met = work.local_tokens * work.earlier_chunks * d.head_dim
    gradients = met * (d.query_heads + 2 * work.kv_heads_sent) + work.sequence_chunks * weights
    return read + _MERGE_BYTES * met * d.query_heads, 2 * read + _SUM_GRADIENT_BYTES * gradients


def _elementwise(work: StepWorkload, traffic: ElementwiseTraffic, index: int) -> float:
    d, scale = work.dims, work.compute_bytes / 2
    rotary = (d.query_heads + d.kv_heads) * d.head_dim
    per_token = (
        traffic.hidden[index] * d.norm_width / 2
        + traffic.rotary[index] * rotary
        + traffic.mlp[index] * d.intermediate * (d.mlp_matrices - 1) / 2
    )
    if work.system.repeats_kv and d.kv_heads < d.query_heads:
        # k and v are written (their gradients read) at the query heads' width: 2 bytes each.
        per_token += 4.0 * d.query_heads * d.head_dim
    exchanged = sum(exchange_bytes(work)) / work.compute_bytes
    if work.kv_nodes > 1:  # k and v once more, into the order of the sequence: read and written
        per_token += 4.0 * 2 * work.kv_heads_sent * d.head_dim
    return scale * (per_token * work.local_tokens + traffic.exchange[index] * exchanged)
