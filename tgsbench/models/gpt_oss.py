"""gpt-oss: windows on alternate layers, a sink on every head, experts with biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tgsbench.models.experts import MixtureDecoder, experts_of, read_experts

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.models.family import LayerGroup
    from tgsbench.schema.model import LayerKind, ModelShape


class GptOss(MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "gpt_oss"
    torch_module = "tgsbench.training.model.gpt_oss"
    model_types = ("gpt_oss",)
    architecture = "GptOssForCausalLM"
    default_pattern = ("window", "full")
    gate_kept = 3  # the gate clamped, its sigmoid, and up + 1

    def vectors(self, shape: ModelShape) -> int:
        """Norms, biases of q, k, v and o, a sink for each query head; biases of router and experts."""
        return super().vectors(shape) + shape.num_query_heads + self.expert_vectors(shape)

    def expert_vectors(self, shape: ModelShape) -> int:
        """One value for each expert of the router, and what each expert adds to its two products."""
        experts = experts_of(shape)
        return experts.num * (1 + 2 * experts.intermediate_size + shape.hidden_size)

    def layer(self, shape: ModelShape, kind: LayerKind) -> LayerGroup:
        """Biases of experts that a token is not sent to are idle with them."""
        experts = experts_of(shape)
        idle = (experts.num - experts.used) * (2 * experts.intermediate_size + shape.hidden_size)
        return replace(super().layer(shape, kind), idle_vectors=idle, sinks=True)

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """GptOssForCausalLM's config.json."""
        experts = experts_of(shape)
        own = {
            "attention_bias": shape.attention_bias,
            "num_local_experts": experts.num,
            "num_experts_per_tok": experts.used,
            "intermediate_size": experts.intermediate_size,
            "sliding_window": shape.window,
            "layer_types": self.layer_types(shape),
            "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        }
        return super().config(shape, seq_len) | own

    def read_config(self, config: ConfigReader) -> None:
        """The gate's clamp and slope cost nothing, and are the family's own."""
        super().read_config(config)
        config.rope(150_000.0)
        config.real("rms_norm_eps", "rms_norm_eps", 1e-5)
        config.flag("attention_bias", "attention_bias", True)
        read_experts(config, "num_local_experts", "intermediate_size")
        config.value("experts_per_token")
        config.expect("swiglu_limit", 7.0)
        config.expect("swiglu_alpha", 1.702)
        config.count("window", "sliding_window", 128)
        config.window()


FAMILY = GptOss()
