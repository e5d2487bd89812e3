"""Seconds of one optimizer step, term by term.

Rooflines are additive: a product of F FLOPs that moves B bytes takes F / gemm + B / stream. Forward,
recomputation and backward of L layers run one after another; parameter gathers hide behind them as far as
they fit, all-to-alls where a layer is one function (planner/overlap.py).
"""

from __future__ import annotations

import math

from msgspec import Struct

from tgsbench.metrics import figures
from tgsbench.planner.counts import LayerCounts, Product, head_products, layer_counts, products
from tgsbench.planner.machine import Machine, attention_speed
from tgsbench.planner.network import (
    between_nodes_s,
    broadcasts_s,
    exchange_s,
    expert_ring_s,
    expert_shard_bytes,
    hop_s,
    ring_s,
    shard_bytes,
)
from tgsbench.planner.overlap import Pieces, exposed_backward, exposed_forward
from tgsbench.planner.sequence_chunks import link_bytes, makes_keys_again
from tgsbench.planner.workload import StepWorkload

CPU_ADAM_BYTES_PER_S = 96e9
"""Optimizer traffic that the cores and memory of a node's two sockets sustain; its ranks share it."""
CPU_ADAM_RANK_BYTES_PER_S = 40e9
"""What the threads of one rank sustain alone."""


class LayerTime(Struct, frozen=True, kw_only=True):
    """Seconds of one layer in one pass."""

    gemm: float
    attention: float
    elementwise: float
    recurrence: float = 0.0
    """Linear attention, in the mean of all layers as the rest."""
    exchange_node: float
    """Of all-to-alls what nothing hides, and so below."""
    exchange_network: float
    exchange_hidden: float = 0.0
    """All-to-alls under way beside work."""
    ring: float = 0.0
    """Of a ring's messages, what the steps of attention do not hide."""
    experts_node: float = 0.0
    """All-to-alls of tokens to their experts and back, as the two of attention."""
    experts_network: float = 0.0

    @property
    def total(self) -> float:
        """Time on the compute stream, all-to-alls included: attention and experts wait for them."""
        exchanged = self.exchange_node + self.exchange_network + self.experts_node + self.experts_network
        return self.compute + exchanged + self.ring

    @property
    def compute(self) -> float:
        """Time in which parameter traffic can hide."""
        return self.gemm + self.attention + self.elementwise + self.recurrence


class Passes(Struct, frozen=True, kw_only=True):
    """One layer's three passes."""

    forward: LayerTime
    recompute: LayerTime
    backward: LayerTime


class StepEstimate(Struct, frozen=True, kw_only=True):
    """Seconds of one optimizer step; the items add up to `step_s`."""

    items: dict[str, float]
    passes: Passes
    gather_s: float
    """Parameter and gradient traffic of one micro-step before anything hides it."""
    hidden: dict[str, float] = {}
    """Seconds of communication under way beside work, by kind; no part of `step_s`."""

    @property
    def step_s(self) -> float:
        """The sum of the items."""
        return sum(self.items.values())


def step_time(work: StepWorkload, machine: Machine) -> StepEstimate:
    """Itemised seconds of one optimizer step; raises TgsError when the attention kernel is unknown."""
    passes = layer_passes(work, machine)
    micro = _micro_items(work, machine, passes)
    gather_s = micro.pop("gather_s")
    items = {name: seconds * work.accumulation for name, seconds in micro.items()}
    items |= _step_items(work, machine)
    items["step_overhead"] = work.system.step_overhead_s * machine.fitted.step_overhead_factor
    items["stragglers"] = sum(items.values()) * _straggling(work, machine)
    hidden = {
        "all_to_all": _hidden_exchange_s(passes) * work.dims.num_layers * work.accumulation,
        "gather": (gather_s - micro["gather_exposed"]) * work.accumulation,
    }
    return StepEstimate(items=items, passes=passes, gather_s=gather_s, hidden=hidden)


def _hidden_exchange_s(passes: Passes) -> float:
    each = passes.forward, passes.recompute, passes.backward
    return sum(layer.exchange_hidden for layer in each)


def layer_passes(work: StepWorkload, machine: Machine) -> Passes:
    """Seconds of one layer forward, recomputed and backward."""
    counts = layer_counts(work)
    forward = _forward(work, machine, counts)
    return Passes(
        forward=forward,
        recompute=_recompute(work, machine, counts, forward),
        backward=_backward(work, machine, counts),
    )


