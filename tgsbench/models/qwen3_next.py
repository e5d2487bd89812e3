"""Qwen3-Next: three gated linear-attention layers to a full one with a gated output, experts in all.

Counted and planned, not trained: the linear layers would need a sequence-parallel scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tgsbench.models.experts import MixtureDecoder, experts_of, read_experts
from tgsbench.models.family import LayerGroup, Weight
from tgsbench.schema.model import LinearAttention

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import LayerKind, ModelShape

CHUNK = 64
"""Tokens that the delta rule takes at once, in transformers and in flash-linear-attention."""


class Qwen3Next(MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "qwen3_next"
    torch_module = "tgsbench.training.model.qwen3_next"
    model_types = ("qwen3_next",)
    untrained = "its linear-attention layers need a sequence-parallel scan, which no engine has yet"
    architecture = "Qwen3NextForCausalLM"
    default_pattern = ("linear", "linear", "linear", "full")
    tables = ("experts", "linear")
    qk_norm = True

    def attention(self, shape: ModelShape) -> tuple[Weight, ...]:
        """q with its gate, k, v, o."""
        queries, *rest = super().attention(shape)
        return queries._replace(out_width=2 * queries.out_width), *rest

    def mlp(self, shape: ModelShape) -> tuple[Weight, ...]:
        """The shared expert has a gate of one value."""
        return *super().mlp(shape), Weight(1, shape.hidden_size)

    def layer(self, shape: ModelShape, kind: LayerKind) -> LayerGroup:
        """A layer of kind `linear` leaves a state behind, which does not grow with the tokens."""
        group = super().layer(shape, kind)
        if kind != "linear":
            return group
        linear, h = linear_of(shape), shape.hidden_size
        keys, values = linear.num_key_heads * linear.key_dim, linear.num_value_heads * linear.value_dim
        convolved = 2 * keys + values
        heads = linear.num_value_heads
        return replace(
            group,
            attention=(Weight(convolved + values, h), Weight(2 * heads, h), Weight(h, values)),
            vectors=2 * h + convolved * linear.conv_width + 2 * heads + linear.value_dim,
            query_heads=0,
            kv_heads=0,
            cached=0,
            scan_flops=scan_flops(linear) + 2.0 * convolved * linear.conv_width,
        )

    def shrink(self, shape: ModelShape, small: ModelShape) -> ModelShape:
        """A few narrow heads."""
        linear = LinearAttention(num_key_heads=2, num_value_heads=4, key_dim=16, value_dim=16)
        return super().shrink(shape, replace(small, linear=linear))

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Qwen3NextForCausalLM's config.json."""
        experts, linear = experts_of(shape), linear_of(shape)
        names = {"full": "full_attention", "linear": "linear_attention"}
        return super().config(shape, seq_len) | {
            "layer_types": [names[kind] for kind in self.pattern(shape)],
            "num_experts": experts.num,
            "num_experts_per_tok": experts.used,
            "moe_intermediate_size": experts.intermediate_size,
            "shared_expert_intermediate_size": experts.shared_intermediate_size,
            "norm_topk_prob": experts.normalised,
            "linear_num_key_heads": linear.num_key_heads,
            "linear_num_value_heads": linear.num_value_heads,
            "linear_key_head_dim": linear.key_dim,
            "linear_value_head_dim": linear.value_dim,
            "linear_conv_kernel_dim": linear.conv_width,
        }

    def read_config(self, config: ConfigReader) -> None:
        """Layer types, or every fourth layer full."""
        super().read_config(config)
        config.count("head_dim", "head_dim", 256)
        config.expect("attention_bias", False)
        read_experts(config, "num_experts", "moe_intermediate_size")
        config.count("experts.shared_intermediate_size", "shared_expert_intermediate_size")
        config.flag("experts.normalised", "norm_topk_prob", True)
        config.expect("decoder_sparse_step", 1)
        config.expect("mlp_only_layers", [])
        config.count("linear.num_key_heads", "linear_num_key_heads")
        config.count("linear.num_value_heads", "linear_num_value_heads")
        config.count("linear.key_dim", "linear_key_head_dim")
        config.count("linear.value_dim", "linear_value_head_dim")
        config.count("linear.conv_width", "linear_conv_kernel_dim", 4)
        config.window(on=False)
        every = config.layers("full_attention_interval", 4)
        if config.value("layer_types") is None:
            config.put("layer_pattern", ("linear",) * (every - 1) + ("full",), "full_attention_interval")


def linear_of(shape: ModelShape) -> LinearAttention:
    """The linear attention, which `problems` has made sure of."""
    assert shape.linear is not None, shape.name
    return shape.linear


def scan_flops(linear: LinearAttention) -> float:
    """FLOPs per token of the chunked gated delta rule (arXiv 2406.06484, section 3), forward.

    Of a chunk of C tokens and one value head of k by v: KKᵀ and QKᵀ, 4C²k; two triangular solves, C²(k + v);
    reads and writes of the state, 6Ckv; the attention inside the chunk, 2C²v.
    """
    k, v = linear.key_dim, linear.value_dim
    return linear.num_value_heads * (CHUNK * (5.0 * k + 3.0 * v) + 6.0 * k * v)


FAMILY = Qwen3Next()
