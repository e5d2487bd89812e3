"""Qwen3, dense: Llama with a norm on every head's query and key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder
from tgsbench.models.qwen_window import read_window, window_options

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Qwen3(Decoder):
    """See `family.ModelFamily`."""

    name = "qwen3"
    torch_module = "tgsbench.training.model.qwen3"
    model_types = ("qwen3", "qwen3_vl_text")
    architecture = "Qwen3ForCausalLM"
    has_windows = True
    qk_norm = True

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Qwen3ForCausalLM's config.json."""
        own = {"attention_bias": shape.attention_bias} | window_options(shape, self.pattern(shape))
        return super().config(shape, seq_len) | own

    def read_config(self, config: ConfigReader) -> None:
        """A head is 128 wide unless the file says otherwise; a window, where it is turned on."""
        super().read_config(config)
        config.count("head_dim", "head_dim", 128)
        config.flag("attention_bias", "attention_bias", False)
        read_window(config)


FAMILY = Qwen3()
