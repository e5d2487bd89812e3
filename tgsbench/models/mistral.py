"""Mistral: Llama whose layers may all see a window only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Mistral(Decoder):
    """See `family.ModelFamily`."""

    name = "mistral"
    torch_module = "tgsbench.training.model.mistral"
    model_types = ("mistral",)
    architecture = "MistralForCausalLM"
    has_one_window = True

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """MistralForCausalLM's config.json."""
        return super().config(shape, seq_len) | {"sliding_window": shape.window or None}

    def read_config(self, config: ConfigReader) -> None:
        """Without a word about sliding_window transformers takes 4,096; null is none."""
        super().read_config(config)
        if not config.has("sliding_window") or config.value("sliding_window") is not None:
            config.count("window", "sliding_window", 4096)
            config.put("layer_pattern", ("window",), "sliding_window")


FAMILY = Mistral()
