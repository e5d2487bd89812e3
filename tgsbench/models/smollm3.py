"""SmolLM3: Llama of which every fourth layer has no positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tgsbench.models.decoder import Decoder
from tgsbench.models.qwen_window import read_window, window_options

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class SmolLm3(Decoder):
    """See `family.ModelFamily`."""

    name = "smollm3"
    torch_module = "tgsbench.training.model.smollm3"
    model_types = ("smollm3",)
    architecture = "SmolLM3ForCausalLM"
    has_windows = True

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """SmolLM3ForCausalLM's config.json, which knows no other interval; no token is for padding."""
        own = {"attention_bias": shape.attention_bias, "no_rope_layer_interval": 4, "pad_token_id": None}
        return super().config(shape, seq_len) | own | window_options(shape, self.pattern(shape))

    def shrink(self, shape: ModelShape, small: ModelShape) -> ModelShape:
        """As many layers as it takes to have one without positions."""
        return replace(super().shrink(shape, small), num_layers=4)

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
