"""Bytes one GPU holds, item by item, at the moment of the step that holds most.

The items follow the live tensors of a real step (`tgsbench plan --trace` shows them); what one layer keeps is
counted in planner/activations.py.
"""

from __future__ import annotations

from msgspec import Struct

from tgsbench.planner.activations import (
    attention_backward,
    attention_saved,
    attention_workspace,
    freed_by_mlp,
    layer_activations,
    mlp_backward,
    unit,
)
from tgsbench.planner.buckets import Reduction, bucket_weights, reductions
from tgsbench.planner.counts import exchange_bytes, run_here, tile_tokens
from tgsbench.planner.sequence_chunks import host_bytes as chunks_on_host
from tgsbench.planner.sequence_chunks import of_chunk, working_set
from tgsbench.planner.tiled_layers import are_tiled, tiled_backward
from tgsbench.planner.workload import StepWorkload
from tgsbench.systems.host_states import PIECE_VALUES, PIECES_AT_ONCE
from tgsbench.systems.score_blocks import score_bytes
from tgsbench.units import GIB

CONTEXT_BYTES = int(0.5 * GIB)
"""CUDA context, cuBLAS and kernel images of one process."""
COMMUNICATOR_BYTES = int(0.4 * GIB)
"""Channel buffers of one NCCL communicator across eight or more GPUs."""
PROCESS_BYTES = int(0.7 * GIB)
"""Python, torch and their libraries in one CPU rank."""
_CPU_SHARE = 0.02
"""Of tensors that come and go: what a CPU's allocator cannot use."""
RESIDENT = ("parameters", "gradients", "optimizer_states")


class PeakMoment(Struct, frozen=True):
    """One moment of the step and what is live then."""

    name: str
    items: dict[str, float]

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(self.items.values())


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """Memory of one GPU at its peak, and of one node's host."""

    peak: PeakMoment
    moments: dict[str, float]
    """Bytes at every moment looked at."""
    host_bytes: float
    """Per node."""

    @property
    def tensor_bytes(self) -> float:
        """Live tensors alone: what torch's accounting calls allocated."""
        return self.peak.total - self.peak.items["context_and_nccl"] - self.peak.items["allocator"]


def memory_plan(work: StepWorkload) -> MemoryPlan:
    """Memory at the peak of a steady-state step."""
    context, pools = _held(work)
    share = _CPU_SHARE if work.on_cpu else work.system.allocator_share
    moments = dict(_moments(work))
    totals = {
        name: sum(items.values()) + context + _allocator(items, share, pools)
        for name, items in moments.items()
    }
    at = max(totals, key=totals.__getitem__)
    peak = moments[at]
    peak |= {"context_and_nccl": context, "allocator": _allocator(peak, share, pools)}
    return MemoryPlan(
        peak=PeakMoment(at, {name: size for name, size in peak.items() if size or name in _ALWAYS}),
        moments=totals,
        host_bytes=_host_bytes(work),
    )


_ALWAYS = (*RESIDENT, "context_and_nccl", "allocator")


