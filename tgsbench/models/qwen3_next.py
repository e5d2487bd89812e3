"""Qwen3-Next and Qwen3.5: three gated linear-attention layers to a full one with a gated output.

Experts in all layers of the one, in those of Qwen3.5's mixtures too; its dense models have a plain MLP.

Counted and planned, not trained: no engine here builds the linear layers, and no decoder in fp64 has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tgsbench.models.decoder import Decoder
from tgsbench.models.experts import MixtureDecoder, experts_of, read_experts
from tgsbench.models.family import LayerGroup, Weight
from tgsbench.schema.model import LinearAttention

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import LayerKind, ModelShape

CHUNK = 64
"""Tokens that the delta rule takes at once, in transformers and in flash-linear-attention."""


class GatedDeltaDecoder(Decoder):
    """What hybrids with experts and without have in common."""

    untrained = "no engine here builds its linear-attention layers, nor has verify a decoder in fp64 for them"
    default_pattern = ("linear", "linear", "linear", "full")
    tables: tuple[str, ...] = ("linear",)
    qk_norm = True

    def attention(self, shape: ModelShape) -> tuple[Weight, ...]:
        """q with its gate, k, v, o."""
        queries, *rest = super().attention(shape)
        return queries._replace(out_width=2 * queries.out_width), *rest

    def layer(self, shape: ModelShape, kind: LayerKind) -> LayerGroup:
        """A layer of kind `linear` leaves a state behind, which does not grow with the tokens.

        Ranks that share a sequence trade it for heads of q, k, v, the gate, beta and alpha, before the
        convolution, and back behind the gated norm: so do Megatron-LM (pull request 2614) and PyTorch
        (197487). Systems that send states round instead (torchtitan, MaxText) move no such bytes.
        """
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
            vectors=(h, h, convolved * linear.conv_width, heads, heads, linear.value_dim),
            query_heads=0,
            kv_heads=0,
            cached=0,
            traded=(convolved + values + 2 * heads, values),
            scan_flops=scan_flops(linear) + 2.0 * convolved * linear.conv_width,
            scan_values=scan_values(linear) + 2.0 * convolved + 4.0 * keys + 3.0 * values,
        )

    def shrink(self, shape: ModelShape, small: ModelShape) -> ModelShape:
        """A few narrow heads."""
        linear = LinearAttention(num_key_heads=4, num_value_heads=8, key_dim=16, value_dim=16)
        return super().shrink(shape, replace(small, linear=linear))

    def problems(self, shape: ModelShape) -> list[str]:
        """Value heads that do not share out the key heads evenly."""
        found, linear = super().problems(shape), shape.linear
        if linear is not None and linear.num_value_heads % linear.num_key_heads:
            heads = f"model.linear.num_value_heads={linear.num_value_heads}"
            found.append(f"{heads}: must be a multiple of linear.num_key_heads={linear.num_key_heads}")
        return found

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """What their config.json have in common."""
        linear = linear_of(shape)
        return super().config(shape, seq_len) | {
            "layer_types": self.layer_types(shape),
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
        config.expect("attn_output_gate", True)
        config.value("mamba_ssm_dtype")
        config.value("mtp_use_dedicated_embeddings")
        config.ignore("mtp_num_hidden_layers", "MTP is not trained; --set model.mtp_layers=1 counts it")
        config.count("linear.num_key_heads", "linear_num_key_heads")
        config.count("linear.num_value_heads", "linear_num_value_heads")
        config.count("linear.key_dim", "linear_key_head_dim")
        config.count("linear.value_dim", "linear_value_head_dim")
        config.count("linear.conv_width", "linear_conv_kernel_dim", 4)
        config.window(on=False)
        every = config.layers("full_attention_interval", 4)
        if config.value("layer_types") is None:
            config.put("layer_pattern", ("linear",) * (every - 1) + ("full",), "full_attention_interval")


class Qwen3Next(GatedDeltaDecoder, MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "qwen3_next"
    torch_module = "tgsbench.training.model.qwen3_next"
    model_types = ("qwen3_next", "qwen3_5_moe_text")
    architecture = "Qwen3NextForCausalLM"
    tables = ("experts", "linear")

    def mlp(self, shape: ModelShape) -> tuple[Weight, ...]:
        """The shared expert has a gate of one value."""
        return *super().mlp(shape), Weight(1, shape.hidden_size)

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Qwen3NextForCausalLM's config.json."""
        experts = experts_of(shape)
        return super().config(shape, seq_len) | {
            "num_experts": experts.num,
            "num_experts_per_tok": experts.used,
            "moe_intermediate_size": experts.intermediate_size,
            "shared_expert_intermediate_size": experts.shared_intermediate_size,
            "norm_topk_prob": experts.normalised,
        }

    def read_config(self, config: ConfigReader) -> None:
        """Experts in some layers only are refused; Qwen3.5 names no width for an MLP that it has not."""
        config.use_defaults({"intermediate_size": config.value("moe_intermediate_size", 1)})
        super().read_config(config)
        read_experts(config, "num_experts", "moe_intermediate_size")
        config.count("experts.shared_intermediate_size", "shared_expert_intermediate_size")
        config.flag("experts.normalised", "norm_topk_prob", True)
        config.expect("decoder_sparse_step", 1)
        config.expect("mlp_only_layers", [])


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


def scan_values(linear: LinearAttention) -> float:
    """Values per token that the same rule's kernels read and write, forward; those in fp32 count twice.

    Of one value head, chunk by chunk as flash-linear-attention does it: KKᵀ, k + 2C; its inverse, 3C; what
    the state loses and gains, 2k + 2v + C; states of all chunks, 2k + 2v + kv/C; what is read from them and
    inside the chunk, 2k + 2v + kv/C. Its layer adds the convolution's (2 of q, k and v), the norms' of q and
    k (4 of the keys) and the gated norm's (3 of the values).
    """
    k, v = linear.key_dim, linear.value_dim
    return linear.num_value_heads * (7.0 * k + 6.0 * v + 6.0 * CHUNK + 2.0 * k * v / CHUNK)


FAMILY = Qwen3Next()
