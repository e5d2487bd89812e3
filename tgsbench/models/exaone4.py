"""EXAONE 4: norms behind attention and MLP and on every head's query and key, windows in most layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Exaone4(Decoder):
    """See `family.ModelFamily`. Positions in windowed layers only: RoPE costs no product."""

    name = "exaone4"
    torch_module = "tgsbench.training.model.exaone4"
    model_types = ("exaone4",)
    architecture = "Exaone4ForCausalLM"
    has_windows = True
    qk_norm = True
    runs_last_again = True
    """The norm behind the MLP keeps the result of its last product."""

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Exaone4ForCausalLM's config.json; a token for padding would not be trained."""
        return super().config(shape, seq_len) | {
            "pad_token_id": None,
            "sliding_window": shape.window or None,
            "layer_types": self.layer_types(shape),
        }

    def read_config(self, config: ConfigReader) -> None:
        """Three layers with a window to a full one, unless the file names them or has no window."""
        super().read_config(config)
        config.expect("attention_bias", False)
        config.window()
        windowed = config.value("sliding_window") is not None
        if config.value("layer_types") is None and windowed:
            every = config.layers("sliding_window_pattern", 4)
            config.put("layer_pattern", ("window",) * (every - 1) + ("full",), "sliding_window_pattern")
        config.value("sliding_window_pattern")


FAMILY = Exaone4()
