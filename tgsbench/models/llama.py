"""Llama and what is built like it: grouped-query attention, a gated MLP, two RMSNorms a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Llama(Decoder):
    """See `family.ModelFamily`."""

    name = "llama"
    torch_module = "tgsbench.training.model.llama"
    model_types: tuple[str, ...] = ("llama",)
    architecture = "LlamaForCausalLM"

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """LlamaForCausalLM's config.json."""
        return super().config(shape, seq_len) | {"attention_bias": shape.attention_bias}

    def read_config(self, config: ConfigReader) -> None:
        """A bias of the MLP is refused; pretraining_tp changes no cost."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        config.expect("mlp_bias", False)


FAMILY = Llama()
