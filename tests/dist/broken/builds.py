"""Faults of a build, one function each: what is trained goes wrong on the mesh and on one rank alike, unless said.

A rank of a run whose folder is called `fault-NAME` calls NAME before anything of it is built.
"""

import types

import torch
from torch.nn import functional


def _attention(masked):
    """Attention by a plain softmax over the keys that `masked` leaves, bool [S, S]."""
    from tgsbench.training.attention import kernels

    def broken(q, k, v, scale):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        keep = masked(torch.ones(q.shape[2], q.shape[2], dtype=torch.bool))
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=keep, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out.transpose(1, 2)

    kernels._causal = broken


def attention_not_causal():
    _attention(lambda ones: ones)


def attention_sees_one_ahead():
    _attention(lambda ones: ones.tril(1))


def attention_misses_its_own_token():
    _attention(
        lambda ones: ones.tril(-1) | torch.eye(len(ones), dtype=torch.bool) & (torch.arange(len(ones)) == 0)
    )


def attention_with_a_silent_window():
    _attention(lambda ones: ones.tril() & ~ones.tril(-64))


def attention_scale_without_its_root():
    from tgsbench.training.attention import kernels

    causal = kernels._causal
    kernels._causal = lambda q, k, v, scale: causal(q, k, v, scale * scale)


def query_groups_dealt_round_robin():
    """Query head n reads KV head n mod KV heads, on every rank alike."""
    from tgsbench.training.attention import kernels

    causal = kernels._causal

    def broken(q, k, v, scale):
        times = q.shape[2] // k.shape[2]
        return causal(q, k.repeat(1, 1, times, 1), v.repeat(1, 1, times, 1), scale)

    kernels._causal = broken


def kv_heads_swapped_within_a_rank():
    """After the exchange a rank's KV heads stand in the wrong order; one rank alone has no exchange."""
    from tgsbench.training.attention import attention
    from tgsbench.training.model import layer_pass

    scatter, start = attention.scatter_heads, layer_pass.start_filled

    def broken(q, k, v, group):
        q, k, v = scatter(q, k, v, group)
        return (q, k, v) if group is None else (q, k.flip(2), v.flip(2))

    def broken_start(filled, sizes, group, name):
        arrive = start(filled, sizes, group, name)
        swapped = len(sizes) == 2
        return (lambda: tuple(x.flip(2) for x in arrive())) if swapped else arrive

    attention.scatter_heads, layer_pass.start_filled = broken, broken_start


def nodes_get_each_others_kv_head():
    """In the first hop keys and values go to the wrong node: all its copies are of another head."""
    _first_hop(lambda start, filled, *rest: start(filled.flip(0), *rest))


def keys_go_between_nodes_twice():
    def broken(start, filled, *rest):
        start(filled, *rest)()
        return start(filled, *rest)

    _first_hop(broken)


def _first_hop(send):
    from tgsbench.training.model import layer_pass

    start = layer_pass.start_filled

    def broken(filled, sizes, *rest):
        return send(start, filled, sizes, *rest) if len(sizes) == 2 else start(filled, sizes, *rest)

    layer_pass.start_filled = broken


def copied_keys_in_the_order_of_places():
    """A node's copies are in the order in which its ranks sent them, and not in that of the sequence."""
    from tgsbench.training.parallel.kv_hops import KvHops

    KvHops._by_node = lambda self, x: x


def a_copys_gradient_lost():
    """What the second rank of a node has for the head that all its ranks share is not added."""
    from tgsbench.training.parallel.kv_hops import KvHops

    give_back = KvHops.give_back

    def broken(self, arrive):
        messages = arrive()
        for message in messages:
            message[1] = 0
        return give_back(self, lambda: messages)

    KvHops.give_back = broken


def a_layer_skipped():
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    from tgsbench.training.model.whole_layer import WholeLayer

    forward, whole, init = LlamaDecoderLayer.forward, WholeLayer.forward, WholeLayer.__init__

    def broken(self, hidden_states, *args, **kwargs):
        out = forward(self, hidden_states, *args, **kwargs)
        return hidden_states + 0 * out if self.self_attn.layer_idx == 1 else out

    def numbered(self, layer, *args):
        init(self, layer, *args)
        self.number = layer.self_attn.layer_idx

    def broken_whole(self, hidden_states, **kwargs):
        out = whole(self, hidden_states, **kwargs)
        return hidden_states + 0 * out if self.number == 1 else out

    LlamaDecoderLayer.forward = broken
    WholeLayer.__init__, WholeLayer.forward = numbered, broken_whole


