"""OLMo 2 and 3: norms behind attention and MLP, one norm over all heads; OLMo 3 has windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.models.decoder import Decoder
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader


class Olmo2(Decoder):
    """See `family.ModelFamily`."""

    name = "olmo2"
    model_types = ("olmo2", "olmo3")
    untrained = NO_ORACLE
    architecture = "Olmo2ForCausalLM"
    qk_norm = True
    norms_all_heads = True
    runs_last_again = True
    """The norm behind the MLP keeps the result of its last product."""

    def read_config(self, config: ConfigReader) -> None:
        """OLMo 3: three layers with a window to a full one, unless the file names them."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        if config.value("model_type") == "olmo3":
            config.count("window", "sliding_window", 4096)
            config.put("layer_pattern", ("window",) * 3 + ("full",), "sliding_window")
            config.window()


FAMILY = Olmo2()
