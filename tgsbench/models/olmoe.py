"""OLMoE: experts in every layer, one norm over all heads of a query and of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.experts import MixtureDecoder, experts_of, read_experts
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Olmoe(MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "olmoe"
    model_types = ("olmoe",)
    untrained = NO_ORACLE
    architecture = "OlmoeForCausalLM"
    qk_norm = True
    norms_all_heads = True

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """OlmoeForCausalLM's config.json, which has one width for all MLPs."""
        experts = experts_of(shape)
        return super().config(shape, seq_len) | {
            "attention_bias": shape.attention_bias,
            "num_experts": experts.num,
            "num_experts_per_tok": experts.used,
            "intermediate_size": experts.intermediate_size,
            "norm_topk_prob": experts.normalised,
        }

    def read_config(self, config: ConfigReader) -> None:
        """Queries, keys and values that are clipped are refused: no public model does it."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        read_experts(config, "num_experts", "intermediate_size")
        config.flag("experts.normalised", "norm_topk_prob", False)


FAMILY = Olmoe()
