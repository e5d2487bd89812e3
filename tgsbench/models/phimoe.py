"""Phi-3.5-MoE: experts in every layer, LayerNorms, biases around attention and of the head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.experts import MixtureDecoder, experts_of, read_experts
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Phimoe(MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "phimoe"
    model_types = ("phimoe",)
    untrained = NO_ORACLE
    architecture = "PhimoeForCausalLM"
    norms_are_biased = True
    has_one_window = True

    def last_vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """Those of the last norm, and the bias of the head."""
        return *super().last_vectors(shape), shape.vocab_size

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """PhimoeForCausalLM's config.json, which has one width for all MLPs."""
        experts = experts_of(shape)
        return super().config(shape, seq_len) | {
            "attention_bias": shape.attention_bias,
            "lm_head_bias": True,
            "num_local_experts": experts.num,
            "num_experts_per_tok": experts.used,
            "intermediate_size": experts.intermediate_size,
            "sliding_window": shape.window or None,
        }

    def read_config(self, config: ConfigReader) -> None:
        """A head without a bias is refused: no public model has one. Noise on the input costs nothing."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        if config.value("lm_head_bias") is not True:
            raise config.refused("lm_head_bias", "only True is counted here")
        read_experts(config, "num_local_experts", "intermediate_size")
        config.value("input_jitter_noise")
        if config.value("sliding_window") is not None:
            config.count("window", "sliding_window")
            config.put("layer_pattern", ("window",), "sliding_window")


FAMILY = Phimoe()
