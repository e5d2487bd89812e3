"""Qwen2 and Qwen1.5 with experts in every layer, and beside them a shared MLP with a gate of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.experts import MixtureDecoder, experts_of, read_experts
from tgsbench.models.family import NO_ORACLE, Weight

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Qwen2Moe(MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "qwen2_moe"
    model_types = ("qwen2_moe",)
    untrained = NO_ORACLE
    architecture = "Qwen2MoeForCausalLM"

    def mlp(self, shape: ModelShape) -> tuple[Weight, ...]:
        """The shared MLP has a gate of one value."""
        return *super().mlp(shape), Weight(1, shape.hidden_size)

    def biases(self, shape: ModelShape) -> tuple[int, ...]:
        """Of q, k and v, where the shape has them."""
        return self.qkv_biases(shape) * shape.attention_bias

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Qwen2MoeForCausalLM's config.json."""
        experts = experts_of(shape)
        return super().config(shape, seq_len) | {
            "qkv_bias": shape.attention_bias,
            "num_experts": experts.num,
            "num_experts_per_tok": experts.used,
            "moe_intermediate_size": experts.intermediate_size,
            "shared_expert_intermediate_size": experts.shared_intermediate_size,
            "norm_topk_prob": experts.normalised,
            "use_sliding_window": False,
        }

    def read_config(self, config: ConfigReader) -> None:
        """Experts in some layers only, and windows, are refused: no public model has them."""
        super().read_config(config)
        config.flag("attention_bias", "qkv_bias", True)
        read_experts(config, "num_experts", "moe_intermediate_size")
        config.count("experts.shared_intermediate_size", "shared_expert_intermediate_size")
        config.flag("experts.normalised", "norm_topk_prob", False)
        config.expect("decoder_sparse_step", 1)
        config.expect("mlp_only_layers", [])
        config.expect("use_sliding_window", False)
        for unused in ("sliding_window", "max_window_layers"):
            config.value(unused)


FAMILY = Qwen2Moe()