def product_s(product: Product, work: StepWorkload, machine: Machine) -> float:
    """Seconds of matrix products: arithmetic, what short sums cost, the traffic of operands and results."""
    flops_per_s = gemm_rate(work, machine)
    if work.fp8:
        flops_per_s *= machine.fitted.fp8_gain
    return _product_s(product, flops_per_s, machine)


def gemm_rate(work: StepWorkload, machine: Machine) -> float:
    """FLOPs per second of this system's long bf16 products on this GPU at its power limit."""
    return figures.peak_flops_per_s(machine.gpu) * machine.product_share * work.system.product_share


def _product_s(product: Product, flops_per_s: float, machine: Machine) -> float:
    flops = product.flops + machine.fitted.product_half_width * product.short
    return flops / flops_per_s + stream_s(product.num_bytes, machine)


def stream_s(num_bytes: float, machine: Machine) -> float:
    """Seconds to read or write bytes of device memory."""
    return num_bytes / (machine.gpu.memory_gb_per_s * 1e9 * machine.fitted.stream_share)


def attention_s(work: StepWorkload, machine: Machine, flops: float) -> tuple[float, float]:
    """Seconds of one layer's attention forward and backward."""
    speed = attention_speed(machine.fitted, work.kernel, work.dims.head_dim)
    share = work.attended_len / (work.attended_len + speed.half_len) * work.system.attention_share * 1e12
    return flops / (speed.forward_tflops * share), 2.5 * flops / (speed.backward_tflops * share)


def _forward(work: StepWorkload, machine: Machine, counts: LayerCounts) -> LayerTime:
    attention, merged = (
        attention_s(work, machine, counts.attention_flops)[0],
        work.hops * counts.ring_merged,
    )
    node, network, hidden = _exchange(work, machine, counts, attention)
    return LayerTime(
        gemm=product_s(counts.gemm, work, machine),
        attention=attention,
        elementwise=stream_s(counts.elementwise_forward + merged, machine),
        recurrence=_scan_s(work, machine, counts),
        exchange_node=node,
        exchange_network=network,
        exchange_hidden=hidden,
        ring=_hops_s(work, machine, counts.ring_message, attention),
        **_experts(work, machine),
    )


def _scan_s(work: StepWorkload, machine: Machine, counts: LayerCounts) -> float:
    """Seconds of the average layer's linear attention forward, in bf16 whatever the projections run in."""
    return _product_s(counts.scan, gemm_rate(work, machine), machine)


def _experts(work: StepWorkload, machine: Machine) -> dict[str, float]:
    """Seconds of the average layer's way to the experts and back in one pass."""
    if work.ep == 1:
        return {}
    share = 2 * work.dims.routed_layers / work.dims.num_layers
    taken = exchange_s(work.routed_bytes, work, machine, work.ep)
    return {"experts_node": share * taken.node_s, "experts_network": share * taken.network_s}


def _hops_s(
    work: StepWorkload, machine: Machine, num_bytes: float, attention: float, last: float = 0.0
) -> float:
    """What the steps of a ring do not hide of the messages that go on meanwhile, and of the `last` one."""
    if work.ring == 1:
        return 0.0
    hop = hop_s(num_bytes, work, machine)
    exposed = work.hops * max(0.0, hop - attention / (work.hops + 1.0))
    return exposed + (hop_s(last, work, machine) if last else 0.0)


def _recompute(work: StepWorkload, machine: Machine, counts: LayerCounts, forward: LayerTime) -> LayerTime:
    if work.checkpointing == "none":
        return LayerTime(gemm=0.0, attention=0.0, elementwise=0.0, exchange_node=0.0, exchange_network=0.0)
    system, selective = work.system, work.checkpointing == "selective"
    some_layers = selective and system.checkpointed_share < 1.0
    layers = system.checkpointed_share if some_layers else 1.0
    products = system.recompute_share if selective else 1.0
    kept = 0.0 if selective and not some_layers else layers
    return LayerTime(
        gemm=layers * products * product_s(counts.gemm_recompute, work, machine),
        attention=kept * forward.attention,
        elementwise=layers * stream_s(counts.elementwise_recompute, machine),
        recurrence=layers * forward.recurrence,
        exchange_node=kept * forward.exchange_node,
        exchange_network=kept * forward.exchange_network,
        exchange_hidden=kept * forward.exchange_hidden,
        ring=kept * forward.ring,
        experts_node=layers * forward.experts_node,
        experts_network=layers * forward.experts_network,
    )


