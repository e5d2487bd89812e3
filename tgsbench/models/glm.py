"""GLM-4 of 2024: grouped-query attention with biases on q, k and v; gate and up are one product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder, whole_rope
from tgsbench.models.family import Weight

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Glm(Decoder):
    """See `family.ModelFamily`."""

    name = "glm"
    torch_module = "tgsbench.training.model.glm"
    model_types: tuple[str, ...] = ("glm",)
    architecture = "GlmForCausalLM"

    def mlp(self, shape: ModelShape) -> tuple[Weight, ...]:
        """gate and up in one, and down."""
        h, i = shape.hidden_size, shape.intermediate_size
        return Weight(2 * i, h), Weight(h, i)

    def biases(self, shape: ModelShape) -> tuple[int, ...]:
        """Of q, k and v, where the shape has them."""
        return self.qkv_biases(shape) * shape.attention_bias

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """GlmForCausalLM's config.json; all of a head is turned, padding must be inside the vocabulary."""
        return super().config(shape, seq_len) | {
            "attention_bias": shape.attention_bias,
            "rope_parameters": whole_rope(shape),
            "pad_token_id": None,
        }

    def read_config(self, config: ConfigReader) -> None:
        """Biases unless the file says otherwise."""
        super().read_config(config)
        config.count("head_dim", "head_dim", 128)
        config.flag("attention_bias", "attention_bias", True)


FAMILY = Glm()
