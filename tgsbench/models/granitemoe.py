"""Granite 3 with experts in every layer; its factors on values cost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.experts import MixtureDecoder, experts_of, read_experts
from tgsbench.models.family import NO_ORACLE
from tgsbench.models.granite import read_factors

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class GraniteMoe(MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "granitemoe"
    model_types = ("granitemoe",)
    untrained = NO_ORACLE
    architecture = "GraniteMoeForCausalLM"

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """GraniteMoeForCausalLM's config.json, which has one width for all MLPs."""
        experts = experts_of(shape)
        return super().config(shape, seq_len) | {
            "attention_bias": shape.attention_bias,
            "num_local_experts": experts.num,
            "num_experts_per_tok": experts.used,
            "intermediate_size": experts.intermediate_size,
        }

    def read_config(self, config: ConfigReader) -> None:
        """A shared MLP is another model_type's, and refused."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        read_experts(config, "num_local_experts", "intermediate_size")
        read_factors(config)


FAMILY = GraniteMoe()