def _moments(work: StepWorkload) -> list[tuple[str, dict[str, float]]]:
    """The moments that can be the peak: the loss, both ends of the backward, the optimizer step."""
    before, after = _gradients(work)
    states = _states(work)
    at_step = states | {"parameters": states["parameters"] - _whole_copy(work)}
    layers = work.dims.num_layers
    of_a_layer = _saved_of_a_layer(work)
    saved, second, two, first = (_saved(work, of_a_layer, n) for n in (layers, layers - 1, 2, 1))
    head_scatter = _head_scatter(work)
    layer_scatter = _scatter(work, work.dims.held_weights(work.ep))
    working = _layer_working_set(work)
    of_one = {"gradient_buffers": _bucket(work) or layer_scatter}

    def held(behind: int) -> dict[str, float]:
        """States and gradients while the layer with `behind` layers after it runs."""
        return _held_in_backward(work, states, before, after, behind)

    moments = [
        ("loss", states | {"gradients": before} | _kept_at_loss(work, saved) | _loss(work)),
        (
            "backward of the last layer",
            held(0) | saved | working | {"gradient_buffers": head_scatter},
        ),
        _while_reduced(work, of_a_layer, states | {"gradients": after})
        if work.system.live_parameters
        else (
            "backward of the second last layer",
            held(1) | second | working | {"gradient_buffers": layer_scatter},
        ),
        (
            "backward of the first layer",
            held(layers - 1) | first | working | of_one,
        ),
        (
            "backward of the embedding",
            held(layers) | {"gradient_buffers": layer_scatter} | _embedding(work),
        ),
        ("optimizer step", at_step | {"gradients": after} | _optimizer_extra(work)),
    ]
    if work.dims.routed and layers > 1:
        reduced = {"weight_gradients": work.compute_bytes * work.dims.held_weights(work.ep)}
        reduced |= {"gathered_layers": working["gathered_layers"], "gradient_buffers": layer_scatter}
        # A layer with experts is over: activations are gone, and its gradients are whole in both types.
        moments.append(("reduction of the first layer", held(layers - 1) | reduced))
    if work.activation_offload and layers > 1:
        # Inputs come back two at a time down to the last one, while gradients grow.
        moments.append(("backward of the second layer", held(layers - 2) | two | working | of_one))
    return moments


def resident_bytes(work: StepWorkload) -> float:
    """Bytes of parameters and optimizer states that one GPU holds all the time: less is not possible."""
    return sum(_states(work).values())


def _states(work: StepWorkload) -> dict[str, float]:
    """Parameters and optimizer states resident on the GPU, as the ZeRO stage shards and offloads them."""
    n, ranks = float(work.dims.num_parameters), work.sharing_ranks
    is_cut = work.zero_stage == 3 or work.system.shards_masters
    parameters = 0.0 if work.offload == "all" else n * work.system.parameter_bytes / (ranks if is_cut else 1)
    parameters += _whole_copy(work)
    optimizer = n * work.system.optimizer_bytes / ranks
    return {
        "parameters": parameters,
        "optimizer_states": 0.0 if work.offload != "none" else optimizer,
    }


def _whole_copy(work: StepWorkload) -> float:
    """All parameters in compute precision: below ZeRO-3 they stay after the forward, beside masters."""
    if work.zero_stage == 3 or not work.system.shards_masters:
        return 0.0
    return float(work.compute_bytes * work.dims.held_parameters(work.ep))


def _held_in_backward(
    work: StepWorkload, states: dict[str, float], before: float, after: float, behind: int
) -> dict[str, float]:
    """States and gradients while the layer with `behind` layers after it runs, in the fullest micro-step.

    Gradients grow in the first. In the last, head and layers that are through let their whole copies go.
    """
    gone = 0.0
    if _whole_copy(work):
        gone = work.compute_bytes * (_head_weights(work) + behind * work.dims.held_weights(work.ep))
    grown = after * _share_behind(work, behind)
    steps = [(max(before, grown), gone)]
    if work.accumulation > 1:
        steps.append((max(before, grown) if work.accumulation > 2 else grown, 0.0))
    gradients, let_go = max(steps, key=lambda step: step[0] - step[1])
    return states | {"gradients": gradients, "parameters": states["parameters"] - let_go}


def _head_weights(work: StepWorkload) -> int:
    """Weights of a head that is not the embedding."""
    return 0 if work.dims.tied else work.dims.embedding_weights


def _gradients(work: StepWorkload) -> tuple[float, float]:
    """Gradient bytes held when a backward begins and when it ends."""
    held, ranks = work.dims.held_parameters(work.ep), work.sharing_ranks
    # FSDP2's only micro-step is its last, which reduces each layer's gradients at once, under ZeRO-1 too.
    is_cut = work.zero_stage >= 2 or (work.system.shards_masters and work.accumulation == 1)
    whole = work.dims.num_parameters / ranks if is_cut else held
    whole *= work.system.gradient_bytes
    if work.gradients_away and (work.zero_stage >= 2 or not work.system.streams_states):
        return 0.0, 0.0
    kept = work.accumulation > 1 or work.system.gradients_resident
    return (whole if kept else 0.0), whole


