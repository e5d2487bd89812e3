"""Seed-OSS: Llama with biases on q, k and v."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class SeedOss(Decoder):
    """See `family.ModelFamily`."""

    name = "seed_oss"
    torch_module = "tgsbench.training.model.seed_oss"
    model_types = ("seed_oss",)
    architecture = "SeedOssForCausalLM"

    def biases(self, shape: ModelShape) -> tuple[int, ...]:
        """Of q, k and v, where the shape has them."""
        return self.qkv_biases(shape) * shape.attention_bias

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """SeedOssForCausalLM's config.json; without dropout."""
        return super().config(shape, seq_len) | {
            "attention_bias": shape.attention_bias,
            "attention_out_bias": False,
            "residual_dropout": 0.0,
            "pad_token_id": None,
        }

    def read_config(self, config: ConfigReader) -> None:
        """A bias of the output or of the MLP is refused: no public model has one; dropout is off."""
        super().read_config(config)
        config.count("head_dim", "head_dim", 128)
        config.flag("attention_bias", "attention_bias", True)
        config.expect("attention_out_bias", False)
        config.expect("mlp_bias", False)
        config.ignore("residual_dropout", "dropout is off")


FAMILY = SeedOss()
