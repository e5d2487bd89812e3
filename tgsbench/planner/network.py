"""Bytes and seconds of the collectives: parameter gathers, gradient scatters, all-to-alls."""

from __future__ import annotations

import math

from msgspec import Struct

from tgsbench.planner.counts import exchange_bytes, kv_between_bytes
from tgsbench.planner.machine import Machine
from tgsbench.planner.workload import StepWorkload

GIGA = 1e9
NODE_LATENCY_S = 15e-6
"""Launch of one collective and its first hop; NCCL's small-message figure inside a node is 10 to 20 µs."""
HOP_LATENCY_S = 3e-6
"""Each further node of a pair of an all-to-all."""
RING_HOP_S = 1.5e-6
"""Each further rank of a ring inside a node, beyond what its bytes take."""
RING_NODE_S = 8e-6
"""Each further node of a ring: one message over the network."""


class ShardBytes(Struct, frozen=True, kw_only=True):
    """Whole-tensor bytes of the sharded collectives of one micro-step, and of one optimizer step.

    Those of a micro-step and `shared` go round the GPUs that share one copy, `everywhere` round all.
    """

    gather_forward: float = 0.0
    gather_backward: float = 0.0
    scatter: float = 0.0
    shared: float = 0.0
    """Once per optimizer step: gradients or parameters that stages 1 and 2 move there."""
    everywhere: float = 0.0
    """Once per optimizer step: gradients that several copies sum, each GPU its shard."""


def shard_bytes(work: StepWorkload) -> ShardBytes:
    """What ZeRO or FSDP moves; nothing on one GPU."""
    if work.world == 1:
        return ShardBytes()
    d = work.dims
    everything = float(d.num_parameters - (d.expert_weights if work.ep > 1 else 0.0))
    if work.system.shards_masters and not work.whole_layers:  # FSDP2 cuts each tensor by its rows
        everything += d.padding(work.sharing_ranks, work.ep)
    # Parameters travel in the compute precision, gradients never in a lower one.
    gather_bytes, reduce_bytes = work.compute_bytes, max(work.system.reduce_bytes, work.compute_bytes)
    copies = work.world // work.sharing_ranks
    if work.zero_stage == 1 and copies > 1 and not work.system.shards_masters:
        return ShardBytes(shared=gather_bytes * everything, everywhere=2 * reduce_bytes * everything)
    summed = 2 * reduce_bytes * everything / work.sharing_ranks if copies > 1 else 0.0
    if work.zero_stage == 1:
        # An all-reduce moves gradients twice; where parameters are sharded a reduce-scatter does once.
        passes = 1 if work.system.shards_masters else 2
        return ShardBytes(shared=(passes * reduce_bytes + gather_bytes) * everything, everywhere=summed)
    if work.zero_stage == 2:
        scatter, shared = reduce_bytes * everything, gather_bytes * everything
        return ShardBytes(scatter=scatter, shared=shared, everywhere=summed)
    backward = everything - _gathered_once(work) if work.regather else 0.0
    return ShardBytes(
        gather_forward=gather_bytes * everything,
        gather_backward=gather_bytes * backward,
        scatter=reduce_bytes * everything,
        everywhere=summed,
    )


def _gathered_once(work: StepWorkload) -> float:
    """Parameters that the backward does not gather again under ZeRO-3.

    The head is the last of the forward and the first of the backward. Tied to the embedding it belongs to the
    root, which is kept for the backward too; elsewhere the embedding's backward needs no weights. DeepSpeed
    keeps as much of the end of the forward as may be live, but never the embedding.
    """
    d, system = work.dims, work.system
    if system.keeps_live:
        return float(min(system.live_parameters, d.num_parameters - d.embedding_weights))
    tables = 1 if d.tied or system.regathers_embedding else 2
    return float(tables * d.embedding_weights + d.hidden)