def _embedding(work: StepWorkload) -> dict[str, float]:
    """The embedding, where it is gathered, and its gradient.

    Tied to the head also the head's part and their sum.
    """
    copies = 4 if work.dims.tied else 1 + work.system.regathers_embedding
    return {"weight_gradients": float(copies * work.compute_bytes * work.dims.embedding_weights)}


def _share_behind(work: StepWorkload, behind: int) -> float:
    """Of all parameters, those whose gradients are there: the head's and those of the layers behind.

    The embedding's come last; tied to the head they are added there.
    """
    d = work.dims
    return min(1.0, (_head_weights(work) + behind * d.layer_weights) / d.num_parameters)


def _scatter(work: StepWorkload, weights: float) -> float:
    """Buffer in which gradients of the group before are being reduced."""
    if work.world == 1 and not work.system.live_parameters:
        return 4.0 * weights
    if work.system.live_parameters:
        return 2 * _bucket(work)
    least = work.compute_bytes if work.system.shards_masters else 4
    return float(max(work.system.reduce_bytes, least) * weights)


def _while_reduced(
    work: StepWorkload, of_a_layer: dict[str, float], held: dict[str, float]
) -> tuple[str, dict[str, float]]:
    """What is live when DeepSpeed reduces a bucket: of all such moments the one that holds most."""
    d, layers, kept = work.dims, work.dims.num_layers, sum(of_a_layer.values())
    at_weight = [_when_asked_for(work, index) for index in range(len(d.mlp + d.attention))]

    def more(reduction: Reduction) -> float:
        here = sum(at_weight[reduction.weight].values())
        return kept * (layers - reduction.behind) + here + work.system.reduce_bytes * reduction.copied

    worst = max(reductions(d), key=more, default=Reduction(1, 0, 0.0))
    buffers = _bucket(work) + work.system.reduce_bytes * worst.copied
    around = {"gathered_layers": _gathered(work), "gradient_buffers": buffers}
    saved = _saved(work, of_a_layer, layers - worst.behind)
    return "reduction of gradients", held | saved | at_weight[worst.weight] | around


def _when_asked_for(work: StepWorkload, index: int) -> dict[str, float]:
    """A layer when the gradient of one of its matrices is there, counted from the last that ran.

    At the last one the product that it took is gone already; before it gate and up are, but for their
    gradients. Attention's matrices come before or after its kernel, whose workspace is not there then.
    """
    weights = work.dims.attention + work.dims.mlp
    gradient = {"weight_gradients": work.compute_bytes * weights[-1 - index].size + _tied_embedding(work)}
    if index >= len(work.dims.mlp):
        return gradient | {"layer_activations": attention_backward(work) - attention_workspace(work)}
    activations, exchanged = mlp_backward(work)
    gone = 0.0 if work.tiled_mlp else unit(work, work.dims.intermediate) * min(2, index + 1)
    return gradient | {"layer_activations": max(0.0, activations - gone), "all_to_all_buffers": exchanged}


def _head_scatter(work: StepWorkload) -> float:
    """The same while the last layer runs: DeepSpeed's bucket is not full yet."""
    if work.system.live_parameters:
        return _bucket(work)
    return 0.0 if work.dims.tied else _scatter(work, work.dims.embedding_weights)


def _bucket(work: StepWorkload) -> float:
    """Bytes of DeepSpeed's bucket; 0 for a system without."""
    if not work.system.live_parameters:
        return 0.0
    return work.system.reduce_bytes * bucket_weights(work.dims)


def _saved_of_a_layer(work: StepWorkload) -> dict[str, float]:
    """What one layer keeps from the forward to the backward."""
    if work.checkpointing == "none":
        return layer_activations(work)
    saved = {"checkpoints": unit(work, work.dims.hidden)}
    if work.checkpointing == "selective" and work.sequence_chunks == 1:
        saved["attention_saved"], saved["all_to_all_saved"] = attention_saved(work)
    return saved


