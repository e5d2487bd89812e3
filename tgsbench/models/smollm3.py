"""SmolLM3: Llama of which every fourth layer has no positions, which costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.models.decoder import Decoder
from tgsbench.models.family import NO_ORACLE
from tgsbench.models.qwen_window import read_window

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader


class SmolLm3(Decoder):
    """See `family.ModelFamily`."""

    name = "smollm3"
    model_types = ("smollm3",)
    untrained = NO_ORACLE
    architecture = "SmolLM3ForCausalLM"

    def read_config(self, config: ConfigReader) -> None:
        """Which layers turn their heads changes no product; tied unless the file says otherwise."""
        super().read_config(config)
        config.flag("tie_word_embeddings", "tie_word_embeddings", True)
        config.flag("attention_bias", "attention_bias", False)
        config.expect("mlp_bias", False)
        read_window(config)
        for costless in ("no_rope_layers", "no_rope_layer_interval"):
            config.value(costless)


FAMILY = SmolLm3()