def expert_shard_bytes(work: StepWorkload) -> ShardBytes:
    """The same of experts that are shared out: those of one rank, over the ranks that hold the same ones."""
    if work.ep in (1, work.world):
        return ShardBytes()
    held = work.dims.held_expert_values(work.world // work.ep, work.ep)
    gather, reduce = work.compute_bytes * held, max(work.system.reduce_bytes, work.compute_bytes) * held
    if work.zero_stage < 3:
        scatter = reduce if work.zero_stage == 2 else 0.0
        return ShardBytes(scatter=scatter, shared=gather + reduce - scatter)
    return ShardBytes(gather_forward=gather, gather_backward=gather, scatter=reduce)


def expert_ring_s(num_bytes: float, num_calls: float, work: StepWorkload, machine: Machine) -> float:
    """Seconds of all-gathers or reduce-scatters over the ranks that hold the same experts, `ep` apart.

    As many of these rings go at once as ranks of a node hold different experts, and share its cards.
    """
    ranks = work.world // work.ep
    if num_bytes == 0 or ranks == 1:
        return 0.0
    joined = joined_ranks(work, machine)
    rate = ring_rate(work.world, work, machine)
    if work.world > joined:
        rate /= min(work.ep, work.gpus_per_node)
    return _round_s(num_bytes, num_calls, ranks, min(ranks, -(-work.world // joined)), rate)


def ring_s(num_bytes: float, num_calls: float, ranks: int, work: StepWorkload, machine: Machine) -> float:
    """Seconds of all-gathers or reduce-scatters over `ranks`: (n - 1)/n of the bytes pass each GPU."""
    if num_bytes == 0 or ranks == 1:
        return 0.0
    nodes = -(-ranks // joined_ranks(work, machine))
    return _round_s(num_bytes, num_calls, ranks, nodes, ring_rate(ranks, work, machine))


def _round_s(num_bytes: float, num_calls: float, ranks: int, nodes: int, rate: float) -> float:
    """Seconds of calls round `ranks` on as many nodes: bytes at a rate, and the way round for each call."""
    latency = NODE_LATENCY_S + RING_NODE_S * (nodes - 1) + RING_HOP_S * (ranks - nodes)
    return num_bytes * (ranks - 1) / ranks / rate + num_calls * latency


def broadcasts_s(work: StepWorkload) -> float:
    """Seconds that broadcasts of ZeRO-1's owners take beyond their bytes, one after another."""
    ranks, dims = work.sharing_ranks, work.dims
    if work.zero_stage != 1 or not work.system.broadcast_hop_s:
        return 0.0
    tensors = dims.num_layers * (len(dims.attention) + len(dims.mlp) + _NORMS) + _NORMS
    return min(ranks, tensors) * (ranks - 1) * work.system.broadcast_hop_s


_NORMS = 2
"""Norms of a layer; the embedding and the head are as many tensors."""


def joined_ranks(work: StepWorkload, machine: Machine) -> int:
    """Neighbouring ranks that NVLink joins: those of a node, or of a rack where it joins more."""
    return max(work.gpus_per_node, machine.gpu.nvlink_gpus)


def ring_rate(ranks: int, work: StepWorkload, machine: Machine) -> float:
    """Bytes per second into one GPU of a ring over `ranks` neighbours.

    Inside a node NVLink bounds it; across nodes every byte enters the node once and all cards of the node
    share that, less for each doubling of the nodes, unless a rate was fitted for the link.
    """
    inside = nvlink_rate(machine)
    joined = joined_ranks(work, machine)
    if ranks <= joined:
        return inside
    link = machine.link
    if link.gather_gb_per_s is not None:
        return min(inside, link.gather_gb_per_s * GIGA)
    cards = work.gpus_per_node * link.inter_node_gb_per_s * machine.fitted.network_share * GIGA
    doublings = max(0.0, math.log2(ranks / joined) - 1)
    return min(inside, cards) * math.pow(machine.fitted.ring_decline, doublings)


class Exchange(Struct, frozen=True):
    """Seconds of one all-to-all: the part that waits for NVLink, the part that waits for the network."""

    node_s: float
    network_s: float


def exchange_s(num_bytes: float, work: StepWorkload, machine: Machine, ranks: int = 0) -> Exchange:
    """Seconds of an all-to-all of `num_bytes` in a group of `ranks` neighbours; 0: those of Ulysses.

    Each rank sends 1/ranks of its buffer to every peer; both kinds of peers are served at once, so the
    slower kind is what is waited for.
    """
    ranks = ranks or work.ulysses
    inside_ranks = min(ranks, joined_ranks(work, machine))
    nvlink = nvlink_rate(machine)
    inside = num_bytes * (inside_ranks - 1) / ranks / nvlink
    if ranks == inside_ranks:
        return Exchange(inside + NODE_LATENCY_S, 0.0)
    outside = num_bytes * (ranks - inside_ranks) / ranks / all_to_all_rate(machine)
    latency = NODE_LATENCY_S + HOP_LATENCY_S * (ranks // inside_ranks - 1)
    if outside >= inside:
        return Exchange(0.0, outside + latency)
    return Exchange(inside - outside, outside + latency)


def between_nodes_s(num_bytes: float, work: StepWorkload, machine: Machine) -> Exchange:
    """Seconds of an all-to-all of `num_bytes` in a group of one rank a node, for keys and values.

    Where NVLink joins all ranks it takes that, too.
    """
    sent = num_bytes * (work.kv_nodes - 1) / work.kv_nodes
    if work.ulysses <= joined_ranks(work, machine):
        return Exchange(sent / nvlink_rate(machine) + NODE_LATENCY_S, 0.0)
    latency = NODE_LATENCY_S + HOP_LATENCY_S * (work.kv_nodes - 1)
    return Exchange(0.0, sent / all_to_all_rate(machine) + latency)


def nvlink_rate(machine: Machine) -> float:
    """Bytes per second that one GPU sends to its neighbours."""
    return machine.gpu.nvlink_gb_per_s * machine.fitted.nvlink_share * GIGA


def hop_s(num_bytes: float, work: StepWorkload, machine: Machine) -> float:
    """Seconds of a message to the next member of a ring, whose ranks lie as many apart as Ulysses has.

    The slowest hop decides: over the network where the ring leaves the ranks that NVLink joins.
    """
    joined = work.sp <= joined_ranks(work, machine)
    inside = nvlink_rate(machine)
    rate = inside if joined else min(inside, all_to_all_rate(machine))
    return num_bytes / rate + NODE_LATENCY_S


def all_to_all_rate(machine: Machine) -> float:
    """Bytes per second that one GPU sends to other nodes."""
    link = machine.link
    if link.all_to_all_gb_per_s is not None:
        return link.all_to_all_gb_per_s * GIGA
    return link.inter_node_gb_per_s * machine.fitted.network_share * GIGA


def exchange_passes(work: StepWorkload) -> int:
    """How often a layer's all-to-alls run in a micro-step: forward, recompute, backward."""
    return 3 if work.checkpointing == "full" else 2


def exchanged_bytes(work: StepWorkload) -> float:
    """All-to-all bytes of one rank in one micro-step, its own part included."""
    of_layer = sum(exchange_bytes(work)) + kv_between_bytes(work)
    return work.dims.num_layers * exchange_passes(work) * of_layer


def gathered_bytes(work: StepWorkload) -> float:
    """All-gather bytes of one micro-step, whole tensors."""
    moved = shard_bytes(work)
    return moved.gather_forward + moved.gather_backward