def _saved(work: StepWorkload, of_a_layer: dict[str, float], layers: int) -> dict[str, float]:
    """What this many layers keep on the GPU; of inputs that are offloaded two at most, or none if let go."""
    saved = {name: size * layers for name, size in of_a_layer.items()}
    if work.activation_offload and "checkpoints" in saved:
        saved["checkpoints"] = of_a_layer["checkpoints"] * (0 if work.lets_inputs_go else min(2, layers))
    return saved


def _kept_at_loss(work: StepWorkload, saved: dict[str, float]) -> dict[str, float]:
    """Offloaded inputs are all on the host when the forward ends."""
    return saved | {"checkpoints": 0.0} if work.activation_offload and "checkpoints" in saved else saved


_RESULT_GRADIENTS = 3.0
"""Gradients of the experts' rows when their results are weighed and put in order: of the sum, of the order
and of the product. The gradient of the first weight comes after two of them are gone."""
_EXPERT_ROWS = 4.0
"""Rows sent and come, results, gradients: 0.6 GiB for rows of 0.25 on a virtual H100."""


def _layer_working_set(work: StepWorkload) -> dict[str, float]:
    """The layer in the backward: recomputed activations, gradients on the way, gathered weights."""
    d = work.dims
    if work.sequence_chunks > 1:
        made, part = working_set(work), of_chunk(work)
    else:
        made, part = _fuller(work, *mlp_backward(work)), work
    if work.ring > 1:
        made["ring_buffers"] = ring_buffers(work)
    # A whole layer has one gradient for all its weights, others have that of the down projection first.
    weights = d.layer_weights if work.whole_layers else run_here(work, d.mlp)[-1].size
    if work.ep > 1:
        made["expert_buffers"] = _EXPERT_ROWS * work.routed_bytes
    elif d.routed and work.system.seen_on_allocator:
        of_rows = _RESULT_GRADIENTS * work.routed_bytes - work.compute_bytes * weights
        made["expert_gradients"] = max(0.0, of_rows)
    if work.fp8:
        made["fp8_operands"] = fp8_operands(part)
    tied = _tied_embedding(work)
    is_counted = work.system.live_parameters or _whole_copy(work)
    return made | {
        "gathered_layers": _gathered(work) + (0.0 if is_counted else tied),
        "weight_gradients": float(work.compute_bytes * weights) + tied,
    }


def _fuller(work: StepWorkload, mlp: float, exchanged: float) -> dict[str, float]:
    """Activations and buffers of all-to-alls in the MLP's backward or in attention's, whichever has more.

    A whole layer takes the gradient of its output projection when attention's is through; elsewhere the
    projection's input, which came back from attention, is gone by then.
    """
    is_gone = work.system.seen_on_allocator and (not work.whole_layers or work.lets_inputs_go)
    returned = exchange_bytes(work)[1] if is_gone else 0.0
    attention = attention_backward(work) - freed_by_mlp(work)
    moments = (mlp, exchanged), (attention, max(0.0, exchanged - returned))
    activations, buffers = tiled_backward(work) if are_tiled(work) else max(moments, key=sum)
    # Where all layers keep them, they are counted there.
    return {"layer_activations": activations} | ({"all_to_all_buffers": buffers} if buffers else {})


def _tied_embedding(work: StepWorkload) -> float:
    """Tied to the head the embedding stays gathered until its own backward, as the gradient of the head.

    DeepSpeed counts it among its live parameters.
    """
    if not work.dims.tied:
        return 0.0
    return float(work.compute_bytes * work.dims.embedding_weights)


def fp8_operands(work: StepWorkload) -> float:
    """Both FP8 operands of a product in the MLP's backward, and its result before it is added or copied.

    The product is that of a weight's gradient, or that of the input's gradient by the second projection.
    """
    d, tokens = work.dims, tile_tokens(work)
    weight, hidden = d.mlp[-1].size, tokens * d.hidden
    of_weight = tokens * d.intermediate + hidden + work.compute_bytes * weight
    of_input = tokens * d.intermediate + weight + work.compute_bytes * hidden
    return float(max(of_weight, of_input))


