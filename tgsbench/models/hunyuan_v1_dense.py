"""Hunyuan, dense: Llama with a norm on every head's query and key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.models.decoder import Decoder
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader


class HunyuanDense(Decoder):
    """See `family.ModelFamily`."""

    name = "hunyuan_v1_dense"
    model_types = ("hunyuan_v1_dense",)
    untrained = NO_ORACLE
    architecture = "HunYuanDenseV1ForCausalLM"
    qk_norm = True

    def read_config(self, config: ConfigReader) -> None:
        """KV heads shared between layers (use_cla) are refused."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        config.expect("use_qk_norm", True)
        config.expect("use_cla", False)
        config.expect("mlp_bias", False)


FAMILY = HunyuanDense()
