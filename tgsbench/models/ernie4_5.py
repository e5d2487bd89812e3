"""ERNIE 4.5, dense: Llama whose RoPE turns neighbouring pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgsbench.models.decoder import Decoder
from tgsbench.models.family import NO_ORACLE

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader


class Ernie45(Decoder):
    """See `family.ModelFamily`."""

    name = "ernie4_5"
    model_types = ("ernie4_5",)
    untrained = NO_ORACLE
    architecture = "Ernie4_5ForCausalLM"

    def read_config(self, config: ConfigReader) -> None:
        """A bias on all products is refused: no public model has one; tied unless the file says otherwise."""
        super().read_config(config)
        config.count("head_dim", "head_dim", 128)
        config.flag("tie_word_embeddings", "tie_word_embeddings", True)
        config.expect("use_bias", False)


FAMILY = Ernie45()