def ring_buffers(work: StepWorkload) -> float:
    """What the backward of a ring holds beyond that of one kernel, at a step with messages under way.

    Keys and values at hand and coming, their fp32 sums at hand and coming, the fp32 gradient of q. A step
    has half the queries in the kernel's workspace, and its results are not yet in compute precision.
    """
    d = work.dims
    message = float(work.local_tokens * 2 * work.kv_heads_sent * d.head_dim)
    queries = float(work.local_tokens * d.query_heads * d.head_dim)
    held = 2 * (work.compute_bytes + 4) * message + 4 * queries
    results = unit(work, (d.query_heads + 2 * d.kv_heads) * d.head_dim)
    return max(0.0, held - attention_workspace(work) / 2 - results)


def _gathered(work: StepWorkload) -> float:
    """Gathered weights: the layer in use and the one that is being gathered.

    DeepSpeed gathers ahead by matrices while no more are live than may be (70B: 0.92 of 1e9 were).
    """
    if work.world == 1 and not work.system.live_parameters and not _whole_copy(work):
        # FSDP keeps the low-precision copies of one layer at a time even when there is nothing to gather.
        return float(work.compute_bytes * work.dims.held_weights(work.ep))
    if not _gathers(work):
        return 0.0
    layer, at_most = work.dims.held_weights(work.ep), work.system.live_parameters
    live = max(layer, min(at_most, work.dims.num_parameters)) if at_most else 2 * layer
    return float(work.compute_bytes * live)


def _gathers(work: StepWorkload) -> bool:
    """Are parameters brought together before they are used? One GPU has them, unless the host does."""
    return work.zero_stage == 3 and (work.world > 1 or work.offload == "all")


def _loss(work: StepWorkload) -> dict[str, float]:
    """Logits and what surrounds them: the final norm, the head's weight, its gradient."""
    d = work.dims
    head = float(d.embedding_weights)
    around = unit(work, d.hidden) * (3.0 if work.system.norm_keeps_checkpoint else 5.0)
    if work.sequence_chunks > 1 and work.loss_chunk_tokens:  # rows become their gradients chunk by chunk
        around = unit(work, d.hidden)
    whole = work.system.whole_logits or work.loss_chunk_tokens == 0
    if whole:
        logits, weights = work.system.logits_bytes * work.local_tokens * d.vocab, work.compute_bytes * head
    else:
        chunk = min(work.loss_chunk_tokens, work.local_tokens)
        logits = float(4 + work.compute_bytes) * chunk * d.vocab
        weights = (_copies_of_head(work) * work.compute_bytes + 4) * head
    gathered = min(work.system.live_parameters, d.num_parameters) * work.compute_bytes
    return {
        "loss": logits + weights + around,
        "gathered_layers": float(gathered) if _gathers(work) else 0.0,
        "gradient_buffers": _bucket(work),
    }


def _copies_of_head(work: StepWorkload) -> int:
    """Tensors of the head's size beside its gradient's fp32 sum: the chunk's gradient, and what is gathered.

    In a pool of its own what it was gathered into stays until the next gather, of copies below ZeRO-3 too.
    DeepSpeed's is among its live parameters, and below ZeRO-3 it is in the whole copy.
    """
    if work.system.live_parameters:
        return 1
    return (2 if work.dims.tied or work.one_pool else 3) - bool(_whole_copy(work))


def _optimizer_extra(work: StepWorkload) -> dict[str, float]:
    """DeepSpeed casts gradients to fp32 a sub-group of 1e9 at a time; what is away passes in pieces."""
    if work.offload != "none" and work.system.streams_states:
        return {"states_passing": _passing(work)}
    if not work.system.live_parameters or work.offload != "none":
        return {}
    shard = work.dims.num_parameters / work.sharing_ranks
    return {"gradient_buffers": 4.0 * min(1e9, shard) + _bucket(work)}


