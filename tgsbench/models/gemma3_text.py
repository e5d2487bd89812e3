"""Gemma 3: five windowed layers to a full one, four norms a layer and norms on q and k."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder, read_sizes

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import LayerKind, ModelShape


class Gemma3(Decoder):
    """See `family.ModelFamily`."""

    name = "gemma3_text"
    torch_module = "tgsbench.training.model.gemma3_text"
    model_types = ("gemma3_text",)
    architecture = "Gemma3ForCausalLM"
    default_pattern: tuple[LayerKind, ...] = ("window",) * 5 + ("full",)
    norms_per_layer = 4
    qk_norm = True
    runs_last_again = True
    """The norm behind the MLP keeps the result of its last product."""

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Gemma3ForCausalLM's config.json; attention scores are scaled by the head's width."""
        settings = super().config(shape, seq_len)
        del settings["hidden_act"]
        return settings | {
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": shape.attention_bias,
            "sliding_window": shape.window or None,
            "layer_types": self.layer_types(shape),
            "query_pre_attn_scalar": shape.head_dim,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        }

    def read_config(self, config: ConfigReader) -> None:
        """Five layers with a window to a full one, unless the file names them."""
        config.use_defaults(_DEFAULTS)
        read_sizes(config)
        config.rope(1_000_000.0)
        read_gemma(config)
        every = config.layers("sliding_window_pattern", 6)
        if config.value("layer_types") is None:
            config.put("layer_pattern", ("window",) * (every - 1) + ("full",), "sliding_window_pattern")


def read_gemma(config: ConfigReader) -> None:
    """What Gemma 2 and 3 share; soft caps are off in training kernels, and it says so of a file with them."""
    config.expect("hidden_activation", "gelu_pytorch_tanh")
    config.expect("hidden_act", "gelu_pytorch_tanh")
    config.count("head_dim", "head_dim", 256)
    config.flag("tie_word_embeddings", "tie_word_embeddings", True)
    config.flag("attention_bias", "attention_bias", False)
    config.expect("use_bidirectional_attention", False)
    config.count("window", "sliding_window", 4096)
    config.window()
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        config.ignore(cap, "soft caps are off in training kernels, and here")


_DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
}
"""Those of transformers: the public files of 4B to 27B rely on them."""
FAMILY = Gemma3()
