"""ERNIE 4.5, dense: Llama whose RoPE turns neighbouring pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Ernie45(Decoder):
    """See `family.ModelFamily`."""

    name = "ernie4_5"
    torch_module = "tgsbench.training.model.ernie4_5"
    model_types = ("ernie4_5",)
    architecture = "Ernie4_5ForCausalLM"

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Ernie4_5ForCausalLM's config.json; a token for padding would not be trained."""
        return super().config(shape, seq_len) | {"use_bias": False, "pad_token_id": None}

    def read_config(self, config: ConfigReader) -> None:
        """A bias on all products is refused: no public model has one; tied unless the file says otherwise."""
        super().read_config(config)
        config.count("head_dim", "head_dim", 128)
        config.flag("tie_word_embeddings", "tie_word_embeddings", True)
        config.expect("use_bias", False)


FAMILY = Ernie45()
