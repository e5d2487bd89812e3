"""Mixtral: Mistral with experts in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.experts import MixtureDecoder, experts_of, read_experts

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Mixtral(MixtureDecoder):
    """See `family.ModelFamily`."""

    name = "mixtral"
    torch_module = "tgsbench.training.model.mixtral"
    model_types = ("mixtral",)
    architecture = "MixtralForCausalLM"
    has_one_window = True

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """MixtralForCausalLM's config.json, which has one width for all MLPs."""
        experts = experts_of(shape)
        own = {
            "num_local_experts": experts.num,
            "num_experts_per_tok": experts.used,
            "intermediate_size": experts.intermediate_size,
            "sliding_window": shape.window or None,
        }
        return super().config(shape, seq_len) | own

    def read_config(self, config: ConfigReader) -> None:
        """A window of every layer, where there is one."""
        super().read_config(config)
        read_experts(config, "num_local_experts", "intermediate_size")
        if config.value("sliding_window") is not None:
            config.count("window", "sliding_window")
            config.put("layer_pattern", ("window",), "sliding_window")


FAMILY = Mixtral()