def mlps_skipped():
    from tgsbench.training.model import fused_layers

    backward = fused_layers.swiglu_backward
    fused_layers.swiglu = lambda gate, up: 0 * gate
    fused_layers.swiglu_backward = lambda *args: tuple(0 * x for x in backward(*args))


def gelu_in_place_of_silu():
    from tgsbench.training.model import fused_layers

    def backward(grad, gate, up):
        with torch.enable_grad():
            inputs = gate.detach().requires_grad_(), up.detach().requires_grad_()
            return torch.autograd.grad(functional.gelu(inputs[0]) * inputs[1], inputs, grad)

    fused_layers.swiglu = lambda gate, up: functional.gelu(gate) * up
    fused_layers.swiglu_backward = backward


def no_rope():
    from tgsbench.training.model import fused_layers

    fused_layers.rotated = lambda x, cos, sin, sign, into=None: x.clone() if into is None else into.copy_(x)


def rope_theta_of_another_model():
    from transformers.models.llama import modeling_llama

    init = modeling_llama.LlamaRotaryEmbedding.__init__

    def broken(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.inv_freq.pow_(1.5)

    modeling_llama.LlamaRotaryEmbedding.__init__ = broken


def positions_begin_anew_on_each_rank():
    from tgsbench.training.engines import batches

    shard = batches.shard

    def broken(*args):
        part = shard(*args)
        part.position_ids[:] -= part.position_ids[0]
        return part

    batches.shard = broken


def norm_epsilon_of_another_model():
    from tgsbench.training.model import fused_layers

    forward = fused_layers.norm_forward
    fused_layers.norm_forward = lambda x, weight, eps: forward(x, weight, 1e-2)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def norm_gradient_wrong():
    from tgsbench.training.model import fused_layers

    backward = fused_layers.norm_backward

    def broken(*args):
        grad_x, grad_weight = backward(*args)
        return 1.001 * grad_x, grad_weight

    fused_layers.norm_backward = broken


def loss_gradient_wrong():
    from tgsbench.training.model import loss

    right = loss.linear_cross_entropy
    loss.linear_cross_entropy = lambda hidden, *rest: right(_Scaled.apply(hidden, 1.001), *rest)


def a_chunk_of_the_loss_missing():
    from tgsbench.training.model import loss

    right = loss.linear_cross_entropy

    def broken(hidden, weight, labels, chunk):
        labels = labels.clone()
        labels[-8:] = -100
        return right(hidden, weight, labels, chunk)

    loss.linear_cross_entropy = broken


def recomputation_that_differs():
    """What a checkpoint computes again in the backward is not what the forward computed."""
    from tgsbench.training.model import fused_layers

    forward = fused_layers.norm_forward

    def broken(*args):
        again = torch._C._current_graph_task_id() != -1
        out, inverse = forward(*args)
        return out * (1.01 if again else 1.0), inverse

    fused_layers.norm_forward = broken


def embedding_frozen():
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.optimizer_step

    def broken(self, lr):
        self.model.model.embed_tokens.weight.grad.zero_()
        return step(self, lr)

    Fsdp2Engine.optimizer_step = broken


def a_micro_step_dropped():
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.forward_backward
    calls = []

    def broken(self, batch, labels):
        calls.append(0)
        return step(self, batch, labels * (1e9 if len(calls) % 2 == 0 else 1))

    Fsdp2Engine.forward_backward = broken


def micro_steps_weighted_alike():
    """Each micro-step is divided by its own labels, as if all had as many."""
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.forward_backward

    def broken(self, batch, labels):
        own = (batch.labels >= 0).sum()
        torch.distributed.all_reduce(own)
        return step(self, batch, 2 * int(own))

    Fsdp2Engine.forward_backward = broken


def clipping_per_parameter():
    from tgsbench.training.engines import fsdp2

    clip = fsdp2.clip_gradients

    def broken(parameters, norm, experts=None):
        parameters = list(parameters)
        total = clip(parameters, 1e9)
        for parameter in parameters:
            clip([parameter], norm)
        return total

    fsdp2.clip_gradients = broken


def no_clipping():
    from tgsbench.training.engines import fsdp2

    clip = fsdp2.clip_gradients
    fsdp2.clip_gradients = lambda parameters, norm, experts=None: clip(parameters, 1e9, experts)


def _optimizer(**changes):
    from tgsbench.training.engines import fsdp2

    adamw = torch.optim.AdamW
    fsdp2.torch.optim.AdamW = lambda parameters, **kwargs: adamw(parameters, **{**kwargs, **changes})


def weight_decay_lost():
    _optimizer(weight_decay=0.0)


def beta2_of_another_optimizer():
    _optimizer(betas=(0.9, 0.95))


def epsilon_of_another_optimizer():
    _optimizer(eps=1e-3)


def optimizer_stops_after_a_step():
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.optimizer_step
    calls = []

    def broken(self, lr):
        calls.append(0)
        return step(self, lr if len(calls) < 2 else 0.0)

    Fsdp2Engine.optimizer_step = broken


def learning_rate_without_its_warm_up():
    from tgsbench.training import loop

    loop.learning_rate = lambda preset, step, num_steps: preset.training.lr / 2


def reduced_in_the_compute_type():
    from tgsbench.training.engines import fsdp2

    policy = fsdp2.MixedPrecisionPolicy
    fsdp2.MixedPrecisionPolicy = lambda param_dtype, reduce_dtype: policy(param_dtype, param_dtype)


def document_borders_one_late():
    from tgsbench.training.engines import batches

    right = batches.documents

    def broken(borders, device):
        borders = borders.clone()
        borders[1:-1] += 1
        return right(borders, device)

    batches.documents = broken


def both_data_parallel_groups_on_the_same_packs():
    from tgsbench.training.engines.batches import Batches

    def broken(self, micro):
        size = self._preset.training.micro_batch
        return range(micro * self._mesh.dp * size, micro * self._mesh.dp * size + size)

    Batches._packs_of = broken


def the_same_packs_every_step():
    from tgsbench.training.engines.batches import Batches

    Batches.indices = lambda self, step, micro_step: self._packs_of(micro_step)


def tokens_counted_twice():
    from tgsbench.training.engines.batches import Batches

    count = Batches._count

    def broken(self, tokens, labels, pack, fed):
        before = fed.tokens
        count(self, tokens, labels, pack, fed)
        fed.tokens += fed.tokens - before

    Batches._count = broken


def padding_counted():
    from tgsbench.training.engines.batches import Batches

    count = Batches._count

    def broken(self, tokens, labels, pack, fed):
        before = fed.tokens
        count(self, tokens, labels, pack, fed)
        fed.tokens = before + len(tokens)

    Batches._count = broken


def targets_not_shifted():
    from tgsbench.training.engines import batches

    shard = batches.shard

    def broken(*args):
        part = shard(*args)
        part.labels[:] = part.input_ids
        return part

    batches.shard = broken


def packs_read_from_one_place():
    from tgsbench.workload.packs import PackedDataset

    read = PackedDataset.pack
    PackedDataset.pack = lambda self, index: read(self, 0)


def the_epoch_holds_one_pack():
    """Every pack's borders are the first one's, for whoever asks, while the data count many."""
    import dataclasses

    from tgsbench.training import rank

    right = rank.prepare

    def broken(*args):
        data = right(*args)
        bounds = data.bounds
        same = [part[:1].repeat(len(part)) for part in (bounds.starts, bounds.ends)]
        return dataclasses.replace(data, bounds=dataclasses.replace(bounds, starts=same[0], ends=same[1]))

    rank.prepare = broken


def _fed(change):
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.forward_backward
    Fsdp2Engine.forward_backward = lambda self, batch, labels: step(self, change(batch), labels)


def ids_replaced_before_the_embedding():
    import dataclasses

    _fed(lambda batch: dataclasses.replace(batch, input_ids=batch.input_ids * 0))


def half_of_the_ids_fed():
    import dataclasses

    def half(batch):
        size = batch.input_ids.shape[1] // 2
        ids, labels, positions = (x[:, :size] for x in (batch.input_ids, batch.labels, batch.position_ids))
        return dataclasses.replace(batch, input_ids=ids, labels=labels, position_ids=positions)

    _fed(half)


def a_micro_step_not_run():
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.forward_backward
    losses = []

    def broken(self, batch, labels):
        if len(losses) % 2 == 0:
            losses.append(step(self, batch, labels))
            return losses[-1]
        losses.append(losses[-1])
        return losses[-1]

    Fsdp2Engine.forward_backward = broken


def every_rank_fed_the_first_shard():
    from tgsbench.training.engines import batches

    shard = batches.shard
    batches.shard = lambda pack, sp_rank, *rest: shard(pack, 0, *rest)


def sequence_parallel_off():
    """Each rank attends to its own shard alone."""
    from tgsbench.training.attention import attention

    init = attention.UlyssesAttention.__init__
    attention.UlyssesAttention.__init__ = lambda self, kernel, group: init(self, kernel, None)


def all_to_alls_kept_local():
    from tgsbench.training.parallel import ulysses

    def broken(received, sent, **_):
        received.copy_(sent)
        return types.SimpleNamespace(wait=lambda: None)

    ulysses.dist.all_to_all_single = broken


def all_to_alls_of_half_the_bytes():
    from tgsbench.training.parallel import ulysses

    right = ulysses.dist.all_to_all_single

    def broken(received, sent, **kwargs):
        half = received.to(torch.bfloat16)
        work = right(half, sent.to(torch.bfloat16), **kwargs)
        if work is not None:
            work.wait()
        received.copy_(half)
        return work

    ulysses.dist.all_to_all_single = broken


def nothing_recomputed():
    """Checkpoints are left out: more memory, fewer FLOPs than the preset says."""
    from tgsbench.training.engines import fsdp2

    fsdp2.wrap_layer = lambda layer, *_: layer


def step_time_halved():
    from tgsbench.training import loop

    right = loop.Stepper._observed
    loop.Stepper._observed = lambda self, index, phase, step_s, *rest: right(
        self, index, phase, step_s / 2, *rest
    )


def clock_starts_late():
    """Once the first micro-step is done."""
    _clock(lambda readings: readings[3])


def clock_stops_early():
    """Before the last micro-step and the optimizer."""
    _clock(lambda readings: readings[0], lambda readings: readings[-3])


def _clock(begin, end=lambda readings: readings[-1]):
    """A step takes from one reading of its clock to another; right are the first and the last.

    Between them are one before and one after each micro-step's data.
    """
    from tgsbench.training import loop

    read, observed = loop.synchronised_clock, loop.Stepper._observed
    readings = []

    def kept(device):
        readings.append(read(device))
        return readings[-1]

    def broken(self, index, phase, step_s, *rest):
        step_s = end(readings) - begin(readings)
        readings.clear()
        return observed(self, index, phase, step_s, *rest)

    loop.synchronised_clock, loop.Stepper._observed = kept, broken


def padding_counted_everywhere():
    """A pack says of itself that it is full."""
    import dataclasses

    from tgsbench.workload.packs import PackedDataset

    read = PackedDataset.pack

    def broken(self, index):
        pack = read(self, index)
        return dataclasses.replace(pack, num_tokens=len(pack.tokens))

    PackedDataset.pack = broken


def _rate(change):
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.optimizer_step
    Fsdp2Engine.optimizer_step = lambda self, lr: step(self, change(lr))


def optimizer_never_steps():
    _rate(lambda lr: 0.0)


def learning_rate_tenfold():
    _rate(lambda lr: 10 * lr)


def loss_of_nothing():
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.forward_backward
    Fsdp2Engine.forward_backward = lambda self, batch, labels: 0 * step(self, batch, labels)


def gradients_of_nothing():
    from tgsbench.training.engines.fsdp2 import Fsdp2Engine

    step = Fsdp2Engine.optimizer_step

    def broken(self, lr):
        for parameter in self.model.parameters():
            parameter.grad.zero_()
        return step(self, lr)

    Fsdp2Engine.optimizer_step = broken


# Faults that only some families can have


def experts_shifted_by_one():
    from tgsbench.training.model import experts

    right = experts.grouped_mm_experts_forward
    experts.grouped_mm_experts_forward = lambda module, hidden, chosen, shares: right(
        module, hidden, (chosen + 1) % module.num_experts, shares
    )


def router_of_one_rank_differs():
    """Tokens of rank 1 go to the experts beside those that the router chose."""
    import os

    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

    route = Qwen3MoeTopKRouter.forward

    def beside(self, hidden_states):
        logits, scores, indices = route(self, hidden_states)
        return logits, scores, (indices + 1) % self.num_experts

    if os.environ["RANK"] == "1":
        Qwen3MoeTopKRouter.forward = beside


def positions_in_every_layer():
    """Of SmolLM3, whose every fourth layer has none."""
    from tgsbench.models.smollm3 import SmolLm3

    config = SmolLm3.config
    SmolLm3.config = lambda self, shape, length: config(self, shape, length) | {"no_rope_layers": [1] * 4}


def halves_of_a_head_turned():
    """Of GLM-4, whose RoPE turns neighbouring values."""
    from transformers.models.glm import modeling_glm

    from tgsbench.training.model import fused_layers

    modeling_glm.apply_rotary_pos_emb = fused_layers.fused_rope


def window_off_by_one():
    from tgsbench.training.attention import windowed

    sees = windowed._sees
    windowed._sees = lambda window, *rest: sees(window + 1 if window else 0, *rest)


def sinks_dropped():
    from tgsbench.training.attention.attention import UlyssesAttention

    run = UlyssesAttention._run
    UlyssesAttention._run = lambda self, q, k, v, scale, own: run(
        self, q, k, v, scale, own._replace(sinks=None)
    )


def head_norms_skipped():
    """Norms of a head's 16 values pass them through."""
    from tgsbench.training.model.fused_layers import FusedNorm
    from tgsbench.training.model.head_norm import HeadNorm

    forward, whole = FusedNorm.forward, HeadNorm.forward
    FusedNorm.forward = lambda self, x: (
        x + 0 * forward(self, x) if self.weight.numel() == 16 else forward(self, x)
    )
    HeadNorm.forward = lambda self, heads, keep: heads + 0 * whole(self, heads, keep)


def a_head_norms_gradient_of_one_part_alone():
    """Its weight learns from the part of the heads that comes first."""
    from tgsbench.training.model.head_norm import HeadNorm

    HeadNorm.weight_gradient = lambda self: self._gradients[0]


def head_norms_passed_over_in_the_backward():
    """Gradients of normed heads are taken for those of the projected ones."""
    from tgsbench.training.model.head_norm import HeadNorm

    backward = HeadNorm.backward
    HeadNorm.backward = lambda self, grad, before: grad.view_as(before.heads) + 0 * backward(
        self, grad, before
    )


def a_part_of_the_queries_projected_again_as_another():
    """What a norm of heads took is made again for the first part of the heads only."""
    from tgsbench.training.model.layer_pass import LayerPass

    projected = LayerPass._projected_q

    def broken(self, given, index):
        again = torch._C._current_graph_task_id() != -1
        return projected(self, given, 0 if again else index)

    LayerPass._projected_q = broken


def a_bias_of_another_part():
    """Queries of one part of the heads get the bias of the other."""
    from tgsbench.training.model.layer_pass import LayerPass

    of_part = LayerPass._chunk_of_bias
    LayerPass._chunk_of_bias = lambda self, index, bias: of_part(self, self.layer.chunks - 1 - index, bias)


def gradients_of_biases_lost():
    from tgsbench.training.model import layer_pass

    layer_pass._write_bias = lambda into, grad: None if into is None else into.zero_()


def a_part_of_the_heads_without_its_window():
    """Every second call of attention sees all before it."""
    import itertools

    from tgsbench.training.attention.windowed import PLAIN
    from tgsbench.training.model.whole_layer import WholeLayer

    attend, calls = WholeLayer.attend, itertools.count()

    def broken(self, q, k, v):
        if self.chunks == 1 or next(calls) % 2 == 0:
            return attend(self, q, k, v)
        return self.attention.attend(q, k, v, self.head_dim**-0.5, PLAIN)

    WholeLayer.attend = broken


def keys_and_values_of_a_latent_swapped():
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    expand = DeepseekV3Attention.expand_kv

    def swapped(self, kv_nope, k_rot):
        keys, values = expand(self, kv_nope, k_rot)
        width = self.qk_nope_head_dim
        return torch.cat([values, keys[..., width:]], -1), keys[..., :width]

    DeepseekV3Attention.expand_kv = swapped


def shared_expert_of_another_token():
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    forward = DeepseekV3MoE.forward

    def broken(self, hidden):
        shared = self.shared_experts
        return forward(self, hidden) + shared(hidden.roll(1, 1)) - shared(hidden)

    DeepseekV3MoE.forward = broken


def _ring_step(broken):
    """`broken(plan)` in place of what a member of a ring computes after its first step."""
    from tgsbench.training.attention import ring

    make = ring.Ring._make_plan
    ring.Ring._make_plan = lambda self, *pack: broken(self, make(self, *pack))


def a_block_of_the_ring_missing():
    """The last member leaves out the keys that it meets last."""
    _ring_step(
        lambda ring, plan: (
            plan._replace(steps=(*plan.steps[:-1], ())) if ring.member == ring.size - 1 else plan
        )
    )


def a_block_of_the_ring_twice():
    _ring_step(
        lambda ring, plan: (
            plan._replace(steps=(*plan.steps[:-1], plan.steps[-1] * 2)) if ring.member == 0 else plan
        )
    )


def blocks_of_the_ring_in_wrong_order():
    """Steps of the forward are taken for one another: keys of one member with the rectangle of another."""
    _ring_step(lambda ring, plan: plan._replace(steps=plan.steps[::-1]))


def a_merge_without_the_maximum():
    """A block's log-sum-exp lacks the largest score, which was taken out before the exponentials were summed."""
    from tgsbench.training.attention import blocks

    forward = blocks._cpu_forward

    def broken(q, k, v, scale, causal, *rest):
        out, lse = forward(q, k, v, scale, causal, *rest)
        if causal:
            return out, lse
        keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return out, lse - (torch.einsum("tad,uad->atu", q, keys) * scale).amax(2)

    blocks._cpu_forward = broken


def a_shards_positions_off_by_one():
    """The second member of a ring counts its positions from one too many."""
    from tgsbench.training.engines import batches

    shard = batches.shard

    def broken(pack, sp_rank, sp, *args):
        part = shard(pack, sp_rank, sp, *args)
        part.position_ids[:] += sp_rank == sp - 1
        return part

    batches.shard = broken


def chunks_of_the_ring_in_order():
    """Each member holds two neighbouring chunks where all attend as if an early and a late one lay there."""
    from tgsbench.workload import zigzag

    zigzag.Layout.cut = lambda layout, row, rank: row.reshape(layout.sp, -1)[rank]


def gradients_of_the_ring_lost_on_their_last_hop():
    """What the member after this one computed for its keys does not come back."""
    from tgsbench.training.attention import ring

    backward = ring.add_gradients

    def broken(*args):
        grad_k, grad_v = backward(*args)
        return (grad_k * 0, grad_v * 0) if torch.distributed.get_rank() == 0 else (grad_k, grad_v)

    ring.add_gradients = broken


def windows_of_the_ring_a_token_too_wide():
    from tgsbench.training.attention import ring

    make = ring.Ring._make_plan

    def broken(self, docs, num_tokens, window):
        return make(self, docs, num_tokens, window + (window > 0))

    ring.Ring._make_plan = broken


def keys_of_the_ring_from_the_wrong_side():
    """Where a window is, keys come from as far after a member as they should come from before it."""
    from tgsbench.training.attention import ring

    pass_on = ring.Ring.pass_on
    ring.Ring.pass_on = lambda self, sent, tag, hop=1: pass_on(self, sent, tag, -hop if tag == 0 else hop)


def a_message_of_the_ring_sent_twice():
    from tgsbench.training.attention import ring

    pass_on = ring.Ring.pass_on

    def broken(self, *message):
        pass_on(self, *message).wait()
        return pass_on(self, *message)

    ring.Ring.pass_on = broken


def _earlier_chunks(broken):
    """`broken(chunk, earlier)` in place of what a chunk sees of those before it."""
    from tgsbench.training.attention import time_ring

    make = time_ring.TimeRing._plan

    def plan(self, docs, num_rows, window, chunk):
        made = make(self, docs, num_rows, window, chunk)
        return made._replace(earlier=tuple(broken(chunk, made.earlier)))

    time_ring.TimeRing._plan = plan


def a_block_of_an_earlier_chunk_missing():
    """The last chunk leaves out the first one."""
    _earlier_chunks(lambda chunk, earlier: earlier[1:] if chunk == 3 else earlier)


def a_block_of_an_earlier_chunk_twice():
    """The third chunk meets each of those before it twice."""
    _earlier_chunks(lambda chunk, earlier: [(at, blocks * (1 + (chunk == 2))) for at, blocks in earlier])


def blocks_of_earlier_chunks_in_wrong_order():
    """Keys of one chunk meet the rectangle of another."""

    def swapped(chunk, earlier):
        numbers, blocks = zip(*earlier, strict=True) if earlier else ((), ())
        return zip(numbers[::-1], blocks, strict=True)

    _earlier_chunks(swapped)


def gradients_of_later_chunks_a_position_off():
    """What later chunks give to the keys of one goes to the keys beside them."""
    from tgsbench.training.attention import time_ring

    take = time_ring.TimeRing.take

    def broken(self, sums, chunk, of_own, later):
        return take(self, sums, chunk, of_own, [total.roll(1, dims=1) for total in later])

    time_ring.TimeRing.take = broken


def gradients_of_later_chunks_lost():
    from tgsbench.training.attention import time_ring

    take = time_ring.TimeRing.take
    time_ring.TimeRing.take = lambda self, sums, chunk, of_own, later: take(self, sums, chunk, of_own, [])


def windows_over_chunks_a_token_too_wide():
    from tgsbench.training.attention import time_ring

    seen_of = time_ring.seen_of
    time_ring.seen_of = lambda *args: seen_of(*args[:3], args[3] + (args[3] > 0))


def weights_learn_from_the_first_chunk_alone():
    """Gradients of weights are those of the chunk that comes last in the backward."""
    from tgsbench.training.model import chunked_layer

    take = chunked_layer._Backward.take

    def broken(self, chunk):
        self.total.zero_()
        take(self, chunk)

    chunked_layer._Backward.take = broken


# Faults of experts that are shared out over ranks


def experts_of_a_rank_shifted_by_one():
    """Rows that come for an expert go through the one beside it."""
    from tgsbench.training.parallel.expert_exchange import ExpertExchange

    of = ExpertExchange.of.__func__

    def shifted(cls, chosen, num_local, *rest):
        exchange = of(cls, chosen, num_local, *rest)
        return exchange._replace(experts=(exchange.experts + 1) % num_local)

    ExpertExchange.of = classmethod(shifted)


def dispatch_drops_tokens():
    """The last eight tokens of each rank go to no expert, as where experts have a capacity."""
    import torch

    from tgsbench.training.model import experts

    whole = experts._on_their_ranks

    def dropping(module, hidden, chosen, shares, group):
        kept = whole(module, hidden[:-8], chosen[:-8], shares[:-8], group)
        return torch.cat([kept, torch.zeros_like(hidden[-8:])])

    experts._on_their_ranks = dropping


def results_come_back_in_another_order():
    """What two tokens got from their experts is exchanged."""
    from tgsbench.training.model import experts

    whole = experts._on_their_ranks
    experts._on_their_ranks = lambda module, hidden, *rest: whole(module, hidden, *rest).roll(1, 0)


def gradients_of_experts_summed_over_their_shards_alone():
    """They are averaged over the ranks that hold the same experts, and not over all."""
    from tgsbench.training.engines import fsdp2

    shard = fsdp2._shard_experts

    def broken(decoder, world, mesh, *rest):
        shard(decoder, mesh.shard.size(), mesh, *rest)

    fsdp2._shard_experts = broken


def _units(broken):
    """`broken(shard, module, options)` in place of what makes a unit of FSDP."""
    from tgsbench.training.engines import fsdp2

    shard = fsdp2.fully_shard
    fsdp2.fully_shard = lambda module, **options: broken(shard, module, options)


def parameters_stay_gathered():
    """ZeRO-3 that holds whole parameters from the forward to the backward: right, and no ZeRO-3."""
    _units(lambda shard, module, options: shard(module, **options | {"reshard_after_forward": False}))


def a_layer_left_to_the_root():
    left = []

    def broken(shard, module, options):
        if left:
            return shard(module, **options)
        left.append(module)
        return module

    _units(broken)


def gradients_scattered_twice():
    from torch.distributed.fsdp._fully_shard import _fsdp_collectives

    scatter = _fsdp_collectives.DefaultReduceScatter.__call__

    def broken(self, *args, **options):
        if (work := scatter(self, *args, **options)) is not None:
            work.wait()
        return scatter(self, *args, **options)

    _fsdp_collectives.DefaultReduceScatter.__call__ = broken


def copies_not_summed():
    from torch.distributed.fsdp._fully_shard import _fsdp_collectives

    without = vars(_fsdp_collectives.dist) | {"all_reduce": lambda *args, **options: None}
    _fsdp_collectives.dist = types.SimpleNamespace(**without)
