"""StarCoder2: LayerNorms, biases on all products, an MLP of two matrices, one window for all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder, read_sizes
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Starcoder2(Decoder):
    """See `family.ModelFamily`."""

    name = "starcoder2"
    model_types = ("starcoder2",)
    untrained = NO_ORACLE
    architecture = "Starcoder2ForCausalLM"
    norms_are_biased = True
    mlp_matrices = 2
    has_one_window = True

    def biases(self, shape: ModelShape) -> tuple[int, ...]:
        """Of all products, where the shape has them."""
        weights = self.attention(shape) + self.mlp(shape)
        return tuple(weight.out_width for weight in weights) * shape.attention_bias

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Starcoder2ForCausalLM's config.json; without dropout."""
        return super().config(shape, seq_len) | {
            "hidden_act": "gelu_pytorch_tanh",
            "use_bias": shape.attention_bias,
            "norm_epsilon": shape.rms_norm_eps,
            "sliding_window": shape.window or None,
            "residual_dropout": 0.0,
        }

    def read_config(self, config: ConfigReader) -> None:
        """A window of every layer, where there is one; dropout is left out."""
        config.expect("hidden_act", "gelu_pytorch_tanh")
        read_sizes(config)
        config.real("rms_norm_eps", "norm_epsilon", 1e-5)
        config.flag("attention_bias", "use_bias", True)
        config.flag("tie_word_embeddings", "tie_word_embeddings", True)
        config.expect("norm_type", "layer_norm")
        config.expect("mlp_type", "default")
        config.ignore("residual_dropout", "dropout is off")
        if config.value("sliding_window") is not None:
            config.count("window", "sliding_window")
            config.put("layer_pattern", ("window",), "sliding_window")


FAMILY = Starcoder2()
