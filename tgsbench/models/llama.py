"""Llama and what is built like it: grouped-query attention, a gated MLP, two RMSNorms a layer."""

from __future__ import annotations

from typing import Any

from tgsbench.models.family import Dims, Parameters, Weight, attention_weights, mlp_weights
from tgsbench.schema.preset import Checkpointing, ModelShape


class Llama:
    """See `family.ModelFamily`."""

    name = "llama"
    torch_module = "tgsbench.training.model.llama"

    def attention(self, shape: ModelShape) -> tuple[Weight, ...]:
        """A layer's q, k, v and o."""
        heads = shape.num_query_heads, shape.num_kv_heads, shape.head_dim
        return attention_weights(shape.hidden_size, *heads)

    def mlp(self, shape: ModelShape) -> tuple[Weight, ...]:
        """A layer's gate, up and down."""
        return mlp_weights(shape.hidden_size, shape.intermediate_size)

    def parameters(self, shape: ModelShape) -> Parameters:
        """q, k, v, o, gate, up, down and two norms a layer; the embedding, the head, the last norm."""
        weights = self.attention(shape) + self.mlp(shape)
        layer = sum(weight.size for weight in weights) + 2 * shape.hidden_size
        embedding = shape.vocab_size * shape.hidden_size
        head = 0 if shape.tie_word_embeddings else embedding
        total = shape.num_layers * layer + embedding + head + shape.hidden_size
        idle = sum(weight.size - weight.active for weight in weights)
        return Parameters(
            layer=layer,
            embedding=embedding,
            head=head,
            total=total,
            active=total - shape.num_layers * idle,
        )

    def dims(self, shape: ModelShape) -> Dims:
        """Widths for the planner."""
        return Dims(
            num_layers=shape.num_layers,
            hidden=shape.hidden_size,
            vocab=shape.vocab_size,
            tied=shape.tie_word_embeddings,
            num_parameters=self.parameters(shape).total,
            query_heads=shape.num_query_heads,
            kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            intermediate=shape.intermediate_size,
            norm_width=2 * shape.hidden_size,
            attention=self.attention(shape),
            mlp=self.mlp(shape),
        )

    def forward_flops(self, shape: ModelShape, attended_len: float) -> float:
        """L·(4had + 4h·kv·d + 6hi + 2Sad) + 2hV."""
        layer = self._products(shape) + _attention(shape, attended_len)
        return shape.num_layers * layer + 2.0 * shape.hidden_size * shape.vocab_size

    def recompute_flops(self, shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
        """A layer's products but the last, and its attention under full checkpointing.

        torch's checkpoint without re-entrance stops once the last tensor that the backward needs is back:
        that is the input of the layer's last product, which is never run again.
        """
        again = 0.0
        if checkpointing != "none":
            again = self._products(shape) - 2.0 * self.mlp(shape)[-1].active
        if checkpointing == "full":
            again += _attention(shape, attended_len)
        return shape.num_layers * again

    def xtuner_flops(self, shape: ModelShape, attended_len: float, checkpointing: Checkpointing) -> float:
        """(3 + k)·L·(8h² + 2Sh + 6hi) + 6hV; it takes every KV head for a query head."""
        h, passes = shape.hidden_size, 3 if checkpointing == "none" else 4
        layer = 8.0 * h * h + 2.0 * attended_len * h + 6.0 * h * shape.intermediate_size
        return passes * shape.num_layers * layer + 6.0 * h * shape.vocab_size

    def local_kv_heads(self, shape: ModelShape, sp: int) -> int:
        """kv/sp, or one replica when there are fewer than sp."""
        return max(1, shape.num_kv_heads // sp)

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """LlamaForCausalLM's config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_query_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
            "vocab_size": shape.vocab_size,
            "max_position_embeddings": max(shape.max_position_embeddings, seq_len),
            "rms_norm_eps": shape.rms_norm_eps,
            "rope_theta": shape.rope_theta,
            "tie_word_embeddings": shape.tie_word_embeddings,
            "attention_bias": False,
            "initializer_range": 0.02,
            "use_cache": False,
        }

    def _products(self, shape: ModelShape) -> float:
        """Forward FLOPs per token of one layer's matrix products."""
        return 2.0 * sum(weight.active for weight in self.attention(shape) + self.mlp(shape))


def _attention(shape: ModelShape, attended_len: float) -> float:
    """Forward FLOPs per token of one layer's causal attention: QKᵀ and PV over half the square."""
    return 2.0 * attended_len * shape.num_query_heads * shape.head_dim


FAMILY = Llama()