def _backward(work: StepWorkload, machine: Machine, counts: LayerCounts) -> LayerTime:
    attention, summed = (
        attention_s(work, machine, counts.attention_flops)[1],
        work.hops * counts.ring_summed,
    )
    gradients = counts.ring_message * 4 / work.compute_bytes
    node, network, hidden = _exchange(work, machine, counts, attention, backward=True)
    return LayerTime(
        gemm=product_s(counts.gemm_backward, work, machine) + product_s(counts.gemm_tiled, work, machine),
        attention=attention,
        elementwise=stream_s(counts.elementwise_backward + summed, machine),
        recurrence=3 * _scan_s(work, machine, counts),
        ring=_hops_s(work, machine, counts.ring_message + gradients, attention, gradients),
        exchange_node=node,
        exchange_network=network,
        exchange_hidden=hidden,
        **_experts(work, machine),
    )


def _exchange(
    work: StepWorkload, machine: Machine, counts: LayerCounts, attention: float, *, backward: bool = False
) -> tuple[float, float, float]:
    """Seconds of a layer's all-to-alls in one pass: exposed in the node and across, and hidden.

    `attention`: what that takes in this pass. Ranks on a CPU exchange with the cores that compute.
    """
    node, network, key_value = _in_flight(work, machine, counts)
    if not work.whole_layers or work.on_cpu or work.ulysses == 1:
        return node, network, 0.0
    pieces = _pieces(work, machine, attention, node + network, key_value)
    exposed = (exposed_backward if backward else exposed_forward)(pieces)
    share = exposed / pieces.in_flight
    return node * share, network * share, (node + network) * (1.0 - share)


def _pieces(
    work: StepWorkload, machine: Machine, attention: float, in_flight: float, of_key_value: float
) -> Pieces:
    """One pass in the pieces that hide its exchanges; q is as wide as the output."""
    query, key, value, output = work.dims.attention
    of_query = (in_flight - of_key_value) / 2
    return Pieces(
        query=product_s(products(work, (query,)), work, machine),
        key_value=product_s(products(work, (key, value)), work, machine),
        output=product_s(products(work, (output,)), work, machine),
        attention=attention,
        send_query=of_query,
        send_key_value=of_key_value,
        send_output=of_query,
        chunks=work.head_parts,
    )


