"""Hunyuan, dense: Llama with a norm on every head's query and key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class HunyuanDense(Decoder):
    """See `family.ModelFamily`."""

    name = "hunyuan_v1_dense"
    torch_module = "tgsbench.training.model.hunyuan_v1_dense"
    model_types = ("hunyuan_v1_dense",)
    architecture = "HunYuanDenseV1ForCausalLM"
    qk_norm = True

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """HunYuanDenseV1ForCausalLM's config.json; a token for padding would not be trained."""
        own = {"attention_bias": shape.attention_bias, "pad_token_id": None}
        return super().config(shape, seq_len) | own

    def read_config(self, config: ConfigReader) -> None:
        """KV heads shared between layers (use_cla) are refused."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        config.expect("use_qk_norm", True)
        config.expect("use_cla", False)
        config.expect("mlp_bias", False)


FAMILY = HunyuanDense()
