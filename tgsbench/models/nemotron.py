"""Nemotron 3 and 4, Minitron: LayerNorms, and an MLP of two matrices with a squared ReLU between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder, read_sizes, whole_rope
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Nemotron(Decoder):
    """See `family.ModelFamily`. Llama-Nemotron is Llama's, Nemotron-H another family."""

    name = "nemotron"
    model_types = ("nemotron",)
    untrained = NO_ORACLE
    architecture = "NemotronForCausalLM"
    norms_are_biased = True
    mlp_matrices = 2

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """NemotronForCausalLM's config.json; all of a head is turned, not a half of it."""
        return super().config(shape, seq_len) | {
            "hidden_act": "relu2",
            "attention_bias": shape.attention_bias,
            "norm_eps": shape.rms_norm_eps,
            "rope_parameters": whole_rope(shape),
        }

    def read_config(self, config: ConfigReader) -> None:
        """A bias of the MLP is refused."""
        config.expect("hidden_act", "relu2")
        read_sizes(config)
        config.real("rms_norm_eps", "norm_eps", 1e-5)
        config.flag("attention_bias", "attention_bias", False)
        config.expect("mlp_bias", False)


FAMILY = Nemotron()
