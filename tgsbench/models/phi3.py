"""Phi-3 and Phi-4: Llama whose q, k, v and whose gate, up are one product each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder
from tgsbench.models.family import Weight

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Phi3(Decoder):
    """See `family.ModelFamily`."""

    name = "phi3"
    torch_module = "tgsbench.training.model.phi3"
    model_types = ("phi3",)
    architecture = "Phi3ForCausalLM"
    has_one_window = True

    def attention(self, shape: ModelShape) -> tuple[Weight, ...]:
        """q, k and v in one, and o."""
        heads = shape.num_query_heads * shape.head_dim
        joined = heads + 2 * shape.num_kv_heads * shape.head_dim
        return Weight(joined, shape.hidden_size), Weight(shape.hidden_size, heads)

    def mlp(self, shape: ModelShape) -> tuple[Weight, ...]:
        """gate and up in one, and down."""
        h, i = shape.hidden_size, shape.intermediate_size
        return Weight(2 * i, h), Weight(h, i)

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Phi3ForCausalLM's config.json; padding must be inside the vocabulary."""
        positions = max(shape.max_position_embeddings, seq_len)
        own = {
            "sliding_window": shape.window or None,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
            "original_max_position_embeddings": positions,
        }
        return super().config(shape, seq_len) | own

    def read_config(self, config: ConfigReader) -> None:
        """A window of every layer, where there is one."""
        super().read_config(config)
        config.expect("attention_bias", False)
        if config.value("sliding_window") is not None:
            config.count("window", "sliding_window")
            config.put("layer_pattern", ("window",), "sliding_window")


FAMILY = Phi3()