def _in_flight(work: StepWorkload, machine: Machine, counts: LayerCounts) -> tuple[float, float, float]:
    """Seconds of a layer's all-to-alls in one pass, in the node and across, and of all those of k and v.

    Three separate ones cost two latencies more.
    """
    if work.ulysses == 1:
        return 0.0, 0.0, 0.0
    after, empty = exchange_s(counts.exchange_out, work, machine), exchange_s(0.0, work, machine)
    num_bytes = counts.exchange_in - counts.exchange_out
    if counts.kv_between:
        between = between_nodes_s(counts.kv_between, work, machine)
        key_value = between, exchange_s(num_bytes, work, machine, work.ulysses // work.kv_nodes)
        sent, extra = [after, after, *key_value], counts.exchanges_forward - 3
    else:
        sent, extra = [exchange_s(counts.exchange_in, work, machine), after], counts.exchanges_forward - 2
    node = sum(each.node_s for each in sent) + extra * empty.node_s
    network = sum(each.network_s for each in sent) + extra * empty.network_s
    if counts.kv_between:
        return node, network, sum(each.node_s + each.network_s for each in key_value)
    return node, network, (node + network) * num_bytes / (counts.exchange_in + counts.exchange_out)


def _micro_items(work: StepWorkload, machine: Machine, passes: Passes) -> dict[str, float]:
    """Seconds of one micro-step by item, and the bare gather time under `gather_s`."""
    num_layers = work.dims.num_layers
    fwd, again, bwd = passes.forward, passes.recompute, passes.backward
    logits = work.system.traffic.logits * work.local_tokens * work.dims.vocab
    gather_s, exposed = _gathers(work, machine, passes)
    copies = work.system.copy_bytes * work.dims.held_parameters(work.ep) if gather_s else 0.0
    items = {
        "gemm": num_layers * (fwd.gemm + again.gemm + bwd.gemm),
        "attention_forward": num_layers * fwd.attention,
        "attention_recompute": num_layers * again.attention,
        "attention_backward": num_layers * bwd.attention,
        **(_scan_item(num_layers, passes) if work.dims.has_recurrence else {}),
        "elementwise": num_layers * (fwd.elementwise + again.elementwise + bwd.elementwise),
        "all_to_all_node": num_layers * (fwd.exchange_node + again.exchange_node + bwd.exchange_node),
        "all_to_all_network": num_layers
        * (fwd.exchange_network + again.exchange_network + bwd.exchange_network),
        **({"ring_exposed": num_layers * (fwd.ring + again.ring + bwd.ring)} if work.ring > 1 else {}),
        **(_expert_items(num_layers, passes) if work.ep > 1 else {}),
        "gather_exposed": exposed,
        "gather_copies": stream_s(copies * machine.fitted.gather_contention, machine),
        "head": _head_s(work, machine),
        "loss": stream_s(logits, machine),
        "offload": _activation_offload_s(work, machine, passes),
    }
    items["all_to_all_network"] += _shared_cards_s(items, gather_s)
    items["host"] = _host_s(work, machine, sum(items.values()))
    return items | {"gather_s": gather_s}


def _scan_item(num_layers: int, passes: Passes) -> dict[str, float]:
    three = (passes.forward, passes.recompute, passes.backward)
    return {"linear_attention": num_layers * sum(one.recurrence for one in three)}


def _expert_items(num_layers: int, passes: Passes) -> dict[str, float]:
    three = (passes.forward, passes.recompute, passes.backward)
    return {
        "experts_node": num_layers * sum(one.experts_node for one in three),
        "experts_network": num_layers * sum(one.experts_network for one in three),
    }


def _shared_cards_s(items: dict[str, float], gather_s: float) -> float:
    """How much longer all-to-alls between nodes take because hidden gathers pass the same cards.

    Gathers spread over the time they hide in take that share of the cards from an exchange that comes
    meanwhile: x / (1 - g) instead of x, to first order x·g more; never more than what is hidden.
    """
    across, hidden = items["all_to_all_network"], gather_s - items["gather_exposed"]
    busy = sum(items.values())
    return across * min(1.0, hidden / busy) if across else 0.0


def _host_s(work: StepWorkload, machine: Machine, device_s: float) -> float:
    """Kernel launches: a GPU runs behind them and waits only if it is faster, a CPU does both in turn."""
    kernels = work.system.kernel_ops * work.dims.num_layers * (1.0 if work.checkpointing != "none" else 0.75)
    launch_s = kernels * machine.fitted.launch_us * 1e-6
    return launch_s if work.on_cpu else max(0.0, launch_s - device_s)


def _head_s(work: StepWorkload, machine: Machine) -> float:
    """The head is computed in bf16 where layers run in FP8."""
    flops_per_s = gemm_rate(work, machine)
    return sum(_product_s(product, flops_per_s, machine) for product in head_products(work))


def _gathers(work: StepWorkload, machine: Machine, passes: Passes) -> tuple[float, float]:
    """Seconds of parameter and gradient traffic in a micro-step, and what of it nothing hides.

    The forward hides its gathers, recomputation and backward hide theirs and the gradient scatter; the
    first layer's gather has nothing to hide behind.
    """
    moved, num_layers = shard_bytes(work), work.dims.num_layers
    ranks = work.sharing_ranks
    forward = ring_s(moved.gather_forward, num_layers, ranks, work, machine)
    backward = ring_s(moved.gather_backward, num_layers, ranks, work, machine)
    scatter = ring_s(moved.scatter, num_layers, ranks, work, machine)
    if work.ep > 1:
        of_experts, calls = expert_shard_bytes(work), work.dims.routed_layers
        forward += expert_ring_s(of_experts.gather_forward, calls, work, machine)
        backward += expert_ring_s(of_experts.gather_backward, calls, work, machine)
        scatter += expert_ring_s(of_experts.scatter, calls, work, machine)
    beside = 0.0
    if work.offload == "all" and work.system.streams_states:
        beside = _passing_s(work, machine)
    elif work.offload == "all":  # each GPU's shard comes from the host before it is gathered
        fetch = work.compute_bytes * work.dims.num_parameters / ranks / (machine.gpu.host_gb_per_s * 1e9)
        forward, backward = forward + fetch, backward + fetch
    behind_forward = num_layers * passes.forward.compute
    behind_backward = num_layers * (passes.recompute.compute + passes.backward.compute)
    exposed = max(forward / num_layers, forward - behind_forward)
    exposed += max(scatter / num_layers, backward + scatter - behind_backward)
    return forward + backward + scatter + beside, exposed + beside


def _passing_s(work: StepWorkload, machine: Machine) -> float:
    """Seconds of a micro-step that nothing hides where fp32 parameters and gradients are on the host.

    Parameters come on the stream that computes, for both passes (ZeRO-3); gradients go beside it, but where
    micro-steps add to them the host waits for each and adds.
    """
    shard = work.dims.num_parameters / work.sharing_ranks
    host_s = work.system.parameter_bytes * shard / (machine.gpu.host_gb_per_s * 1e9)
    share_added = 1 - 1 / work.accumulation
    added_s = share_added * (host_s + _ADDED_BYTES * shard / _cpu_adam_rate(work))
    return (2 if work.zero_stage == 3 else 0) * host_s + added_s


_ADDED_BYTES = 12.0
"""Per fp32 gradient that the host adds: both are read, the sum written."""


def _activation_offload_s(work: StepWorkload, machine: Machine, passes: Passes) -> float:
    """Checkpointed inputs go to the host in the forward and come back in the backward, behind compute.

    So do keys and values of chunks of the sequence, and what else they keep there. Where they are made again,
    inputs come once more, behind the projections of keys and values alone.
    """
    inputs = float(work.local_tokens * work.dims.hidden * work.compute_bytes) * work.activation_offload
    both_ways = link_bytes(work) if work.sequence_chunks > 1 else (inputs, inputs)
    out_s, back_s = (num_bytes / (machine.gpu.host_gb_per_s * 1e9) for num_bytes in both_ways)
    behind_backward = passes.recompute.compute + passes.backward.compute
    exposed = max(0.0, out_s - passes.forward.compute) + max(0.0, back_s - behind_backward)
    if work.sequence_chunks > 1 and makes_keys_again(work):
        of_keys = product_s(products(work, work.dims.attention[1:3]), work, machine)
        exposed += max(0.0, inputs / (machine.gpu.host_gb_per_s * 1e9) - of_keys)
    return work.dims.num_layers * exposed


def _step_items(work: StepWorkload, machine: Machine) -> dict[str, float]:
    """Seconds once per optimizer step."""
    shard = work.dims.num_parameters / work.sharing_ranks
    moved = shard_bytes(work)
    per_step = ring_s(moved.shared, 1, work.sharing_ranks, work, machine)
    per_step += ring_s(moved.everywhere, 1, work.world, work, machine) + broadcasts_s(work)
    per_step += expert_ring_s(expert_shard_bytes(work).shared, 1, work, machine)
    on_device = stream_s(work.system.optimizer_traffic * shard, machine)
    if work.offload == "none" or work.system.streams_states:
        passing = _state_bytes_in(work) * shard / (machine.gpu.host_gb_per_s * 1e9)
        return {"optimizer": max(on_device, passing), "gather_step": per_step}
    to_host = (work.system.gradient_bytes + work.compute_bytes) * shard / (machine.gpu.host_gb_per_s * 1e9)
    return {
        "optimizer": work.system.optimizer_traffic * shard / _cpu_adam_rate(work) + to_host,
        "gather_step": per_step,
    }


def _state_bytes_in(work: StepWorkload) -> float:
    """Per parameter, what comes from the host for a step on the device; less goes back at the same time.

    Gradients come twice, first for their norm; below ZeRO-3 parameters once more, to be gathered.
    """
    if work.offload == "none":
        return 0.0
    of_all = 2 * 4.0 + work.system.parameter_bytes * (1 if work.zero_stage == 3 else 2)
    return work.system.optimizer_bytes + (of_all if work.offload == "all" else 0.0)


def _cpu_adam_rate(work: StepWorkload) -> float:
    """Optimizer traffic per second of one rank whose states are in host memory."""
    ranks = min(work.world, work.gpus_per_node)
    return min(CPU_ADAM_RANK_BYTES_PER_S, CPU_ADAM_BYTES_PER_S / ranks)


def _straggling(work: StepWorkload, machine: Machine) -> float:
    """A synchronous step waits for the slowest rank; it costs more with the logarithm of the ranks."""
    return machine.fitted.straggler_share * math.log(work.world / 8) if work.world > 8 else 0.0