def _largest_shard(work: StepWorkload) -> float:
    """Values of the largest parameter on one GPU."""
    d = work.dims
    layer = d.layer_weights if work.whole_layers else max(weight.size for weight in d.mlp + d.attention)
    return max(layer, d.embedding_weights) / work.sharing_ranks


def _passing(work: StepWorkload) -> float:
    """Buffers of a step whose states are away, or two gradients on their way through the norm."""
    largest, tensors = _largest_shard(work), 4 if work.offload == "all" else 2
    pieces = 4.0 * PIECES_AT_ONCE * tensors * min(PIECE_VALUES, largest)
    return max(pieces, 8.0 * largest if work.gradients_away else 0.0)


def _held(work: StepWorkload) -> tuple[float, float]:
    """Bytes of context and communicators, and of blocks that only the collectives' streams may use."""
    if work.on_cpu:
        return float(PROCESS_BYTES), _SCORES_KEPT * _block_scores(work)
    shards = work.ep > 1 and work.ep < work.world
    apart = sum((work.ulysses > 1, work.ring > 1, work.ep > 1, shards)) + 2 * (work.kv_nodes > 1)
    communicators = 0 if work.world == 1 else 1 + apart
    return float(CONTEXT_BYTES + communicators * COMMUNICATOR_BYTES), _pools(work)


_SCORES_KEPT = 8.0
"""Blocks of scores that stay with a CPU rank, of layers with a window or sinks: a forward has three at once,
a backward five, each in a thread of its own that keeps what it freed (measured: 268 MiB at blocks of 32)."""


def _block_scores(work: StepWorkload) -> float:
    """Scores of the largest block of queries that attends by itself; a ring's members have no blocks."""
    own = [group.window for group in work.dims.groups if group.window or group.sinks]
    if not own or work.ring > 1:
        return 0.0
    heads = work.micro_batch * work.dims.query_heads // work.ulysses
    return float(max(score_bytes(heads, work.seq_len, window) for window in own))


_EXPERT_COPIES, _LOSS_SHARE = 2.0, 0.9
"""Bytes per weight of a layer with experts, and share of the loss's blocks, that stay reserved: from
two mixtures of experts on a virtual GPU, whose layers are few large tensors (docs/planner.md)."""


def _pools(work: StepWorkload) -> float:
    """Blocks that stay reserved beside the tensors of the peak: of collectives, and of the loss.

    DeepSpeed's stream for reductions keeps the room of a bucket's copy, or of a larger gradient in fp32.
    """
    if work.system.live_parameters:
        cast = work.dims.embedding_weights if work.system.reduce_bytes > work.compute_bytes else 0
        return max(_bucket(work), float(work.system.reduce_bytes * cast))
    if work.world == 1 or work.one_pool:
        return 0.0
    largest = work.dims.held_weights(work.ep)
    if not (work.dims.routed and work.system.pool_bytes):
        return work.system.pool_bytes * largest
    return _EXPERT_COPIES * largest + _LOSS_SHARE * _loss(work)["loss"]


def _allocator(items: dict[str, float], share: float, pools: float) -> float:
    """What the allocator reserves beyond the tensors: a share of what comes and goes, and its pools."""
    resident = items["parameters"] + items["gradients"] + items["optimizer_states"]
    return share * max(0.0, sum(items.values()) - resident) + pools


def _host_bytes(work: StepWorkload) -> float:
    """Host memory of one node for what is offloaded, pinned."""
    ranks = min(work.world, work.gpus_per_node)
    shard = work.dims.num_parameters / work.sharing_ranks
    size = 0.0
    if work.offload != "none":
        # Gradients arrive in fp32, beside master copy and moments.
        size += (work.system.optimizer_bytes + (4.0 if work.gradients_away else 0.0)) * shard
    if work.offload == "all":
        size += work.system.parameter_bytes * shard
    if work.activation_offload and work.checkpointing != "none":
        size += unit(work, work.dims.hidden) * work.dims.num_layers
    if work.sequence_chunks > 1:
        size += chunks_on_host(work)
    return size * ranks
