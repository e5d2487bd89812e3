"""Qwen2 and Qwen2.5: Llama with biases on q, k and v."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder
from tgsbench.models.qwen_window import read_window, window_options

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Qwen2(Decoder):
    """See `family.ModelFamily`."""

    name = "qwen2"
    torch_module = "tgsbench.training.model.qwen2"
    model_types = ("qwen2", "qwen2_5_vl", "qwen2_5_vl_text")
    architecture = "Qwen2ForCausalLM"
    has_windows = True

    def biases(self, shape: ModelShape) -> tuple[int, ...]:
        """Those of q, k and v, always."""
        return self.qkv_biases(shape)

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Qwen2ForCausalLM's config.json."""
        return super().config(shape, seq_len) | window_options(shape, self.pattern(shape))

    def read_config(self, config: ConfigReader) -> None:
        """A window, where use_sliding_window turns it on."""
        super().read_config(config)
        read_window(config)


FAMILY = Qwen2()
