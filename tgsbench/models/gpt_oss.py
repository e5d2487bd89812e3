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

    def vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """Norms, biases of q, k, v and o, a sink for each query head."""
        return *super().vectors(shape), shape.num_query_heads

    def router_vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """One for each expert."""
        return (experts_of(shape).num,)

    def layer(self, shape: ModelShape, kind: LayerKind) -> LayerGroup:
        """Each expert adds something to its two products, and holds their weights the other way round."""
        biases = 2 * experts_of(shape).intermediate_size, shape.hidden_size
        whole = super().layer(shape, kind)
        return replace(whole, expert_vectors=biases, experts_are_transposed=True, sinks=True)

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
