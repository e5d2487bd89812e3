"""OLMo 3: OLMo 2 with three windowed layers to a full one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.olmo2 import Olmo2

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Olmo3(Olmo2):
    """See `family.ModelFamily`."""

    name = "olmo3"
    torch_module = "tgsbench.training.model.olmo3"
    model_types = ("olmo3",)
    architecture = "Olmo3ForCausalLM"
    default_pattern = ("window", "window", "window", "full")

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Olmo3ForCausalLM's config.json."""
        windows = {"sliding_window": shape.window or None, "layer_types": self.layer_types(shape)}
        return super().config(shape, seq_len) | windows

    def read_config(self, config: ConfigReader) -> None:
        """Every fourth layer is full, unless the file names them."""
        super().read_config(config)
        config.count("window", "sliding_window", 4096)
        config.window()


FAMILY = Olmo3()
