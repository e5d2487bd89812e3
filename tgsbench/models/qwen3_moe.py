"""Qwen3 with experts in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.experts import MixtureDecoder, experts_of, read_experts

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Qwen3Moe(MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "qwen3_moe"
    torch_module = "tgsbench.training.model.qwen3_moe"
    model_types = ("qwen3_moe", "qwen3_vl_moe_text")
    architecture = "Qwen3MoeForCausalLM"
    qk_norm = True

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Qwen3MoeForCausalLM's config.json."""
        experts = experts_of(shape)
        own = {
            "attention_bias": shape.attention_bias,
            "num_experts": experts.num,
            "num_experts_per_tok": experts.used,
            "moe_intermediate_size": experts.intermediate_size,
            "norm_topk_prob": experts.normalised,
            "use_sliding_window": False,
        }
        return super().config(shape, seq_len) | own

    def read_config(self, config: ConfigReader) -> None:
        """Experts in some layers only, and windows, are refused: no public model has them."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        read_experts(config, "num_experts", "moe_intermediate_size")
        config.flag("experts.normalised", "norm_topk_prob", False)
        config.expect("decoder_sparse_step", 1)
        config.expect("mlp_only_layers", [])
        config.expect("use_sliding_window", False)
        config.expect("use_qk_norm", True)
        for unused in ("sliding_window", "max_window_layers"):
            config.value(unused)


FAMILY = Qwen3Moe()
