"""OLMo 2: norms behind attention and MLP instead of before them, and one norm over all heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import Decoder

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Olmo2(Decoder):
    """See `family.ModelFamily`."""

    name = "olmo2"
    torch_module = "tgsbench.training.model.olmo2"
    model_types: tuple[str, ...] = ("olmo2",)
    architecture = "Olmo2ForCausalLM"
    qk_norm = True
    norms_all_heads = True
    runs_last_again = True
    """The norm behind the MLP keeps the result of its last product."""

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Olmo2ForCausalLM's config.json; a token for padding would not be trained."""
        own = {"attention_bias": shape.attention_bias, "pad_token_id": None, "eos_token_id": None}
        return super().config(shape, seq_len) | own

    def read_config(self, config: ConfigReader) -> None:
        """A bias where the file says so."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)


FAMILY = Olmo2()
