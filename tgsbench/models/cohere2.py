"""Command R7B and A: attention and MLP side by side behind one norm, three windowed layers to a full one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Cohere2(Decoder):
    """See `family.ModelFamily`. Its LayerNorms have no bias; positions are in windowed layers only."""

    name = "cohere2"
    model_types = ("cohere2",)
    untrained = NO_ORACLE
    architecture = "Cohere2ForCausalLM"
    default_pattern = ("window", "window", "window", "full")
    norms_per_layer = 1

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Cohere2ForCausalLM's config.json."""
        return super().config(shape, seq_len) | {
            "attention_bias": shape.attention_bias,
            "layer_norm_eps": shape.rms_norm_eps,
            "sliding_window": shape.window or None,
            "layer_types": self.layer_types(shape),
        }

    def read_config(self, config: ConfigReader) -> None:
        """Every fourth layer is full, unless the file names them."""
        super().read_config(config)
        config.real("rms_norm_eps", "layer_norm_eps", 1e-5)
        config.flag("tie_word_embeddings", "tie_word_embeddings", True)
        config.flag("attention_bias", "attention_bias", False)
        config.count("window", "sliding_window", 4096)
        config.window()
        every = config.layers("sliding_window_pattern", 4)
        if config.value("layer_types") is None:
            config.put("layer_pattern", ("window",) * (every - 1) + ("full",), "sliding_window_pattern")
        for option, allowed in _AS_BUILT.items():
            config.expect(option, allowed)
        for costless in ("logit_scale", "position_embedding_type", "rotary_pct"):
            config.value(costless)


_AS_BUILT = {
    "layer_switch": 4,
    "order_of_interleaved_layers": "local_attn_first",
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_parallel_embedding": False,
    "use_qk_norm": False,
}
"""What files of the first release say beside transformers' own options."""
FAMILY = Cohere2()
