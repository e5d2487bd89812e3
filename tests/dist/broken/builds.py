"""Faults of a build, one function each: what is trained goes wrong on the mesh and on one rank alike, unless said.

A rank of a run whose folder is called `fault-NAME` calls NAME before anything of it is built.
"""

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

    scatter = attention.scatter_heads

    def broken(q, k, v, group):
        q, k, v = scatter(q, k, v, group)
        return (q, k, v) if group is None else (q, k.flip(2), v.flip(2))

    attention.scatter_heads = broken


def a_layer_skipped():
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    forward = LlamaDecoderLayer.forward

    def broken(self, hidden_states, *args, **kwargs):
        out = forward(self, hidden_states, *args, **kwargs)
        return hidden_states + 0 * out if self.self_attn.layer_idx == 1 else out

    LlamaDecoderLayer.forward = broken


def mlps_skipped():
    from tgsbench.training.model.fused_layers import FusedMLP

    forward = FusedMLP.forward
    FusedMLP.forward = lambda self, x: 0 * forward(self, x)


def gelu_in_place_of_silu():
    from tgsbench.training.model.fused_layers import FusedMLP

    FusedMLP.forward = lambda self, x: self.down_proj(functional.gelu(self.gate_proj(x)) * self.up_proj(x))


def no_rope():
    from tgsbench.training.model import fused_layers

    fused_layers.fused_rope = lambda q, k, cos, sin, *_, **__: (q, k)


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
    from tgsbench.training.model.fused_layers import FusedNorm

    forward = FusedNorm.forward

    def broken(self, x):
        self.variance_epsilon = 1e-2
        return forward(self, x)

    FusedNorm.forward = broken


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def norm_gradient_wrong():
    from tgsbench.training.model.fused_layers import FusedNorm

    forward = FusedNorm.forward
    FusedNorm.forward = lambda self, x: forward(self, _Scaled.apply(x, 1.001))


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
    from tgsbench.training.model.fused_layers import FusedNorm

    forward = FusedNorm.forward

    def broken(self, x):
        again = torch._C._current_graph_task_id() != -1
        return forward(self, x) * (1.01 if again else 1.0)

    FusedNorm.forward = broken


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
    from torch import nn

    clip = nn.utils.clip_grad_norm_

    def broken(parameters, norm, **kwargs):
        parameters = list(parameters)
        total = clip(parameters, 1e9, **kwargs)
        for parameter in parameters:
            clip([parameter], norm, **kwargs)
        return total

    nn.utils.clip_grad_norm_ = broken


def no_clipping():
    from torch import nn

    clip = nn.utils.clip_grad_norm_
    nn.utils.clip_grad_norm_ = lambda parameters, norm, **kwargs: clip(parameters, 1e9, **kwargs)


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
